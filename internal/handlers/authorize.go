package handlers

import (
	"net/http"

	"github.com/sessapi/sessapi/internal/auth"
)

// authorize passes a request to next if its identity has a role for the route. It runs
// before all expensive work and before the body is read.
func (a *API) authorize(rt route, next http.HandlerFunc) http.HandlerFunc {
	if rt.permit == auth.Anyone { // documentation and health
		return next
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if fromOtherSite(r) {
			a.fail(w, r, errForeignPage)
			return
		}
		if a.cfg.Auth == nil {
			next(w, r)
			return
		}
		identity, err := a.cfg.Auth.Authenticate(r)
		if err == nil && !identity.Roles.Permit(rt.needs(r)) {
			err = auth.ErrForbidden
		}
		if err != nil {
			a.fail(w, r, err)
			return
		}
		next(w, r)
	}
}

// authorizeAgain authorizes a request again after it has waited: meanwhile the policy
// or the trusted certificates may have changed, or the token may have expired.
func (a *API) authorizeAgain(permit auth.Roles, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, err := a.permitAgain(r, permit); err != nil {
			a.fail(w, r, err)
			return
		}
		next(w, r)
	}
}

// permitAgain returns the identity of the request now, nil without a policy, or an error if
// the request is no longer permitted.
func (a *API) permitAgain(r *http.Request, permit auth.Roles) (*auth.Identity, error) {
	r = a.withTrustedCertificate(r)
	if a.lacksCertificate(r) {
		return nil, auth.ErrUnauthenticated
	}
	if a.cfg.Auth == nil {
		return nil, nil
	}
	identity, err := a.cfg.Auth.Identify(r)
	if err == nil && !identity.Roles.Permit(permit) {
		err = auth.ErrForbidden
	}
	return identity, err
}

// needs returns the roles that permit the request. One of them is enough.
func (rt route) needs(r *http.Request) auth.Roles {
	if rt.asksSecret != nil && rt.asksSecret(r) {
		return rt.secret
	}
	return rt.permit
}

// asksSessionBytes reports whether the response may contain bytes of the session, or
// details that only they reveal. It negotiates among all representations: a client that
// prefers bytes to the description among fewer does so here, too. A request that fails
// the negotiation gets nothing, under any identity.
func asksSessionBytes(r *http.Request) bool {
	mediaType, err := negotiate(r, opensslRepresentations...)
	return err == nil && mediaType != mediaJSON || r.URL.RawQuery != "" && r.URL.Query().Has("max_bytes")
}

// asksKeyBytes reports whether the response may contain ticket keys.
func asksKeyBytes(r *http.Request) bool {
	return r.URL.RawQuery != "" && r.URL.Query().Has("format")
}
