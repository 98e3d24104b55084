package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/fleet"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/metrics"
	"github.com/sessapi/sessapi/internal/seal"
	"github.com/sessapi/sessapi/internal/server"
	"github.com/sessapi/sessapi/internal/state"
)

const (
	// What an answer may take to be sent; a profile takes as long as it was asked to.
	writeTimeout    = 30 * time.Second
	opsWriteTimeout = 2 * time.Minute
	// opsConnections may be open on the operations listener.
	opsConnections = 256
	// drainTimeout bounds how long requests may take to finish once the
	// service is to stop. Kubernetes kills after 30 s by default.
	drainTimeout = 20 * time.Second
)

type serveCommand struct {
	config.Config
}

// Run serves until the process is to stop.
func (c serveCommand) Run(env environment) error {
	log := newLogger(env.stderr, c.LogLevel, c.LogFormat)
	if c.Dumpable {
		log.Warn("debuggers and core dumps can read the secrets of this process: --dumpable")
	}
	s, err := newService(c.Config, log)
	if err != nil {
		return err
	}
	s.start(env.reload)
	select {
	case <-env.ctx.Done():
		log.Info("stopping")
	case err = <-s.failed:
	}
	return errors.Join(err, s.stop())
}

// service is everything that runs. It listens from newService on, serves from
// start on, and stop ends it.
type service struct {
	log       *slog.Logger
	api       *handlers.API
	ring      *keys.Ring
	keyFile   *keys.File      // nil without one
	sessions  *cache.Cache    // nil without one
	state     *state.File     // nil without one
	fleet     *fleet.Node     // nil without one
	shared    *fleet.Sessions // nil without fleet or sessions
	tls       *server.TLS     // nil without it
	policy    *auth.File      // nil without one
	audit     *audit.Log      // nil without one
	listeners []*server.Server
	failed    chan error // a server that stopped by itself
	teardowns []teardown
}

// teardown undoes one step of building a service, before ctx ends if it can.
type teardown struct {
	name string
	do   func(ctx context.Context) error
}

func (s *service) onStop(name string, do func(ctx context.Context) error) {
	s.teardowns = append(s.teardowns, teardown{name, do})
}

