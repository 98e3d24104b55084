// Package app is the service as a whole. Only this package knows all others.
//
// An [App] is a list of parts. [New] opens them in order and binds the listeners,
// [App.Start] serves and reloads, and [App.Stop] drains and closes the parts, the last
// one first.
//
// A new subsystem needs:
//
//   - a package of its own;
//   - a function here that opens its part, and the function's line in New;
//   - its routes in internal/handlers;
//   - its metrics in internal/metrics.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/events"
	"github.com/sessapi/sessapi/internal/fleet"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/metrics"
	"github.com/sessapi/sessapi/internal/seal"
	"github.com/sessapi/sessapi/internal/server"
	"github.com/sessapi/sessapi/internal/state"
)

const (
	// stopTimeout limits how long stopping takes. By default, Kubernetes kills after 30
	// s.
	stopTimeout = 20 * time.Second
	// closeTimeout is the part of stopTimeout that is reserved for the parts behind the
	// listeners, for example to save sessions. Requests in flight cannot use it.
	closeTimeout = 5 * time.Second
)

// App is the service. It listens after New; its owner must call Stop.
type App struct {
	cfg     config.Config
	log     *slog.Logger
	metrics *metrics.Metrics
	parts   []part
	failed  chan error

	cancel  context.CancelFunc // ends the running parts
	running sync.WaitGroup

	// Results that parts leave for later parts; nil without them.
	handlers handlers.Config
	sealKeys *seal.Keys
	state    *state.File
	fleet    *fleet.Node
	keyStore *fleet.KeyStore
	tls      *server.TLS
	policy   *auth.File
	api      *handlers.API
	servers  []*server.Server
}

// part is a piece of the service. Only its name is required.
type part struct {
	name    string
	run     func(ctx context.Context)       // from Start until ctx ends
	serve   func() error                    // from Start until stop; its error ends the service
	reload  func()                          // when the operator requests it
	stop    func(ctx context.Context) error // must end before ctx does, if it can
	health  func() string                   // why it is degraded; "" when it is not
	status  func(*api.Status)               // adds to /status
	metrics func(*metrics.Metrics)          // registers its metrics
}

// New opens all parts. After an error nothing stays open.
func New(c config.Config, version string, log *slog.Logger) (*App, error) {
	a := &App{cfg: c, log: log, metrics: metrics.New(version), failed: make(chan error, 2), cancel: func() {}}
	a.handlers = handlers.Config{
		MaxSessionBytes: int(c.SessionMaxBytes),
		DefaultTTL:      c.SessionDefaultTTL,
		MaxTTL:          c.SessionMaxTTL,
		Version:         version,
		Log:             log,
		AccessLog:       bool(c.AccessLog),
		Recorder:        a.metrics,
		Metrics:         a.metrics.Handler(),
		Events:          events.New(time.Now),
		MaxOpen:         2 * c.MaxConnections, // an HTTP/2 connection has several
		AllowedHosts:    allowedHosts(c),
	}
	for _, open := range []func(*App) (part, error){
		openTracing, // stops last, so that it exports the spans of the other parts
		openAudit,
		openSealKeys,
		openState,
		openCache,
		openFleet,
		openKeys,
		openRoster,
		openConsumers,
		openEvents, // before anything that updates the ticket keys
		openKeyFile,
		openTLS,
		openPolicy,
		openAPI,
		openOperations, // stops after the main listener, so that probes see the service drain
		openMain,
	} {
		p, err := open(a)
		if p.name != "" { // else the settings do not need this part
			a.add(p)
		}
		if err != nil {
			return nil, errors.Join(err, a.Stop())
		}
	}
	return a, nil
}

func (a *App) add(p part) {
	if a.api != nil && (p.health != nil || p.status != nil) {
		panic("app: " + p.name + " is opened after the API, which has its checks by then")
	}
	a.parts = append(a.parts, p)
	if p.health != nil {
		a.handlers.Checks = append(a.handlers.Checks, handlers.Check{Name: p.name, Degraded: p.health})
	}
	if p.status != nil {
		a.handlers.Status = append(a.handlers.Status, p.status)
	}
	if p.metrics != nil {
		p.metrics(a.metrics)
	}
}

// Start serves and runs the parts. Each signal on reload reloads the files of the
// settings.
func (a *App) Start(reload <-chan os.Signal) {
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	for _, p := range a.parts {
		if p.run != nil {
			a.running.Go(func() { p.run(ctx) })
		}
		if p.serve != nil {
			go func() {
				if err := p.serve(); err != nil {
					a.failed <- fmt.Errorf("%s: %w", p.name, err)
				}
			}()
		}
	}
	a.running.Go(func() {
		for {
			select {
			case <-reload:
				a.reload()
			case <-ctx.Done():
				return
			}
		}
	})
	a.log.Info("serving", "version", a.handlers.Version)
}

// Failed receives the error of a part that ended by itself. The owner should then stop
// the service.
func (a *App) Failed() <-chan error { return a.failed }

