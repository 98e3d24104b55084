package keys

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// ErrHeld reports a rotation that waits until all consumers have the next key. Such an
// error is a [*HeldError].
var ErrHeld = errors.New("keys: not all consumers have the next key")

// HeldError is a rotation that would make a key current that consumers do not have.
type HeldError struct {
	Behind []string  // consumers without it; nil while they are unknown
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

// activation has rotations wait for consumers.
type activation struct {
	behind  func(active Description) (consumers []string, known bool)
	timeout time.Duration
	log     *slog.Logger

	next    Name      // key that a rotation was to make current
	since   time.Time // when it first was
	overdue Name      // last key whose rotation has waited for the timeout
}

// Activation tells of rotations that wait for consumers.
type Activation struct {
	Waiting  *HeldError // why the rotation that is due waits; nil when it does not
	Timeouts uint64     // rotations that were made after the timeout
}

// ActivateAfter has rotations make the next key current only when no consumer is
// behind, or when they have waited for the timeout. behind must not call the ring; it
// reports the consumers that do not hold the active set, and whether they are known.
// Without a next key to make current nothing waits, nor do revocations. It is called
// before the ring is shared.
func (r *Ring) ActivateAfter(behind func(active Description) (consumers []string, known bool), timeout time.Duration, log *slog.Logger) {
	r.activation = &activation{behind: behind, timeout: timeout, log: log}
}

// held returns a HeldError when a rotation has to wait. The ring is being updated.
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
	if r.life.RotateEvery > 0 && !r.pushed { // it waits since it was due, also over a restart
		if due := now.Add(r.untilDue()); due.Before(since) {
			since = due
		}
	}
	held := &HeldError{Behind: behind, Until: since.Add(a.timeout)}
	if now.Before(held.Until) {
		return held
	}
	if a.overdue == a.next { // the step is tried again
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

// noteWaiting notes that the rotation that is due waits.
func (r *Ring) noteWaiting(held *HeldError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		r.activation.log.Info("a rotation of the ticket keys waits",
			slog.String("reason", held.Error()), slog.Time("until", held.Until))
	}
	r.waiting = held
}

// Activation returns how rotations wait for consumers; nil when they do not.
func (r *Ring) Activation() *Activation {
	if r.activation == nil {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return &Activation{Waiting: r.waiting, Timeouts: r.timeouts}
}