// newService builds the service and binds its listeners. After an error nothing
// is left behind.
func newService(c config.Config, log *slog.Logger) (s *service, err error) {
	s = &service{log: log, failed: make(chan error, 3)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
			s = nil
		}
	}()

	m := metrics.New(version())
	if c.AuditLog != "" {
		if s.audit, err = audit.Open(c.AuditLog); err != nil {
			return s, fmt.Errorf("--audit-log: %w", err)
		}
		if info, err := os.Stat(c.AuditLog); c.AuditLog != audit.Stderr && err == nil && info.Mode().IsRegular() {
			files.WarnLoose(log, "audit log", c.AuditLog, info.Mode(), files.Trusted)
		}
		s.onStop("audit log", func(context.Context) error { return s.audit.Close() })
		m.AddAudit(s.audit)
	}
	var sealKeys *seal.Keys
	if c.SealKeyFile != "" {
		if sealKeys, err = readSealKeys(c, log); err != nil {
			return s, err
		}
	}
	if c.StateFile != "" {
		if s.state, err = state.Open(c.StateFile, sealKeys, log); err != nil {
			return s, fmt.Errorf("--state-file: %w", err)
		}
		s.onStop("state file", func(context.Context) error { return s.state.Close() })
		m.AddState(s.state)
	}
	if c.Cache {
		if err := s.openCache(c, m); err != nil {
			return s, err
		}
	}
	var store keys.Store
	clock := time.Now
	if s.state != nil {
		store = s.state
	}
	if c.Redis != "" {
		if store, err = s.joinFleet(c, sealKeys, m); err != nil {
			return s, err
		}
		clock = s.fleet.Now
	}
	ring, err := newRing(c, clock, store)
	if err != nil {
		return s, err
	}
	s.ring = ring
	m.AddTicketKeys(ring)
	if s.audit != nil {
		if err := s.recordChange("start")(keys.Description{}, ring.Description(), nil); err != nil {
			return s, fmt.Errorf("--audit-log: %w", err)
		}
	}
	if c.TicketKeyFile != "" {
		open := keys.OpenFile
		if shared, ok := store.(*fleet.KeyStore); ok && shared.Found() {
			open = keys.JoinFile
		}
		if s.keyFile, err = open(c.TicketKeyFile, ring, log, s.recordChange("ticket-key file")); err != nil {
			return s, fmt.Errorf("--ticket-key-file: %w", err)
		}
		m.AddTicketKeyFile(s.keyFile)
	}

	if c.TLSCert != "" {
		if s.tls, err = openTLS(c, log, s.recordTLS); err != nil {
			return s, err
		}
		m.AddTLS(func() metrics.TLS {
			return metrics.TLS{NotAfter: s.tls.Leaf().NotAfter, ReloadFailures: s.tls.Status().Failures}
		})
	}
	m.SetInsecureListen(c.InsecureListen)
	if c.InsecureListen {
		log.Warn("--insecure-listen lets in what would be refused", "what", insecurity(c))
	}
	var authenticator *auth.Authenticator
	if c.Policy != "" {
		if s.policy, err = auth.OpenFile(c.Policy, log, s.recordPolicy); err != nil {
			return s, fmt.Errorf("--policy: %w", err)
		}
		authenticator = auth.New(s.policy.Policy, time.Now)
		m.AddPolicy(s.policy)
		m.AddAuthentication(authenticator)
	}

	handlersConfig := handlers.Config{
		Cache:           s.sessions,
		MaxSessionBytes: int(c.SessionMaxBytes),
		DefaultTTL:      c.SessionDefaultTTL,
		MaxTTL:          c.SessionMaxTTL,
		Ring:            ring,
		KeyFile:         s.keyFile,
		Auth:            authenticator,
		Audit:           s.audit,
		Version:         version(),
		Log:             log,
		AccessLog:       bool(c.AccessLog),
		Recorder:        m,
		Metrics:         m.Handler(),

		MaxOpen: 2 * c.MaxConnections, // over HTTP/2 a connection has several

		AllowedHosts:             allowedHosts(c),
		RequireClientCertificate: c.TLSClientCA != "" && c.Policy == "",
	}
	if s.tls != nil {
		handlersConfig.CertificateNames = s.tls.Names
		handlersConfig.TrustsClient = s.tls.Trusts
	}
	if s.sessions != nil {
		handlersConfig.Sessions = handlers.Local(s.sessions)
	}
	if s.keyFile != nil {
		handlersConfig.Checks = append(handlersConfig.Checks, handlers.Check{Name: "ticket_key_file", Degraded: s.keyFile.Health})
	}
	if s.fleet != nil {
		handlersConfig.Checks = append(handlersConfig.Checks, handlers.Check{Name: "fleet", Degraded: s.fleet.Health})
		handlersConfig.Status = append(handlersConfig.Status, s.fleetStatus)
		if s.shared != nil {
			handlersConfig.Sessions = s.shared
		}
	}
	if s.audit != nil {
		handlersConfig.Checks = append(handlersConfig.Checks, handlers.Check{Name: "audit_log", Degraded: s.audit.Health})
	}
	if s.state != nil {
		handlersConfig.Checks = append(handlersConfig.Checks, handlers.Check{Name: "state_file", Degraded: s.state.Health})
		handlersConfig.Status = append(handlersConfig.Status, func(status *api.Status) {
			status.StateFile = &api.StateFileStatus{Failing: s.state.Failing()}
		})
		if handlersConfig.Sessions != nil {
			handlersConfig.Sessions = flushing{handlersConfig.Sessions, s.state}
		}
	}
	s.api = handlers.New(handlersConfig)
	m.AddWaiting(s.api.Waiting)
	if c.OpsListen == nil {
		return s, s.listen("main", c.Listen, s.api.Handler(), c.MaxConnections, writeTimeout, m)
	}
	// The operations listener is first in and so last out: probes see the
	// service drain.
	if err := s.listen("operations", *c.OpsListen, s.api.OpsHandler(), opsConnections, opsWriteTimeout, m); err != nil {
		return s, err
	}
	return s, s.listen("main", c.Listen, s.api.MainHandler(), c.MaxConnections, writeTimeout, m)
}

// openTLS loads the TLS files of the settings.
func openTLS(c config.Config, log *slog.Logger, record func(string) error) (*server.TLS, error) {
	return server.OpenTLS(server.TLSFiles{Cert: c.TLSCert, Key: c.TLSKey, ClientCA: c.TLSClientCA}, log, record)
}

