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

// errUnrecorded reports what was not done because it could not be recorded.
var errUnrecorded = errors.New("cannot be recorded in the audit log")

// loggedMethod is as much of the method as is logged and recorded: one that no route
// has may be as long as headers may.
func loggedMethod(r *http.Request) string {
	const limit = 32 // bytes
	return r.Method[:min(len(r.Method), limit)]
}

// recordEvent records what the request is about to do. On an error it must not.
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

// recordExport records that the request is about to be sent the keys of a set. On an
// error it must not.
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

// recordDenial records that the request was refused, which it is in any case, and what
// was wrong with its credentials, which the client is not told.
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

// describe says in an event what the request is and who it is from.
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

// recordChange records changes of the ticket keys that the request makes. Its
// error stops them, also that the policy no longer permits them: the body may have
// taken its time.
func (a *API) recordChange(w http.ResponseWriter, r *http.Request) keys.Record {
	return func(before, after keys.Description, failure error) error {
		if failure == nil { // else the line before is to be taken back, whoever may do what by now
			if err := a.permitAgain(r, auth.KeyPublish); err != nil {
				return err
			}
		}
		return a.recordEvent(w, r, KeyChange(before, after, failure))
	}
}

// KeyChange is the event of a change of the ticket keys, for [keys.Record].
func KeyChange(before, after keys.Description, failure error) audit.Event {
	e := audit.Event{Outcome: audit.Applied, Before: auditedKeys(before), After: auditedKeys(after)}
	if failure != nil {
		e.Outcome, e.Detail = audit.Failed, "the change before this line could not be stored and was not made"
	}
	return e
}

// auditedKeys is a set as the audit log has it; nil for the zero value, which is
// none.
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
