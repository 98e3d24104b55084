package handlers

import (
	"net/http"

	"github.com/sessapi/sessapi/internal/api"
)

// GetLivez implements [api.ServerInterface].
func (a *API) GetLivez(w http.ResponseWriter, _ *http.Request) {
	noStore(w)
	writeJSON(w, http.StatusOK, api.Health{Status: api.Ok, Checks: []api.HealthCheck{}})
}

// GetReadyz implements [api.ServerInterface].
func (a *API) GetReadyz(w http.ResponseWriter, _ *http.Request) {
	health := a.health()
	status := http.StatusOK
	if health.Status == api.Failing {
		status = http.StatusServiceUnavailable
	}
	noStore(w)
	writeJSON(w, status, health)
}

// health runs the health checks.
func (a *API) health() api.Health {
	server := api.HealthCheck{Name: "server", Status: api.Ok}
	if a.isDraining() {
		server.Status, server.Detail = api.Failing, new("draining")
	}
	health := api.Health{Status: server.Status, Checks: []api.HealthCheck{server}}
	for _, c := range a.cfg.Checks {
		check := api.HealthCheck{Name: c.Name, Status: api.Ok}
		if why := c.Degraded(); why != "" {
			check.Status, check.Detail = api.Degraded, &why
			if health.Status == api.Ok {
				health.Status = api.Degraded
			}
		}
		health.Checks = append(health.Checks, check)
	}
	return health
}
