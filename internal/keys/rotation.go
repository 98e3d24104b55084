package keys

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// Lifecycle says how long keys live. A key is next for one interval and only distributed,
// then encrypts for one interval, and then decrypts until its last ticket has expired. With
// the zero Lifecycle, keys change only by [Ring.Rotate].
type Lifecycle struct {
	// RotateEvery is the interval; 0 is none.
	RotateEvery time.Duration
	// TicketLifetime is how long a ticket may be used.
	TicketLifetime time.Duration
}

// Retention is how many keys a rotation keeps: next, current, and as many
// previous ones as there are intervals, begun ones too, in the life of a ticket.
// Without an interval it is that of an interval as long as tickets live.
func (l Lifecycle) Retention() int {
	if l.RotateEvery == 0 {
		return 3
	}
	return int((l.TicketLifetime+l.RotateEvery-1)/l.RotateEvery) + 2
}

const (
	// checkEvery is how often the wall clock is looked at.
	checkEvery = time.Minute
	// rotateAgain is how long after a rotation that could not be stored it is
	// tried again.
	rotateAgain = 10 * time.Second
	// lookAgain is how often a rotation that waits for consumers looks at them.
	lookAgain = time.Second
)

// RotateWhenDue rotates the set at the end of each interval until ctx ends. It does not
// rotate a set that was pushed, also not after a rotation by hand.
//
// The interval ends when it has passed on the wall clock, which includes the time that a
// machine was suspended, or on the monotonic clock, which is never set back. A clock that
// jumps ahead causes one rotation, however far it jumps. A rotation that fails with
// [ErrUnavailable] is retried, and logged unless the store is unsettled. record is that of
// [Update].
func (r *Ring) RotateWhenDue(ctx context.Context, log *slog.Logger, record Record) {
	if r.life.RotateEvery == 0 {
		return
	}
	for {
		changed := r.Changed()
		d, left, err := r.rotateIfDue(record)
		switch {
		case errors.Is(err, ErrUnsettled): // which passes, and whose beginning the store logs
		case err != nil:
			log.Error("cannot rotate the ticket keys; retrying", slog.String("error", err.Error()))
		case d != nil:
			log.Info("ticket keys rotated", slog.Uint64("generation", d.Generation), slog.String("current", d.Keys[0].Name.String()))
		}
		timer := time.NewTimer(min(left, checkEvery))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// rotateIfDue rotates a generated set whose interval is over, and returns what
// is active then, else nil, and when to look again.
func (r *Ring) rotateIfDue(record Record) (rotated *Description, left time.Duration, err error) {
	r.updating.Lock()
	defer r.updating.Unlock()
	notDue := func() bool { return r.pushed || r.untilDue() > 0 }
	err = r.afterOthers(func() error {
		if notDue() {
			return nil
		}
		if err := r.current(); err != nil || notDue() {
			return err
		}
		if err := r.held(); err != nil {
			return err
		}
		if err := r.commit(r.prepare(r.rotation(), SourceRotation), r.taken, record); err != nil {
			return err
		}
		rotated = new(r.describe())
		return nil
	})
	held, isHeld := errors.AsType[*HeldError](err)
	switch {
	case isHeld:
		r.noteWaiting(held)
		return nil, lookAgain, nil
	case err != nil:
		return nil, rotateAgain, err
	case r.pushed:
		return nil, checkEvery, nil
	}
	return rotated, r.untilDue(), nil
}

// untilDue is what is left of the interval of the current key. The ring is
// being updated.
func (r *Ring) untilDue() time.Duration {
	passed := max(time.Since(r.activations[r.description.Keys[0].Name]), r.now().Sub(r.description.Keys[0].ActivatedAt))
	return r.life.RotateEvery - passed
}

// nextRotation is when the set rotates by itself; zero when it does not. The
// ring is locked or being updated.
func (r *Ring) nextRotation() time.Time {
	if r.pushed || r.life.RotateEvery == 0 || len(r.description.Keys) == 0 {
		return time.Time{}
	}
	at := r.description.Keys[0].ActivatedAt.Add(r.life.RotateEvery)
	// The wall clock may have been set back since.
	if latest := r.now().Add(r.life.RotateEvery - time.Since(r.activations[r.description.Keys[0].Name])); latest.Before(at.Add(-time.Second)) {
		return latest
	}
	return at
}

// rotation returns the set that follows the active one by a step. The ring is
// being updated.
func (r *Ring) rotation() *Set {
	keys := slices.Clone(r.set.Keys)
	if r.set.Next != nil {
		keys = slices.Insert(keys, 0, *r.set.Next)
	}
	// Of the previous keys that are too many, those go that have been so for
	// longer than a ticket lives. Rotations by hand may come faster than the
	// interval.
	keep := max(r.life.Retention(), r.set.len()) - 1 // without the key that is to be next
	for len(keys) > keep && (len(keys) >= MaxKeys || r.isOver(keys[len(keys)-2])) {
		keys = keys[:len(keys)-1]
	}
	next := fresh()
	return &Set{Keys: keys, Next: &next}
}

// isOver reports whether no ticket is alive that was sealed before the key was
// activated. One that never was came with a set that somebody pushed, who has to
// know. The wall clock has no say, for it may leap.
func (r *Ring) isOver(k Key) bool {
	activated, known := r.activations[k.Name()]
	return !known || time.Since(activated) >= r.life.TicketLifetime
}
