package handlers

import (
	"net/http"

	"github.com/sessapi/sessapi/internal/auth"
)

// authorize lets a request through to next when its identity may have the route.
// It comes before everything that costs something, and before the body is read.
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

// authorizeAgain is authorize for a request that was let in and has waited: the
// policy or the trusted certificates may have changed meanwhile, or a token expired.
func (a *API) authorizeAgain(permit auth.Roles, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := a.permitAgain(r, permit); err != nil {
			a.fail(w, r, err)
			return
		}
		next(w, r)
	}
}

// permitAgain returns why the request that was let in may not have it any more.
func (a *API) permitAgain(r *http.Request, permit auth.Roles) error {
	r = a.withTrustedCertificate(r)
	if a.lacksCertificate(r) {
		return auth.ErrUnauthenticated
	}
	if a.cfg.Auth == nil {
		return nil
	}
	identity, err := a.cfg.Auth.Identify(r)
	if err == nil && !identity.Roles.Permit(permit) {
		err = auth.ErrForbidden
	}
	return err
}

// needs is the roles of which the request needs one.
func (rt route) needs(r *http.Request) auth.Roles {
	if rt.asksSecret != nil && rt.asksSecret(r) {
		return rt.secret
	}
	return rt.permit
}

// asksSessionBytes reports whether the answer might be the bytes of a session or
// what only they tell. It offers more than there may be of the session: what
// Accept prefers to the description of all of them, it prefers to that of some.
// A request that cannot be understood gets nothing, whoever it is from.
func asksSessionBytes(r *http.Request) bool {
	mediaType, err := negotiate(r, opensslRepresentations...)
	return err == nil && mediaType != mediaJSON || r.URL.RawQuery != "" && r.URL.Query().Has("max_bytes")
}

// asksKeyBytes reports whether the answer might be the bytes of ticket keys.
func asksKeyBytes(r *http.Request) bool {
	return r.URL.RawQuery != "" && r.URL.Query().Has("format")
}
