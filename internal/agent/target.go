package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
)

const (
	// checkEvery is how often a target that holds the keys is checked. proveEvery is
	// how often it is probed.
	checkEvery = 5 * time.Second
	proveEvery = 10 * time.Second
	// proveAgain is the pause between probes while a server settles.
	proveAgain = 100 * time.Millisecond

	// The pause doubles with each failure in a row, from the first to the longest, and
	// is shortened at random by up to a half.
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 5 * time.Second
	// A server that keeps encrypting with another key gets the keys again, at growing
	// intervals.
	firstReapply = 10 * time.Second
	maxReapply   = 5 * time.Minute
)

// State is the state of a target.
type State string

// The states.
const (
	Applying State = "applying" // the keys are on their way into the server
	Current  State = "current"  // the server holds the keys of the service
	Failed   State = "failed"   // the server does not hold the keys; the agent retries
)

// Report is the report of a target to the service.
type Report struct {
	Kind       string
	Generation uint64 // of the keys that the server is known to hold; 0 if none
	State      State
	Detail     string // for people
}

// Status is the status of a target, with counts since the agent started.
type Status struct {
	Name string
	Report
	Since    time.Time // in this state
	Changes  uint64    // how often keys were applied
	Failures uint64    // how often that failed, or a probe did
}

// target keeps one target in step.
type target struct {
	*Target
	files  *fileHolder
	holder holder                                       // files, or what wraps them
	probe  func(ctx context.Context) (keys.Name, error) // nil for none
	log    *slog.Logger
	// changed is called when the status has changed.
	changed func()
	wake    chan struct{} // of size 1; there are new keys, or the holder has news

	mu     sync.Mutex // guards what follows
	status Status
	known  bool    // whether the status is more than a guess
	next   *wanted // not yet taken

	// The fields below belong to run.
	failures     int       // in a row
	unproved     time.Time // since when the server has had time to settle; zero if it has settled
	proved       time.Time // when a handshake last showed the current key
	reapply      bool      // although the target seems to hold the keys
	reapplyAt    time.Time // not before
	reapplyPause time.Duration
}

// reach is how an agent reaches servers, apart from their files.
type reach struct {
	run   func(timeout time.Duration) runner
	ask   asker
	probe func(ctx context.Context, address string) (keys.Name, error)
}

func newTarget(t *Target, by reach, log *slog.Logger, changed func()) *target {
	h := &fileHolder{paths: t.paths(), attributes: t.attributes, test: t.Test, reload: t.Reload, run: by.run(time.Duration(t.Timeout)), spacing: t.kind.spacing}
	r := &target{
		Target: t, files: h, holder: h, log: log.With(slog.String("target", t.Name), slog.String("kind", t.Kind)),
		changed: changed, wake: make(chan struct{}, 1),
		status: Status{Name: t.Name, Report: Report{Kind: t.Kind, State: Applying}, Since: time.Now()},
	}
	if t.kind.holder != nil {
		r.holder = t.kind.holder(t, h, by.ask, r.wakeUp)
	}
	if t.Probe != "" {
		r.probe = func(ctx context.Context) (keys.Name, error) { return by.probe(ctx, t.Probe) }
	}
	return r
}

// Want gives the target new keys to hold.
func (t *target) Want(w *wanted) {
	t.mu.Lock()
	t.next.wipe()
	t.next = w
	t.mu.Unlock()
	t.wakeUp()
}

// wakeUp has run take the next step now.
func (t *target) wakeUp() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Report returns the report of the target, once there is one.
func (t *target) Report() (Report, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.status.Report, t.known
}

// Status returns the status of the target.
func (t *target) Status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.status
}

func (t *target) takeNext() *wanted {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.next
	t.next = nil
	return w
}

// run keeps the target in step until ctx ends.
func (t *target) run(ctx context.Context) {
	var w *wanted
	defer func() { w.wipe() }()
	if server, ok := t.holder.(servingHolder); ok {
		defer server.Close()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if next := t.takeNext(); next != nil {
			w.wipe()
			w = next
			t.failures, t.unproved, t.proved = 0, time.Time{}, time.Time{}
			t.reapplyAt, t.reapplyPause = time.Time{}, 0
		}
		var pause <-chan time.Time // never without keys
		if w != nil {
			timer.Reset(t.step(ctx, w))
			pause = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-pause:
		}
	}
}

// errSettling reports a server that may need more time.
var errSettling = errors.New("the server is still settling")