// insecurity says what --insecure-listen lets pass.
func insecurity(c config.Config) string {
	switch {
	case c.Policy == "" && c.TLSClientCA == "":
		return "anybody who reaches the service can read and change keys and sessions"
	case c.TLSCert == "":
		return "whoever sees the network can read tokens, keys and sessions, and use the tokens"
	}
	return "nothing: there are TLS and credentials, which make it needless"
}

// openCache makes the session cache. What the state file has is in it then, unless
// the fleet has the sessions.
func (s *service) openCache(c config.Config, m *metrics.Metrics) (err error) {
	s.sessions, err = cache.New(cache.Config{
		Memory:          int64(c.CacheMemory),
		MaxSessions:     c.CacheMaxSessions,
		MaxSessionBytes: int(c.SessionMaxBytes),
	})
	if err != nil {
		return fmt.Errorf("--cache-memory: %w", err)
	}
	s.onStop("session cache", func(context.Context) error { s.sessions.Close(); return nil })
	m.AddCache(s.sessions)
	s.log.Info("session cache", "bytes", int64(c.CacheMemory),
		"memory_locked", s.sessions.Locked(), "memory_dumpable", s.sessions.Dumpable())
	if s.state == nil || c.Redis != "" {
		return nil
	}
	restored, err := s.state.RestoreSessions(s.sessions, c.SessionMaxTTL)
	if err != nil {
		return fmt.Errorf("--state-file: %w", err)
	}
	s.log.Info("sessions restored", "sessions", restored)
	s.onStop("sessions in the state file", func(ctx context.Context) error {
		return within(ctx, func() error { return s.state.SaveSessions(ctx, s.sessions) })
	})
	return nil
}

// readSealKeys reads the seal keys. It warns when others can.
func readSealKeys(c config.Config, log *slog.Logger) (*seal.Keys, error) {
	sealKeys, mode, err := seal.ReadKeys(c.SealKeyFile)
	if err != nil {
		return nil, fmt.Errorf("--seal-key-file: %w", err)
	}
	files.WarnLoose(log, "seal key file", c.SealKeyFile, mode, files.Secret)
	return sealKeys, nil
}

// allowedHosts are the names that the settings have for the service.
func allowedHosts(c config.Config) []string {
	names := slices.Clone(c.AllowedHosts)
	for _, address := range []*config.Address{&c.Listen, c.OpsListen} {
		if address != nil && address.Network == "tcp" && address.Host() != "" {
			names = append(names, address.Host())
		}
	}
	return names
}

// newRing returns a ring with the keys of the store or, without one, keys of its
// own.
func newRing(c config.Config, clock func() time.Time, store keys.Store) (*keys.Ring, error) {
	life := keys.Lifecycle{RotateEvery: c.RotateEvery, TicketLifetime: c.TicketLifetime}
	if kept := life.Retention(); kept > keys.MaxKeys {
		return nil, fmt.Errorf("--rotate-every %v with --ticket-lifetime %v: that would keep %d keys, and a set has %d at most; rotate less often",
			c.RotateEvery, c.TicketLifetime, kept, keys.MaxKeys)
	}
	if store == nil {
		return keys.NewRing(clock, life), nil
	}
	open, setting := keys.OpenRing, "--state-file"
	if c.Redis != "" {
		open, setting = keys.JoinRing, "--redis"
	}
	ring, err := open(clock, life, store)
	if c.Redis == "" && errors.Is(err, keys.ErrInvalidState) {
		err = fmt.Errorf("%s: %w; start the version that wrote it, or move it away to start without it", c.StateFile, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return ring, nil
}

// listen binds a server to an address.
func (s *service) listen(name string, address config.Address, handler http.Handler, connections int, writeTimeout time.Duration, m *metrics.Metrics) error {
	mode := os.FileMode(0o600)
	if s.policy != nil {
		mode = 0o666 // it says which users may do what
	}
	listener, err := server.Listen(server.Config{
		Network: address.Network, Address: address.Address, SocketMode: mode,
		Handler: handler, TLS: s.tls, MaxConnections: connections, WriteTimeout: writeTimeout,
		ProtocolError: m.ProtocolError, Log: s.log,
	})
	if err != nil {
		return err
	}
	m.AddConnections(name, connections, listener.Connections)
	s.listeners = append(s.listeners, listener)
	s.onStop(name+" listener", listener.Stop)
	s.log.Info("listening", "name", name, "address", listener.Addr().String(), "tls", listener.TLS())
	return nil
}

// start serves, rotates the ticket keys, follows their file and the reload signal,
// and saves the sessions now and then.
func (s *service) start(reload <-chan os.Signal) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.ring.RotateWhenDue(ctx, s.log, s.recordChange("rotation")) })
	running.Go(func() { s.follow(ctx, reload) })
	if s.keyFile != nil {
		running.Go(func() { s.keyFile.Watch(ctx) })
	}
	if s.fleet != nil {
		running.Go(func() { s.fleet.Run(ctx, s.ring.Refresh) })
	} else if s.state != nil && s.sessions != nil {
		running.Go(func() { s.state.KeepSessions(ctx, s.sessions) })
	}
	if s.tls != nil {
		running.Go(func() { s.tls.Watch(ctx) })
	}
	if s.policy != nil {
		running.Go(func() { s.policy.Watch(ctx) })
	}
	s.onStop("ticket keys, policy and certificate", func(ctx context.Context) error {
		cancel()
		return within(ctx, func() error { running.Wait(); return nil })
	})
	for _, l := range s.listeners {
		go func() {
			if err := l.Serve(); err != nil {
				s.failed <- err
			}
		}()
	}
	s.log.Info("serving", "version", version())
}

