package handlers

import (
	"net/http"
	"time"

	"github.com/sessapi/sessapi/internal/api"
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
		Cache:         a.cacheStatus(),
		TicketKeys:    describeKeys(a.cfg.Ring.Description()),
		TicketKeyFile: a.keyFileStatus(),
		Fleet:         a.fleetStatus(),
	}
	if a.cfg.State != nil {
		status.StateFile = &api.StateFileStatus{Failing: a.cfg.State.Failing()}
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

func (a *API) fleetStatus() *api.FleetStatus {
	if a.cfg.Fleet == nil {
		return nil
	}
	s := a.cfg.Fleet.Stats()
	return &api.FleetStatus{
		Namespace: a.cfg.Fleet.Namespace(), Connected: s.Connected, Since: s.Since.UTC(),
		NearHits: s.NearHits, FarHits: s.FarHits, Misses: s.Misses,
	}
}

// GetLivez implements [api.ServerInterface].
func (a *API) GetLivez(w http.ResponseWriter, _ *http.Request) {
	noStore(w)
	writeJSON(w, http.StatusOK, api.Health{Status: api.Ok, Checks: []api.HealthCheck{}})
}

// GetReadyz implements [api.ServerInterface].
func (a *API) GetReadyz(w http.ResponseWriter, _ *http.Request) {
	server := api.HealthCheck{Name: "server", Status: api.Ok}
	if a.isDraining() {
		server.Status, server.Detail = api.Failing, new("draining")
	}
	health := api.Health{Status: server.Status, Checks: []api.HealthCheck{server}}
	if a.cfg.KeyFile != nil {
		file := api.HealthCheck{Name: "ticket_key_file", Status: api.Ok}
		if s := a.cfg.KeyFile.Status(); s.LastError != "" {
			file.Status, file.Detail = api.Degraded, new("cannot be taken; the keys from before stay active")
			if health.Status == api.Ok {
				health.Status = api.Degraded
			}
		}
		health.Checks = append(health.Checks, file)
	}
	if a.cfg.Fleet != nil {
		link := api.HealthCheck{Name: "fleet", Status: api.Ok}
		s := a.cfg.Fleet.Stats()
		if s.Refusing {
			link.Status, link.Detail = api.Degraded, new("Redis refuses writes, or its ticket keys do not open; the log has the cause")
		}
		if !s.Connected {
			link.Status = api.Degraded
			link.Detail = new("Redis does not answer since " + s.Since.UTC().Format(time.RFC3339) + "; writes are refused, ticket keys stay")
		}
		if link.Status == api.Degraded && health.Status == api.Ok {
			health.Status = api.Degraded
		}
		health.Checks = append(health.Checks, link)
	}
	if a.cfg.Audit != nil {
		log := api.HealthCheck{Name: "audit_log", Status: api.Ok}
		if a.cfg.Audit.Failing() {
			log.Status, log.Detail = api.Degraded, new("cannot be written; ticket keys neither change nor leave")
			if health.Status == api.Ok {
				health.Status = api.Degraded
			}
		}
		health.Checks = append(health.Checks, log)
	}
	if a.cfg.State != nil {
		file := api.HealthCheck{Name: "state_file", Status: api.Ok}
		if a.cfg.State.Failing() {
			file.Status, file.Detail = api.Degraded, new("could not be saved; a restart may go on from an older state")
			if health.Status == api.Ok {
				health.Status = api.Degraded
			}
		}
		health.Checks = append(health.Checks, file)
	}
	status := http.StatusOK
	if health.Status == api.Failing {
		status = http.StatusServiceUnavailable
	}
	noStore(w)
	writeJSON(w, status, health)
}

// GetMetrics implements [api.ServerInterface].
func (a *API) GetMetrics(w http.ResponseWriter, r *http.Request) {
	a.cfg.Metrics.ServeHTTP(w, r)
}
