package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/metrics"
)

// Limits of the listeners. A request is small and is answered from memory: who
// needs longer is broken or hostile.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 30 * time.Second
	opsWriteTimeout   = 2 * time.Minute // a profile takes as long as it was asked to
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 12 << 10 // net/http takes 4 KiB more
	maxStreams        = 128      // concurrent requests of one HTTP/2 connection

	// maxConnections bounds the open connections of a listener, each of which
	// costs some 20 KiB. It is as many as clients may wait for ticket keys.
	maxConnections = handlers.DefaultMaxWaiting
	// stuckTimeout is how long an HTTP/2 connection may take nothing while there
	// is something to send. net/http sets no other limit to that.
	stuckTimeout = 5 * time.Second
	// receiveBuffer is how much an HTTP/2 connection may send ahead of what is
	// read, in bytes: the largest body fits. net/http would take 1 MiB.
	receiveBuffer = 128 << 10

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
	keyFile   *keys.File // nil without one
	listeners []boundServer
	failed    chan error // a server that stopped by itself
	teardowns []teardown
}

// boundServer is a server with the listener it will serve.
type boundServer struct {
	*http.Server
	listener net.Listener
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
	ring, err := newRing(c)
	if err != nil {
		return s, err
	}
	s.ring = ring
	m.AddTicketKeys(ring)
	if c.TicketKeyFile != "" {
		if s.keyFile, err = keys.OpenFile(c.TicketKeyFile, ring, log); err != nil {
			return s, fmt.Errorf("--ticket-key-file: %w", err)
		}
		m.AddTicketKeyFile(s.keyFile)
	}

	var sessions *cache.Cache
	if c.Cache {
		sessions, err = cache.New(cache.Config{
			Memory:          int64(c.CacheMemory),
			MaxSessions:     c.CacheMaxSessions,
			MaxSessionBytes: int(c.SessionMaxBytes),
		})
		if err != nil {
			return s, fmt.Errorf("--cache-memory: %w", err)
		}
		s.onStop("session cache", func(context.Context) error { sessions.Close(); return nil })
		m.AddCache(sessions)
		log.Info("session cache", "bytes", int64(c.CacheMemory),
			"memory_locked", sessions.Locked(), "memory_dumpable", sessions.Dumpable())
	}

	s.api = handlers.New(handlers.Config{
		Cache:           sessions,
		MaxSessionBytes: int(c.SessionMaxBytes),
		DefaultTTL:      c.SessionDefaultTTL,
		MaxTTL:          c.SessionMaxTTL,
		Ring:            ring,
		KeyFile:         s.keyFile,
		Version:         version(),
		Log:             log,
		AccessLog:       bool(c.AccessLog),
		Recorder:        m,
		Metrics:         m.Handler(),
	})
	m.AddWaiting(s.api.Waiting)
	m.AddCutOff(s.api.CutOff)
	if c.OpsListen == nil {
		return s, s.listen("main", c.Listen, s.api.Handler(), writeTimeout, m)
	}
	// The operations listener is first in and so last out: probes see the
	// service drain.
	if err := s.listen("operations", *c.OpsListen, s.api.OpsHandler(), opsWriteTimeout, m); err != nil {
		return s, err
	}
	return s, s.listen("main", c.Listen, s.api.MainHandler(), writeTimeout, m)
}

// newRing returns a ring with keys of its own.
func newRing(c config.Config) (*keys.Ring, error) {
	life := keys.Lifecycle{RotateEvery: c.RotateEvery, TicketLifetime: c.TicketLifetime}
	if kept := life.Retention(); kept > keys.MaxKeys {
		return nil, fmt.Errorf("--rotate-every %v with --ticket-lifetime %v: that would keep %d keys, and a set has %d at most; rotate less often",
			c.RotateEvery, c.TicketLifetime, kept, keys.MaxKeys)
	}
	return keys.NewRing(time.Now, life), nil
}

// listen binds a server to an address.
func (s *service) listen(name string, address config.Address, handler http.Handler, writeTimeout time.Duration, m *metrics.Metrics) error {
	listener, err := listen(address)
	if err != nil {
		return err
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	var connections connections
	m.AddConnections(name, connections.open.Load, connections.refused.Load)
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         &protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: receiveBuffer,
			MaxReceiveBufferPerStream:     receiveBuffer,
			WriteByteTimeout:              stuckTimeout,
			CountError:                    m.ProtocolError,
		},
		ConnState: connections.changed,
		ErrorLog:  slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	s.listeners = append(s.listeners, boundServer{server, listener})
	s.onStop(name+" listener", func(ctx context.Context) error {
		if err := server.Shutdown(ctx); err != nil {
			return errors.Join(fmt.Errorf("requests were cut off: %w", err), server.Close())
		}
		// Shutdown closes only what is being served.
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	s.log.Info("listening", "name", name, "address", listener.Addr().String())
	return nil
}

// start serves, rotates the ticket keys, and follows their file and the reload
// signal.
func (s *service) start(reload <-chan os.Signal) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.ring.RotateWhenDue(ctx, s.log) })
	running.Go(func() { s.follow(ctx, reload) })
	if s.keyFile != nil {
		running.Go(func() { s.keyFile.Watch(ctx) })
	}
	s.onStop("ticket keys", func(context.Context) error { cancel(); running.Wait(); return nil })
	serve := func(server *http.Server, listener net.Listener) {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- err
		}
	}
	for _, l := range s.listeners {
		go serve(l.Server, l.listener)
	}
	main := s.listeners[len(s.listeners)-1]
	go serve(main.Server, s.api.Returning())
	s.log.Info("serving", "version", version())
}

// follow reads the ticket-key file when it is told to, until ctx ends.
func (s *service) follow(ctx context.Context, reload <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-reload:
			if s.keyFile == nil {
				s.log.Info("nothing to reload: there is no --ticket-key-file")
				continue
			}
			s.keyFile.Reload()
		}
	}
}

// stop drains and ends everything, the last that was set up first, all within
// drainTimeout.
func (s *service) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if s.api != nil {
		s.api.Drain(ctx)
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