// reload reloads the files of the settings. If a file cannot be loaded, its previous
// version stays in use.
func (a *App) reload() {
	reloaded := false
	for _, p := range a.parts {
		if p.reload != nil {
			p.reload()
			reloaded = true
		}
	}
	if !reloaded {
		a.log.Info("nothing to reload: set --ticket-key-file, --tls-cert, --policy or --audit-log")
	}
}

// Stop drains the listeners and closes all parts in reverse order.
func (a *App) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if a.api != nil {
		a.api.Drain()
	}
	a.cancel()
	stopping, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	errs := []error{within(stopping, func() error { a.running.Wait(); return nil })}
	for len(a.parts) > 0 {
		last := a.parts[len(a.parts)-1]
		a.parts = a.parts[:len(a.parts)-1]
		if last.stop == nil {
			continue
		}
		if err := last.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", last.name, err))
		}
	}
	return errors.Join(errs...)
}

// within calls do and returns its error. When ctx ends, it abandons a call that a disk
// or network file system blocks.
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

// openKeys opens the ring with the keys of the fleet or of the state file, else with
// new keys.
func openKeys(a *App) (part, error) {
	life, err := lifecycle(a.cfg)
	if err != nil {
		return part{}, err
	}
	var ring *keys.Ring
	switch {
	case a.keyStore != nil:
		ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
		defer cancel()
		if ring, err = keys.JoinRing(ctx, a.fleet.Now, life, a.keyStore, a.recordKeys("put back")); err != nil {
			return part{}, fmt.Errorf("--redis: %w", err)
		}
	case a.state != nil:
		ring, err = keys.OpenRing(time.Now, life, a.state)
		if errors.Is(err, keys.ErrInvalidState) {
			err = fmt.Errorf("%s: %w; start the version that wrote it, or move it away to start without it", a.cfg.StateFile, err)
		}
		if err != nil {
			return part{}, fmt.Errorf("--state-file: %w", err)
		}
	default:
		ring = keys.NewRing(time.Now, life)
	}
	a.handlers.Ring = ring
	if a.handlers.Audit != nil {
		if err := a.recordKeys("start")(keys.Description{}, ring.Description(), nil); err != nil {
			return part{}, fmt.Errorf("--audit-log: %w", err)
		}
	}
	return part{
		name:    "ticket_keys",
		run:     func(ctx context.Context) { ring.RotateWhenDue(ctx, a.log, a.recordKeys("rotation")) },
		metrics: func(m *metrics.Metrics) { m.AddTicketKeys(ring) },
	}, nil
}

// lifecycle returns the lifecycle of the ring's keys.
func lifecycle(c config.Config) (keys.Lifecycle, error) {
	life := keys.Lifecycle{RotateEvery: c.RotateEvery, TicketLifetime: c.TicketLifetime}
	if kept := life.Retention(); kept > keys.MaxKeys {
		return life, config.Problems{{Place: c.Place("rotate-every"), Text: fmt.Sprintf("--rotate-every %v with --ticket-lifetime %v needs %d keys, but the limit is %d; rotate less often",
			c.RotateEvery, c.TicketLifetime, kept, keys.MaxKeys)}}
	}
	return life, nil
}

func openKeyFile(a *App) (part, error) {
	if a.cfg.TicketKeyFile == "" {
		return part{}, nil
	}
	open := keys.OpenFile
	if a.keyStore != nil && a.keyStore.Found() {
		open = keys.JoinFile
	}
	file, err := open(a.cfg.TicketKeyFile, a.handlers.Ring, a.log, a.recordKeys("ticket-key file"))
	if err != nil {
		return part{}, fmt.Errorf("--ticket-key-file: %w", err)
	}
	a.handlers.KeyFile = file
	return part{
		name: "ticket_key_file", run: file.Watch, reload: file.Reload, health: file.Health,
		metrics: func(m *metrics.Metrics) { m.AddTicketKeyFile(file) },
	}, nil
}

func openPolicy(a *App) (part, error) {
	if a.cfg.Policy == "" {
		return part{}, nil
	}
	file, err := auth.OpenFile(a.cfg.Policy, a.log, func(identities int) error {
		return a.recordFile("policy", "policy file", fmt.Sprintf("%d identities", identities))
	})
	if err != nil {
		return part{}, fmt.Errorf("--policy: %w", err)
	}
	a.policy = file
	a.handlers.Auth = auth.New(file.Policy, time.Now)
	return part{
		name: "policy", run: file.Watch, reload: file.Reload,
		metrics: func(m *metrics.Metrics) {
			m.AddPolicy(file)
			m.AddAuthentication(a.handlers.Auth)
		},
	}, nil
}

func openAPI(a *App) (part, error) {
	if a.handlers.Sessions != nil && a.state != nil {
		a.handlers.Sessions = flushing{a.handlers.Sessions, a.state}
	}
	a.handlers.RequireClientCertificate = a.cfg.TLSClientCA != "" && a.policy == nil
	a.api = handlers.New(a.handlers)
	return part{name: "api", metrics: func(m *metrics.Metrics) {
		m.AddRequests(a.api.Open, a.api.Waiting)
		m.AddProblems(handlers.ProblemCodes())
	}}, nil
}
