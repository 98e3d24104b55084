package handlers

import (
	"net/http"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/consumers"
)

// GetStatus implements [api.ServerInterface].
func (a *API) GetStatus(w http.ResponseWriter, r *http.Request) {
	if _, err := negotiate(r, mediaJSON); err != nil {
		a.fail(w, r, err)
		return
	}
	status := api.Status{
		Version:       a.cfg.Version,
		StartedAt:     a.started.UTC(),
		UptimeSeconds: int64(a.cfg.Now().Sub(a.started) / time.Second),
		Health:        a.health(),
		Cache:         a.cacheStatus(),
		TicketKeys:    describeKeys(a.cfg.Ring.Description()),
		TicketKeyFile: a.keyFileStatus(),
		Consumers:     a.consumersStatus(),
	}
	for _, add := range a.cfg.Status {
		add(&status)
	}
	identity, err := a.permitAgain(r, auth.Observe) // the policy may have changed meanwhile
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if identity != nil {
		status.Identity = &api.Identity{Name: identity.Name}
		for _, name := range identity.Roles.Names() {
			status.Identity.Roles = append(status.Identity.Roles, api.IdentityRoles(name))
		}
	}
	noStore(w)
	writeJSON(w, http.StatusOK, status)
}

func (a *API) cacheStatus() api.CacheStatus {
	if a.cfg.Cache == nil {
		return api.CacheStatus{Enabled: false}
	}
	s := a.cfg.Cache.Stats()
	status := api.CacheStatus{
		Enabled:        true,
		Entries:        new(int64(s.Entries)),
		Bytes:          new(s.Bytes),
		CapacityBytes:  new(s.Capacity),
		MemoryLocked:   new(a.cfg.Cache.Locked()),
		MemoryDumpable: new(a.cfg.Cache.Dumpable()),
		Hits:           &s.Hits,
		Misses:         &s.Misses,
		Stored:         &s.Stored,
		Replaced:       &s.Replaced,
		Removed:        &s.Removed,
		Expired:        &s.Expired,
		Flushed:        &s.Flushed,
		Evicted:        new(s.Evicted.Memory + s.Evicted.Sessions),
	}
	if s.MaxSessions != 0 {
		status.MaxSessions = new(int64(s.MaxSessions))
	}
	return status
}

func (a *API) consumersStatus() api.ConsumersStatus {
	count := consumers.Count(a.cfg.Consumers.List(a.cfg.Ring.Description()))
	status := api.ConsumersStatus{
		Current: count[consumers.Current], Stale: count[consumers.Stale], Applying: count[consumers.Applying],
		Failed: count[consumers.Failed], Missing: count[consumers.Missing],
	}
	if activation := a.cfg.Ring.Activation(); activation != nil {
		status.Activation = &api.ActivationStatus{Waiting: activation.Waiting != nil, Timeouts: activation.Timeouts}
		if held := activation.Waiting; held != nil {
			status.Activation.Behind = new(append([]string{}, held.Behind...))
			status.Activation.Until = new(held.Until.UTC())
		}
	}
	return status
}

func (a *API) keyFileStatus() *api.TicketKeyFileStatus {
	if a.cfg.KeyFile == nil {
		return nil
	}
	s := a.cfg.KeyFile.Status()
	status := &api.TicketKeyFileStatus{Path: s.Path, LoadedAt: s.LoadedAt.UTC(), Failures: s.Failures}
	if s.LastError != "" {
		status.LastError = &s.LastError
		status.FailedAt = new(s.FailedAt.UTC())
	}
	return status
}

// GetMetrics implements [api.ServerInterface].
func (a *API) GetMetrics(w http.ResponseWriter, r *http.Request) {
	a.cfg.Metrics.ServeHTTP(w, r)
}
