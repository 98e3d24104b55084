package handlers

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/keys"
)

// errUnrecorded reports an operation that was not done because it could not be
// recorded.
var errUnrecorded = errors.New("cannot be recorded in the audit log")

// loggedMethod returns the method, shortened for the log: an unknown method can be as
// long as the header limit allows.
func loggedMethod(r *http.Request) string {
	const limit = 32 // bytes
	return r.Method[:min(len(r.Method), limit)]
}

// recordEvent records the event before the request acts. After an error it must not
// act.
func (a *API) recordEvent(w http.ResponseWriter, r *http.Request, e audit.Event) error {
	if a.cfg.Audit == nil {
		return nil
	}
	a.describe(w, r, &e)
	if err := a.cfg.Audit.Record(e); err != nil {
		return fmt.Errorf("%w: %w", errUnrecorded, err)
	}
	return nil
}

// recordExport records an export of ticket keys before they are sent. After an error
// they must not be sent.
func (a *API) recordExport(w http.ResponseWriter, r *http.Request, format keys.Format, set keys.Description) error {
	if a.cfg.Audit == nil {
		return nil
	}
	e := audit.Event{Format: format.String(), After: auditedKeys(set)}
	a.describe(w, r, &e)
	who := e.Identity
	if who == "" {
		who = auth.SourceOf(r).Network().String()
	}
	if err := a.cfg.Audit.Export(e, who); err != nil {
		return fmt.Errorf("%w: %w", errUnrecorded, err)
	}
	return nil
}

// recordDenial records that the request was rejected and why, which the client does not
// learn. The request is rejected even if this fails.
func (a *API) recordDenial(w http.ResponseWriter, r *http.Request, code api.ProblemCode, why error) {
	if a.cfg.Audit == nil {
		return
	}
	e := audit.Event{Code: string(code)}
	a.describe(w, r, &e)
	if failure, ok := errors.AsType[*auth.Error](why); ok {
		e.Reason, e.Identity = failure.Reason.String(), failure.Identity
	}
	if err := a.cfg.Audit.Deny(e, auth.SourceOf(r).Network().String()); err != nil {
		a.cfg.Log.ErrorContext(r.Context(), "cannot record a denial", "request_id", e.RequestID, "error", err.Error())
	}
}

// describe adds the request and its sender to an event.
func (a *API) describe(w http.ResponseWriter, r *http.Request, e *audit.Event) {
	e.Operation = loggedMethod(r)
	if route := chi.RouteContext(r.Context()); route != nil && route.RoutePattern() != "" {
		e.Operation += " " + route.RoutePattern()
		if id, err := cache.ParseID(route.URLParam("id")); err == nil {
			e.Session = a.cfg.Audit.Session(id.Bytes())
		}
	}
	e.Source = auth.SourceOf(r).String()
	e.RequestID = requestID(w, r)
	if a.cfg.Auth != nil {
		if identity, err := a.cfg.Auth.Identify(r); err == nil {
			e.Identity = identity.Name
		}
	}
}

// recordChange returns the [keys.Record] of the request. It also checks the permission
// again, because the body may have taken long to arrive. Its error stops the change.
func (a *API) recordChange(w http.ResponseWriter, r *http.Request) keys.Record {
	return func(before, after keys.Description, failure error) error {
		if failure == nil { // else the previous line is withdrawn, whatever the policy says now
			if _, err := a.permitAgain(r, auth.KeyPublish); err != nil {
				return err
			}
		}
		return a.recordEvent(w, r, KeyChange(before, after, failure))
	}
}

// KeyChange is the audit event of a change of the ticket keys. See [keys.Record].
func KeyChange(before, after keys.Description, failure error) audit.Event {
	e := audit.Event{Outcome: audit.Applied, Before: auditedKeys(before), After: auditedKeys(after)}
	if failure != nil {
		e.Outcome, e.Detail = audit.Failed, "the change before this line could not be stored and was not made"
	}
	return e
}

// auditedKeys converts a description for the audit log; nil for the zero value.
func auditedKeys(d keys.Description) *audit.Keys {
	if d.Generation == 0 {
		return nil
	}
	k := &audit.Keys{Generation: d.Generation, Fingerprints: make([]string, len(d.Keys))}
	for i, key := range d.Keys {
		k.Fingerprints[i] = key.Fingerprint
	}
	return k
}
