package handlers

import (
	"net/http"

	"github.com/sessapi/sessapi/internal/api"
)

// checkClientCertificate drops a client certificate that is no longer trusted. If a
// certificate is required, it rejects TLS requests without one, except health checks:
// probes have no certificate.
func (a *API) checkClientCertificate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = a.withTrustedCertificate(r)
		isHealth := r.URL.Path == "/livez" || r.URL.Path == "/readyz"
		if a.lacksCertificate(r) && !isHealth {
			a.fail(w, r, &problem{code: api.ProblemCodeUnauthenticated})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// withTrustedCertificate returns the request without its client certificate if that is
// no longer trusted: the handshake of a long-lived connection may be old.
func (a *API) withTrustedCertificate(r *http.Request) *http.Request {
	if a.cfg.TrustsClient == nil || r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || a.cfg.TrustsClient(r.TLS.VerifiedChains) {
		return r
	}
	state := *r.TLS // all requests of the connection share it
	state.VerifiedChains = nil
	r = r.WithContext(r.Context())
	r.TLS = &state
	return r
}

// lacksCertificate reports whether a client certificate is required and the request has
// none that was verified and is still valid.
func (a *API) lacksCertificate(r *http.Request) bool {
	return a.cfg.RequireClientCertificate && r.TLS != nil &&
		(len(r.TLS.VerifiedChains) == 0 || a.cfg.Now().After(r.TLS.VerifiedChains[0][0].NotAfter))
}
