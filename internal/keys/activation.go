package keys

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// ErrHeld reports a rotation that waits until all consumers have the next key. The
// error is a [*HeldError].
var ErrHeld = errors.New("keys: not all consumers have the next key")

// HeldError is a rotation that would make a key current that some consumers do not
// have.
type HeldError struct {
	Behind []string  // consumers without it; nil while unknown
	Until  time.Time // when the rotation stops waiting
}

const maxNamed = 10 // consumers in an error

func (e *HeldError) Error() string {
	switch n := len(e.Behind); {
	case n == 0:
		return ErrHeld.Error() + ": the consumers are not known yet"
	case n > maxNamed:
		return fmt.Sprintf("%v: %s and %d more", ErrHeld, strings.Join(e.Behind[:maxNamed], ", "), n-maxNamed)
	}
	return fmt.Sprintf("%v: %s", ErrHeld, strings.Join(e.Behind, ", "))
}

// Unwrap returns [ErrHeld].
func (e *HeldError) Unwrap() error { return ErrHeld }

// activation makes rotations wait for consumers.
type activation struct {
	behind  func(active Description) (consumers []string, known bool)
	timeout time.Duration
	log     *slog.Logger

	next    Name      // the key that a rotation was to make current
	since   time.Time // when a rotation first was
	overdue Name      // the last key whose rotation has waited for the timeout
}

// Activation describes how rotations wait for consumers.
type Activation struct {
	Waiting  *HeldError // why the due rotation waits; nil when none does
	Timeouts uint64     // rotations made after the timeout
}

// ActivateAfter makes rotations wait: the next key becomes current only when no
// consumer is behind, or after the timeout. behind returns the consumers that do not
// hold the active set, and whether they are known. It must not call the ring. Rotations
// of a set without a next key do not wait, nor do revocations. Call ActivateAfter
// before sharing the ring.
func (r *Ring) ActivateAfter(behind func(active Description) (consumers []string, known bool), timeout time.Duration, log *slog.Logger) {
	r.activation = &activation{behind: behind, timeout: timeout, log: log}
}

// held returns a HeldError if a rotation must wait. The ring is being updated.
func (r *Ring) held() error {
	a := r.activation
	if a == nil || r.set.Next == nil {
		return nil
	}
	behind, known := a.behind(r.describe())
	if known && len(behind) == 0 {
		return nil
	}
	now := r.now()
	if next := r.set.Next.Name(); next != a.next {
		a.next, a.since = next, now
	}
	since := a.since
	if r.life.RotateEvery > 0 && !r.pushed { // it waits since the rotation was due, also across a restart
		if due := now.Add(r.untilDue()); due.Before(since) {
			since = due
		}
	}
	held := &HeldError{Behind: behind, Until: since.Add(a.timeout)}
	if now.Before(held.Until) {
		return held
	}
	if a.overdue == a.next { // the step is retried
		return nil
	}
	a.overdue = a.next
	a.log.Warn("rotating the ticket keys without waiting any longer",
		slog.String("reason", held.Error()), slog.Duration("waited", now.Sub(since)))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timeouts++
	return nil
}

// noteWaiting notes that the due rotation waits.
func (r *Ring) noteWaiting(held *HeldError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		r.activation.log.Info("a rotation of the ticket keys waits",
			slog.String("reason", held.Error()), slog.Time("until", held.Until))
	}
	r.waiting = held
}

// Activation returns how rotations wait for consumers; nil if they do not.
func (r *Ring) Activation() *Activation {
	if r.activation == nil {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return &Activation{Waiting: r.waiting, Timeouts: r.timeouts}
}