// step brings the target one step closer, and returns the pause until the next.
func (t *target) step(ctx context.Context, w *wanted) time.Duration {
	err := w.err
	if err == nil {
		err = t.hold(ctx, w)
	}
	if err == nil {
		err = t.prove(ctx, w)
	}
	unconfirmed, _ := errors.AsType[*unconfirmedError](err)
	switch {
	case ctx.Err() != nil:
		return 0
	case err == nil:
		t.failures = 0
		t.set(Current, t.kind.note, w.generation)
		return jittered(checkEvery)
	case unconfirmed != nil && !unconfirmed.rejected:
		t.failures = 0
		t.set(Applying, unconfirmed.detail, 0)
		return jittered(checkEvery)
	case errors.Is(err, errSettling):
		if t.Status().Generation != w.generation {
			t.set(Applying, "", 0)
		}
		return proveAgain
	}
	pause := retryPause(t.failures, err)
	t.failures++
	t.set(Failed, oneLine(err.Error()), 0)
	return pause
}

// hold makes the target hold the keys, if it does not.
func (t *target) hold(ctx context.Context, w *wanted) error {
	holds, err := t.holder.Holds(ctx, w)
	if isUnconfirmed(err) || err == nil && holds && !t.reapply {
		return err
	}
	if s := t.Status(); err == nil && s.State == Current && s.Generation == w.generation {
		t.log.Warn("something else changed the keys or their files; applying them again")
	}
	t.set(Applying, "", 0)
	t.unproved, t.proved = time.Time{}, time.Time{}
	t.files.rewrite = t.reapply
	if err := t.holder.Apply(ctx, w); err != nil {
		return err
	}
	t.reapply = false
	holds, err = t.holder.Holds(ctx, w)
	switch {
	case isUnconfirmed(err):
	case err != nil:
		return fmt.Errorf("read back: %w", err)
	case !holds:
		return errors.New("the server does not hold the keys that the agent just gave it; something else changes them")
	}
	t.mu.Lock()
	t.status.Changes++
	t.mu.Unlock()
	return err
}

func isUnconfirmed(err error) bool {
	_, ok := errors.AsType[*unconfirmedError](err)
	return ok
}

// holdOnce is hold for a server that may not run yet.
func (t *target) holdOnce(ctx context.Context, w *wanted) error {
	if w.err != nil {
		return w.err
	}
	if _, serves := t.holder.(servingHolder); serves {
		t.log.Info("the agent serves these keys only while it runs; nothing to do once")
		return nil
	}
	if !t.Script && len(t.files.paths) > 0 {
		if prepared, err := t.files.prepare(w); prepared || err != nil {
			return err
		}
	}
	return t.hold(ctx, w)
}

// prove makes a handshake, if the target has a probe and it is due. It returns nil when
// the server encrypts with the current key.
func (t *target) prove(ctx context.Context, w *wanted) error {
	now := time.Now()
	if t.probe == nil || now.Sub(t.proved) < proveEvery {
		return nil
	}
	name, err := t.probe(ctx)
	if err == nil && name == w.current {
		t.proved, t.unproved, t.reapplyPause = now, time.Time{}, 0
		return nil
	}
	if t.unproved.IsZero() {
		t.unproved = now
	}
	if now.Sub(t.unproved) < t.kind.settleTime() {
		return errSettling
	}
	if err != nil {
		return fmt.Errorf("probe %s: %w", t.Probe, err)
	}
	if !now.Before(t.reapplyAt) {
		t.reapply = true
		t.reapplyPause = min(max(2*t.reapplyPause, firstReapply), maxReapply)
		t.reapplyAt = now.Add(t.reapplyPause)
	}
	return fmt.Errorf("probe %s: the server encrypts with the key %s, not with %s", t.Probe, name, w.current)
}

// set records the state, logs it and has it reported. A failed target stays failed
// until it succeeds.
func (t *target) set(state State, detail string, generation uint64) {
	t.mu.Lock()
	before := t.status
	if state == Applying && before.State == Failed && t.failures > 0 {
		t.mu.Unlock()
		return
	}
	told := t.known
	t.known = true
	s := &t.status
	s.State, s.Detail = state, detail
	if state == Current {
		s.Generation = generation
	}
	if state == Failed {
		s.Failures++
	}
	if told && s.Report == before.Report {
		t.mu.Unlock()
		return
	}
	if state != before.State {
		s.Since = time.Now()
	}
	t.mu.Unlock()
	switch {
	case state == Failed:
		t.log.Error("target failed; retrying", slog.String("error", detail))
	case state == Current:
		t.log.Info("target is current", slog.Uint64("generation", generation), slog.Duration("took", time.Since(before.Since)))
	}
	t.changed()
}

// backoff returns the pause after a failure, when this number of failures came before
// it.
func backoff(failures int) time.Duration {
	return jittered(min(firstBackoff<<min(failures, 16), maxBackoff))
}

// jittered shortens a time at random by up to a half, so that agents do not act
// simultaneously.
func jittered(d time.Duration) time.Duration { return d - rand.N(d/2) }
