package handlers

import (
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/consumers"
)

// maxReportBody is more than any report needs, white space aside.
const maxReportBody = 4 << 10

// ListConsumers implements [api.ServerInterface].
func (a *API) ListConsumers(w http.ResponseWriter, r *http.Request, params api.ListConsumersParams) {
	if params.State != nil && !params.State.Valid() {
		a.fail(w, r, invalidRequest("state: must be one of %v", consumers.States()))
		return
	}
	if _, err := negotiate(r, mediaJSON); err != nil {
		a.fail(w, r, err)
		return
	}
	active := a.cfg.Ring.Description()
	out := api.Consumers{Generation: active.Generation, Consumers: []api.Consumer{}}
	for _, c := range a.cfg.Consumers.List(active) {
		if params.State == nil || *params.State == api.ConsumerState(c.State) {
			out.Consumers = append(out.Consumers, describeConsumer(c))
		}
	}
	noStore(w)
	writeJSON(w, http.StatusOK, out)
}

func describeConsumer(c consumers.Consumer) api.Consumer {
	out := api.Consumer{
		Name: c.Name, Kind: c.Kind, Generation: c.Generation, Behind: c.Behind, State: api.ConsumerState(c.State),
		ReportedAt: c.ReportedAt.UTC(), Since: c.Since.UTC(), ExpiresAt: c.ExpiresAt.UTC(),
	}
	if c.Identity != "" {
		out.Identity = &c.Identity
	}
	if c.Detail != "" {
		out.Detail = &c.Detail
	}
	return out
}

// ReportConsumer implements [api.ServerInterface].
func (a *API) ReportConsumer(w http.ResponseWriter, r *http.Request, host, target string) {
	if err := a.reportConsumer(w, r, host, target); err != nil {
		a.fail(w, r, err)
		return
	}
	noStore(w)
	w.WriteHeader(http.StatusNoContent)
}

func (a *API) reportConsumer(w http.ResponseWriter, r *http.Request, host, target string) error {
	name, err := consumers.MakeName(host, target)
	if err != nil {
		return err
	}
	if _, err := bodyType(r, mediaJSON); err != nil {
		return err
	}
	body, err := readBody(make([]byte, 0, maxReportBody+1), w, r, maxReportBody, invalidRequest("The body is larger than a report."))
	if err != nil {
		return err
	}
	// Pointers distinguish missing members from zeros.
	var request struct {
		Kind             *string                  `json:"kind"`
		Generation       *uint64                  `json:"generation"`
		State            *api.ConsumerReportState `json:"state"`
		Detail           string                   `json:"detail"`
		ExpiresInSeconds *int64                   `json:"expires_in_seconds"`
	}
	if err := decodeJSON(body, &request); err != nil {
		return err
	}
	if request.Kind == nil || request.Generation == nil || request.State == nil || request.ExpiresInSeconds == nil {
		return invalidRequest("kind, generation, state and expires_in_seconds are required")
	}
	report := consumers.Report{
		Kind: *request.Kind, Generation: *request.Generation, State: consumers.State(*request.State), Detail: request.Detail,
		ExpiresIn: time.Duration(min(max(*request.ExpiresInSeconds, 0), math.MaxInt32)) * time.Second,
	}
	identity := ""
	if a.cfg.Auth != nil {
		i, err := a.cfg.Auth.Identify(r)
		if err != nil { // the policy may have changed since the request was authorized
			return err
		}
		identity = i.Name
	}
	if err := a.admit(w); err != nil {
		return err
	}
	return a.cfg.Consumers.Put(r.Context(), name, identity, report)
}

// ForgetConsumer implements [api.ServerInterface].
func (a *API) ForgetConsumer(w http.ResponseWriter, r *http.Request, host, target string) {
	if err := a.forgetConsumer(w, r, host, target); err != nil {
		a.fail(w, r, err)
		return
	}
	noStore(w)
	w.WriteHeader(http.StatusNoContent)
}

func (a *API) forgetConsumer(w http.ResponseWriter, r *http.Request, host, target string) error {
	name, err := consumers.MakeName(host, target)
	if err != nil {
		return err
	}
	if !a.cfg.Consumers.Has(name) {
		return consumers.ErrNotFound
	}
	if err := a.recordEvent(w, r, audit.Event{Outcome: audit.Applied, Detail: name}); err != nil {
		return err
	}
	if err = a.cfg.Consumers.Delete(r.Context(), name); err != nil {
		err = errors.Join(err, a.recordEvent(w, r, audit.Event{Outcome: audit.Failed, Detail: name}))
	}
	return err
}
