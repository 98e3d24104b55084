package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/fleet"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/metrics"
	"github.com/sessapi/sessapi/internal/seal"
)

const (
	// joinTimeout is how long a node that has no ticket keys of its own waits for
	// Redis at its start, and joinRetry how often it asks.
	joinTimeout = 10 * time.Second
	joinRetry   = 250 * time.Millisecond
)

// joinFleet links the service to Redis. It returns where the ticket keys are.
func (s *service) joinFleet(c config.Config, sealKeys *seal.Keys, m *metrics.Metrics) (*fleet.KeyStore, error) {
	tlsConfig, err := redisTLS(c)
	if err != nil {
		return nil, err
	}
	s.fleet, err = fleet.New(fleet.Config{
		URL: c.Redis, AuthFile: c.RedisAuthFile, TLS: tlsConfig,
		Namespace: c.Namespace, ReadTimeout: c.RedisReadTimeout, MaxStale: c.RedisMaxStale,
		Seal: sealKeys, Log: s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("--redis: %w", err)
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
		if err == nil || s.state != nil { // whose keys will do for a start
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("--redis: %w; without --state-file there are no ticket keys to start with", err)
		case <-time.After(joinRetry):
		}
	}
	var local keys.Store
	if s.state != nil {
		local = s.state
	}
	return s.fleet.KeyStore(local), nil
}

// redisTLS is how to know Redis, and what to show it; nil for the library's own.
func redisTLS(c config.Config) (*tls.Config, error) {
	if c.RedisCA == "" && c.RedisCert == "" {
		return nil, nil
	}
	t := new(tls.Config)
	if c.RedisCA != "" {
		pem, _, err := files.Read(c.RedisCA, maxPEM)
		if err != nil {
			return nil, fmt.Errorf("--redis-ca %s: %w", c.RedisCA, err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("--redis-ca has no certificate in it")
		}
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