// within calls do and returns its error. What a disk or a network file system
// holds up is left behind when ctx ends.
func within(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recordChange records changes of the ticket keys that the service makes by
// itself; nil without an audit log.
func (s *service) recordChange(source string) keys.Record {
	if s.audit == nil {
		return nil
	}
	return func(before, after keys.Description, failure error) error {
		e := handlers.KeyChange(before, after, failure)
		e.Operation, e.Source = "ticket keys", source
		return s.audit.Record(e)
	}
}

// recordFile records that what a file of the settings has is about to hold.
func (s *service) recordFile(operation, source, detail string) error {
	if s.audit == nil {
		return nil
	}
	return s.audit.Record(audit.Event{Operation: operation, Outcome: audit.Applied, Source: source, Detail: detail})
}

// recordPolicy is [auth.OpenFile]'s record.
func (s *service) recordPolicy(identities int) error {
	return s.recordFile("policy", "policy file", fmt.Sprintf("%d identities", identities))
}

// recordTLS is [newTransport]'s record.
func (s *service) recordTLS(detail string) error {
	return s.recordFile("tls certificate", "tls files", detail)
}

// follow reads the files of the settings when it is told to, until ctx ends.
func (s *service) follow(ctx context.Context, reload <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-reload:
			if s.keyFile == nil && s.tls == nil && s.policy == nil && s.audit == nil {
				s.log.Info("nothing to reload: there is neither --ticket-key-file nor --tls-cert nor --policy nor --audit-log")
			}
			if s.audit != nil { // first, for the others record what they do
				if err := s.audit.Reopen(); err != nil {
					s.log.Error("the audit log cannot be opened anew; until it can, what has to be recorded is not done", "error", err.Error())
				}
			}
			if s.keyFile != nil {
				s.keyFile.Reload()
			}
			if s.tls != nil {
				s.tls.Reload()
			}
			if s.policy != nil {
				s.policy.Reload()
			}
		}
	}
}

// stop drains and ends everything, the last that was set up first, all within
// drainTimeout.
func (s *service) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if s.api != nil {
		s.api.Drain()
	}
	var errs []error
	for len(s.teardowns) > 0 {
		last := s.teardowns[len(s.teardowns)-1]
		s.teardowns = s.teardowns[:len(s.teardowns)-1]
		if err := last.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", last.name, err))
		}
	}
	return errors.Join(errs...)
}

// newLogger logs to w. auto is text for a terminal and JSON for everything
// else.
func newLogger(w io.Writer, level, format string) *slog.Logger {
	var options slog.HandlerOptions
	var threshold slog.Level
	if err := threshold.UnmarshalText([]byte(level)); err != nil {
		panic(err) // the settings allow only levels
	}
	options.Level = threshold
	file, isFile := w.(*os.File)
	if format == "text" || format == "auto" && isFile && term.IsTerminal(int(file.Fd())) {
		return slog.New(slog.NewTextHandler(w, &options))
	}
	return slog.New(slog.NewJSONHandler(w, &options))
}
