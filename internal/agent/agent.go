// Package agent keeps the ticket keys of the TLS servers on a host in step with a
// sessapi service.
//
// The agent reconciles. For each target it reads the keys that the server holds,
// compares them with the keys of the service, acts only on a difference, and reads them
// back. So the result is the same after a restart of the agent, the server or the
// service, after a manual change, and after a missed generation. Nothing is reloaded
// without need.
//
// # Guarantees
//
//   - A server never gets an empty, partial or older set. While the service is away,
//     the servers keep the keys that they have. The agent keeps no copy on disk.
//   - A target that fails delays no other. Each is retried until it succeeds.
//   - A target is current only after its keys have been read back, or Envoy has accepted
//     them, and, with a probe, a handshake has shown the current key.
//   - Every command, connection and request has a deadline.
//   - No secret is in a log, an error or a report.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/kubernetes"
)

const (
	// settle is the pause after a change. interval is the minimum time between two
	// requests without a change: a proxy may prevent the service from holding them.
	settle   = 50 * time.Millisecond
	interval = time.Second
	// warnEvery is how often the log repeats that the service is away, after the first
	// error of each node.
	warnEvery = time.Minute
	// maxRetryAfter bounds the pause that the service asks for.
	maxRetryAfter = 5 * time.Minute
)

// Agent runs the targets of one configuration.
type Agent struct {
	config     *Config
	source     source
	log        *slog.Logger
	targets    []*target
	reportSoon chan struct{} // of size 1

	floor          uint64        // older keys are refused
	generation     atomic.Uint64 // of the keys in force; 0 before there are any
	heard          atomic.Int64  // when the service last answered, in Unix milliseconds
	reportFailures atomic.Uint64
}

// New returns an agent that refuses keys of a generation before floor.
func New(c *Config, floor uint64, log *slog.Logger) (*Agent, error) {
	clients, err := c.Service.clients()
	if err != nil {
		return nil, err
	}
	source := &nodes{clients: clients, addresses: c.Service.Addresses, host: c.Name}
	return newAgent(c, source, reach{runFor, askSocket, ticketKeyName}, floor, log), nil
}

func newAgent(c *Config, s source, by reach, floor uint64, log *slog.Logger) *Agent {
	a := &Agent{config: c, source: s, floor: floor, log: log, reportSoon: make(chan struct{}, 1)}
	for i := range c.Targets {
		a.targets = append(a.targets, newTarget(&c.Targets[i], by, log, a.targetChanged))
	}
	return a
}

func (a *Agent) targetChanged() {
	select {
	case a.reportSoon <- struct{}{}:
	default:
	}
}

// Floor is the oldest generation that the agent still accepts.
func (a *Agent) Floor() uint64 { return max(a.floor, a.generation.Load()) }

// Status returns the status of each target.
func (a *Agent) Status() []Status {
	status := make([]Status, len(a.targets))
	for i, t := range a.targets {
		status[i] = t.Status()
	}
	return status
}

// Figures are the metrics of an agent, apart from those of its targets.
type Figures struct {
	Generation     uint64    // of the keys in force
	Heard          time.Time // from the service, last; zero if never
	ReportFailures uint64
}

// Figures returns the figures.
func (a *Agent) Figures() Figures {
	f := Figures{Generation: a.generation.Load(), ReportFailures: a.reportFailures.Load()}
	if at := a.heard.Load(); at > 0 {
		f.Heard = time.UnixMilli(at)
	}
	return f
}

// Run keeps the targets in step until ctx ends.
func (a *Agent) Run(ctx context.Context) {
	a.prepare()
	var running sync.WaitGroup
	for _, t := range a.targets {
		running.Go(func() { t.run(ctx) })
	}
	if !a.config.Silent {
		running.Go(func() { a.report(ctx) })
	}
	a.follow(ctx)
	running.Wait()
	for _, t := range a.targets {
		t.takeNext().wipe()
	}
}

