package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/fleet"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/metrics"
	"github.com/sessapi/sessapi/internal/seal"
)

const (
	// joinTimeout is how long a node without ticket keys waits for Redis at startup.
	// joinRetry is how often it tries.
	joinTimeout = 10 * time.Second
	joinRetry   = 250 * time.Millisecond
	// settleTimeout is how long a node without ticket keys waits for others to put
	// theirs into an empty Redis.
	settleTimeout = 30 * time.Second
)

// openFleet connects the service to Redis.
func openFleet(a *App) (part, error) {
	if a.cfg.Redis == "" {
		return part{}, nil
	}
	node, err := newNode(a.cfg, a.sealKeys, a.log)
	if err != nil {
		return part{}, err
	}
	a.fleet = node
	if a.handlers.Cache != nil {
		a.handlers.Sessions = node.Sessions(a.handlers.Cache, a.handlers.Events, a.metrics.FleetRead)
	}
	a.handlers.Consumers = node.Consumers()
	p := part{
		name: "fleet",
		run:  func(ctx context.Context) { node.Run(ctx, a.handlers.Ring.Refresh) },
		stop: func(context.Context) error { node.Close(); return nil },

		health: node.Health,
		status: func(status *api.Status) {
			s := node.Stats()
			status.Fleet = &api.FleetStatus{
				Namespace: node.Namespace(), Connected: s.Connected, Since: s.Since.UTC(),
				LocalHits: s.LocalHits, RemoteHits: s.RemoteHits, Misses: s.Misses, Nodes: []api.FleetNode{},
			}
		},
		metrics: func(m *metrics.Metrics) { m.AddFleet(node) },
	}
	if err := a.connect(node); err != nil {
		return p, fmt.Errorf("--redis: %w; the service starts without Redis only if it has a state file", err)
	}
	var local keys.Store
	if a.state != nil {
		local = a.state
	}
	a.keyStore = node.KeyStore(local)
	return p, nil
}

// openRoster enters the node in the list of the fleet's nodes.
func openRoster(a *App) (part, error) {
	if a.fleet == nil {
		return part{}, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return part{}, fmt.Errorf("--redis: the host name: %w", err)
	}
	roster := a.fleet.Roster(func() fleet.Member {
		return fleet.Member{
			Host: host, Listen: a.cfg.Listen.String(), Version: a.handlers.Version,
			Generation: a.handlers.Ring.Description().Generation,
		}
	})
	return part{name: "fleet_roster", run: roster.Run, status: func(status *api.Status) {
		for _, m := range roster.List() {
			status.Fleet.Nodes = append(status.Fleet.Nodes, api.FleetNode{
				Host: m.Host, Listen: m.Listen, Version: m.Version, Generation: m.Generation,
				SeenAt: m.SeenAt.UTC(), Missing: m.Missing,
			})
		}
	}}, nil
}

// connect waits for Redis, unless there is a state file to start from.
func (a *App) connect(node *fleet.Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), joinTimeout)
	defer cancel()
	for {
		err := node.Connect(ctx)
		if err == nil {
			return nil
		}
		if a.cfg.StateFile != "" && exists(a.cfg.StateFile) {
			a.log.Warn("Redis does not answer; starting with the ticket keys of the state file", "error", err.Error())
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(joinRetry):
		}
	}
}

// exists reports whether the file exists. If that is unknown, opening it will tell.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// newNode creates the link to Redis from the settings, without connecting.
func newNode(c config.Config, sealKeys *seal.Keys, log *slog.Logger) (*fleet.Node, error) {
	tlsConfig, err := redisTLS(c)
	if err != nil {
		return nil, err
	}
	for name, path := range map[string]string{"Redis password": c.RedisAuthFile, "Redis client key": c.RedisKey} {
		if info, err := os.Stat(path); path != "" && err == nil {
			files.WarnLoose(log, name, path, info.Mode(), files.Secret)
		}
	}
	node, err := fleet.New(fleet.Config{
		URL: c.Redis, AuthFile: c.RedisAuthFile, TLS: tlsConfig,
		Namespace: c.Namespace, ReadTimeout: c.RedisReadTimeout, MaxStale: c.RedisMaxStale,
		Seal: sealKeys, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("--redis: %w", err)
	}
	return node, nil
}

// redisTLS returns the TLS settings for Redis; nil for the library's own.
func redisTLS(c config.Config) (*tls.Config, error) {
	if c.RedisCA == "" && c.RedisCert == "" {
		return nil, nil
	}
	t := new(tls.Config)
	if c.RedisCA != "" {
		certs, err := files.ReadCertificates(c.RedisCA)
		if err != nil {
			return nil, fmt.Errorf("--redis-ca: %s: %w", c.RedisCA, err)
		}
		t.RootCAs = files.Pool(certs)
	}
	if c.RedisCert != "" {
		pair, err := files.ReadKeyPair(c.RedisCert, c.RedisKey)
		if err != nil {
			return nil, fmt.Errorf("--redis-cert: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
