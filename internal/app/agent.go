package app

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/sessapi/sessapi/internal/agent"
	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/metrics"
	"github.com/sessapi/sessapi/internal/server"
)

// CheckAgent checks the configuration of an agent.
func CheckAgent(path string) error {
	_, _, err := loadAgent(path)
	return err
}

// loadAgent reads the configuration of an agent, and its listen address if it has
// one. The error is [config.Problems].
func loadAgent(path string) (*agent.Config, config.Address, error) {
	var address config.Address
	c, err := agent.LoadConfig(path)
	if err == nil && c.Listen != "" {
		if err = address.UnmarshalText([]byte(c.Listen)); err != nil {
			err = fmt.Errorf("%s: listen: %q %w", path, c.Listen, err)
		}
	}
	if err != nil {
		return nil, address, config.Problems{{Text: err.Error()}}
	}
	return c, address, nil
}

// RunAgentOnce makes each target hold the current keys of the service, and returns.
func RunAgentOnce(ctx context.Context, path string, log *slog.Logger) error {
	c, _, err := loadAgent(path)
	if err != nil {
		return err
	}
	a, err := agent.New(c, 0, log)
	if err != nil {
		return err
	}
	return a.Once(ctx)
}

// RunAgent runs an agent until ctx ends. A signal from reload reloads the configuration;
// a broken one changes nothing.
func RunAgent(ctx context.Context, path, version string, reload <-chan os.Signal, log *slog.Logger) error {
	c, address, err := loadAgent(path)
	if err != nil {
		return err
	}
	a, err := agent.New(c, 0, log)
	if err != nil {
		return err
	}
	var running atomic.Pointer[agent.Agent]
	running.Store(a)
	failed := make(chan error, 1)
	if c.Listen != "" {
		s, err := listenAgent(address, agentHandler(version, running.Load), log)
		if err != nil {
			return err
		}
		go func() { failed <- s.Serve() }()
		defer func() {
			stopping, cancel := context.WithTimeout(context.Background(), closeTimeout)
			defer cancel()
			_ = s.Stop(stopping) // at worst a scrape is cut off
		}()
	}
	log.Info("agent is running", "version", version, "name", c.Name, "targets", len(c.Targets))
	for {
		targets, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { a.Run(targets); close(done) }()
		var next *agent.Agent
		for next == nil && err == nil && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case err = <-failed:
			case <-reload:
				next = reloadAgent(path, c.Listen, a, log)
			}
		}
		cancel()
		<-done
		if next == nil {
			log.Info("agent stopped; the servers keep their keys")
			return err
		}
		a = next
		running.Store(a)
	}
}

// reloadAgent returns an agent with the current configuration, or nil if it is broken.
func reloadAgent(path, listen string, a *agent.Agent, log *slog.Logger) *agent.Agent {
	c, _, err := loadAgent(path)
	var next *agent.Agent
	if err == nil {
		next, err = agent.New(c, a.Floor(), log)
	}
	if err != nil {
		log.Error("reload failed; keeping the previous configuration", "error", err.Error())
		return nil
	}
	if c.Listen != listen {
		log.Warn("listen takes effect at the next start", "listen", c.Listen)
	}
	log.Info("configuration reloaded", "targets", len(c.Targets))
	return next
}

func listenAgent(address config.Address, handler http.Handler, log *slog.Logger) (*server.Server, error) {
	s, err := server.Listen(server.Config{
		Network: address.Network, Address: address.Address, SocketMode: 0o600,
		Handler: handler, MaxConnections: opsConnections, WriteTimeout: writeTimeout, Log: log,
	})
	if err == nil {
		log.Info("listening", "name", "agent", "address", s.Addr().String())
	}
	return s, err
}

// agentHandler serves metrics and health of the running agent.
func agentHandler(version string, running func() *agent.Agent) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.NewAgent(version, running).Handler())
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeHealth(w, api.Health{Status: api.Ok, Checks: []api.HealthCheck{}})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { writeHealth(w, agentHealth(running())) })
	return mux
}

// agentHealth fails while a target does, and before there are keys.
func agentHealth(a *agent.Agent) api.Health {
	health := api.Health{Status: api.Ok}
	add := func(name, why string) {
		check := api.HealthCheck{Name: name, Status: api.Ok}
		if why != "" {
			check.Status, check.Detail, health.Status = api.Failing, &why, api.Failing
		}
		health.Checks = append(health.Checks, check)
	}
	why := ""
	if a.Figures().Generation == 0 {
		why = "no keys from the service yet"
	}
	add("keys", why) // not the service: while it is away, the servers keep their keys
	for _, s := range a.Status() {
		why := ""
		if s.State == agent.Failed {
			why = s.Detail
		}
		add("target "+s.Name, why)
	}
	return health
}

func writeHealth(w http.ResponseWriter, health api.Health) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if health.Status == api.Failing {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(health) // the client may be gone
}