// prepare removes the temporary files of an agent that was killed, and warns of key
// files on disks.
func (a *Agent) prepare() {
	for _, t := range a.targets {
		if len(t.files.paths) == 0 {
			continue
		}
		for _, path := range t.files.paths {
			if kept, err := onDisk(path); err == nil && kept {
				t.log.Warn("the key file is not on a tmpfs: deleted keys may stay readable on the disk", slog.String("path", path))
				break
			}
		}
		if err := t.files.clean(); err != nil {
			t.log.Warn("cannot remove a temporary file with keys", slog.String("error", err.Error()))
		}
	}
}

// follow gives each new set to the targets until ctx ends.
func (a *Agent) follow(ctx context.Context) {
	failures := 0
	var warned time.Time
	for ctx.Err() == nil {
		began := time.Now()
		u, err := a.source.Next(ctx, a.generation.Load(), a.Floor())
		var pause time.Duration
		switch {
		case ctx.Err() != nil:
			u.wipe()
			return
		case err != nil:
			// After each round of all nodes there is a pause.
			if failures++; failures%a.source.Nodes() == 0 {
				pause = retryPause(failures/a.source.Nodes()-1, err)
			}
			if failures <= a.source.Nodes() || time.Since(warned) >= warnEvery {
				warned = time.Now()
				a.log.Warn("cannot get ticket keys; the servers keep theirs", slog.String("error", err.Error()), slog.Duration("retry_in", pause))
			}
		default:
			a.heard.Store(time.Now().UnixMilli())
			if failures > 0 {
				a.log.Info("the service answers again", slog.Int("failures", failures))
			}
			failures = 0
			pause = interval - time.Since(began)
			if u != nil {
				a.deliver(u)
				pause = settle
			}
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// retryPause returns the pause after err, when this number of failures came before it: at
// least as long as the server asks for.
func retryPause(failures int, err error) time.Duration {
	pause := backoff(failures)
	if e, ok := errors.AsType[*client.Error](err); ok {
		pause = max(pause, min(e.RetryAfter, maxRetryAfter))
	}
	if e, ok := errors.AsType[*kubernetes.Error](err); ok {
		pause = max(pause, min(e.RetryAfter, maxRetryAfter))
	}
	return pause
}

// deliver gives the set to the targets and wipes it.
func (a *Agent) deliver(u *update) {
	defer u.wipe()
	for _, t := range a.targets {
		t.Want(t.wants(u.generation, u.set))
	}
	a.log.Info("ticket keys received", slog.Uint64("generation", u.generation))
	a.generation.Store(u.generation)
}

func (u *update) wipe() {
	if u != nil {
		u.set.Wipe()
	}
}

// TargetError is the failure of a target to hold the keys of the service.
type TargetError struct {
	Target string
	Err    error
}

// Error names the target.
func (e *TargetError) Error() string { return fmt.Sprintf("target %s: %v", e.Target, e.Err) }

// Unwrap returns the cause.
func (e *TargetError) Unwrap() error { return e.Err }

// Once makes each target hold the current keys of the service. The error is that of the
// service, or joins a [*TargetError] for each target that failed. A server without any of
// its files does not run yet, and is not reloaded. No server is probed.
func (a *Agent) Once(ctx context.Context) error {
	a.prepare()
	var u *update
	var err error
	for range a.source.Nodes() {
		if u, err = a.source.Next(ctx, a.generation.Load(), a.Floor()); err == nil {
			break
		}
	}
	switch {
	case err != nil:
		return err
	case u == nil:
		return errors.New("the service has no ticket keys")
	}
	defer u.wipe()
	errs := make([]error, len(a.targets))
	var running sync.WaitGroup
	for i, t := range a.targets {
		running.Go(func() {
			w := t.wants(u.generation, u.set)
			defer w.wipe()
			if err := t.holdOnce(ctx, w); err != nil {
				errs[i] = &TargetError{t.Name, err}
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// sleep waits, and reports whether ctx is still alive.
func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
