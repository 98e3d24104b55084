package main

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
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/metrics"
	"github.com/sessapi/sessapi/internal/seal"
	"github.com/sessapi/sessapi/internal/state"
)

const (
	// joinTimeout is how long a node that has no ticket keys of its own waits for
	// Redis at its start, and joinRetry how often it asks.
	joinTimeout = 10 * time.Second
	joinRetry   = 250 * time.Millisecond
)

// joinFleet links the service to Redis. It returns where the ticket keys are.
func (s *service) joinFleet(c config.Config, sealKeys *seal.Keys, m *metrics.Metrics) (*fleet.KeyStore, error) {
	var err error
	if s.fleet, err = newNode(c, sealKeys, s.log); err != nil {
		return nil, err
	}
	s.onStop("link to Redis", func(context.Context) error { s.fleet.Close(); return nil })
	if s.sessions != nil {
		s.shared = s.fleet.Sessions(s.sessions, m.FleetRead)
	}
	m.AddFleet(s.fleet)
	ctx, cancel := context.WithTimeout(context.Background(), joinTimeout)
	defer cancel()
	for {
		err := s.fleet.Connect(ctx)
		if err == nil {
			break
		}
		if c.StateFile != "" && exists(c.StateFile) {
			s.log.Warn("Redis does not answer; starting with the ticket keys of the state file", "error", err.Error())
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("--redis: %w; without a state file there are no ticket keys to start with", err)
		case <-time.After(joinRetry):
		}
	}
	var local keys.Store
	if s.state != nil {
		local = s.state
	}
	return s.fleet.KeyStore(local), nil
}

// exists reports whether there is a file of that name. What cannot be told is
// left to who opens it.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// fleetStatus adds how the link to the other nodes is.
func (s *service) fleetStatus(status *api.Status) {
	stats := s.fleet.Stats()
	status.Fleet = &api.FleetStatus{
		Namespace: s.fleet.Namespace(), Connected: stats.Connected, Since: stats.Since.UTC(),
		NearHits: stats.NearHits, FarHits: stats.FarHits, Misses: stats.Misses,
	}
}

// flushing removes the sessions of the state file, too, which may have some from
// before the service was of a fleet.
type flushing struct {
	handlers.Sessions
	file *state.File
}

func (s flushing) Flush() (int, error) { return s.file.FlushSessions(s.Sessions.Flush) }

// newNode makes the link to Redis from the settings, without making a connection.
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

// redisTLS is how to know Redis, and what to show it; nil for the library's own.
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
		pair, err := tls.LoadX509KeyPair(c.RedisCert, c.RedisKey)
		if err != nil {
			return nil, fmt.Errorf("--redis-cert: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
