package keys

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// Lifecycle says how long keys live. A key is first next for one interval, when it is
// only distributed; then it encrypts for one interval; then it decrypts until its last
// ticket has expired. With the zero Lifecycle, only [Ring.Rotate] changes keys.
type Lifecycle struct {
	// RotateEvery is the interval; 0 disables rotation.
	RotateEvery time.Duration
	// TicketLifetime is how long a ticket can be used.
	TicketLifetime time.Duration
}

// Retention returns how many keys a rotation keeps: next, current, and one previous key
// for each interval, complete or not, in the lifetime of a ticket. Without an interval,
// it assumes one as long as the ticket lifetime.
func (l Lifecycle) Retention() int {
	if l.RotateEvery == 0 {
		return 3
	}
	return int((l.TicketLifetime+l.RotateEvery-1)/l.RotateEvery) + 2
}

const (
	// checkEvery is how often the wall clock is read.
	checkEvery = time.Minute
	// rotateAgain is the pause before retrying a rotation that could not be stored.
	rotateAgain = 10 * time.Second
	// lookAgain is how often a waiting rotation checks the consumers.
	lookAgain = time.Second
)

// RotateWhenDue rotates the set at the end of each interval until ctx ends. It never
// rotates a set that was pushed, even after a manual rotation.
//
// An interval ends when it has passed on the wall clock, which includes the time that a
// machine was suspended, or on the monotonic clock, which is never set back. A clock
// that jumps ahead causes only one rotation. A rotation that fails with
// [ErrUnavailable] is retried, and logged unless the store is unsettled. For record,
// see [Update].
func (r *Ring) RotateWhenDue(ctx context.Context, log *slog.Logger, record Record) {
	if r.life.RotateEvery == 0 {
		return
	}
	for {
		changed := r.Changed()
		d, left, err := r.rotateIfDue(ctx, record)
		switch {
		case errors.Is(err, ErrUnsettled): // temporary; the store logs when it begins
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

// rotateIfDue rotates a generated set whose interval is over. It returns the new active
// set, or nil, and when to check again.
func (r *Ring) rotateIfDue(ctx context.Context, record Record) (rotated *Description, left time.Duration, err error) {
	r.updating.Lock()
	defer r.updating.Unlock()
	notDue := func() bool { return r.pushed || r.untilDue() > 0 }
	err = r.afterOthers(ctx, func(ctx context.Context) error {
		if notDue() {
			return nil
		}
		if err := r.current(ctx); err != nil || notDue() {
			return err
		}
		if err := r.held(); err != nil {
			return err
		}
		if err := r.commit(ctx, r.prepare(r.rotation(), SourceRotation), r.taken, record); err != nil {
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

// untilDue returns the rest of the current key's interval. The ring is being updated.
func (r *Ring) untilDue() time.Duration {
	passed := max(time.Since(r.activations[r.description.Keys[0].Name]), r.now().Sub(r.description.Keys[0].ActivatedAt))
	return r.life.RotateEvery - passed
}

// nextRotation returns the time of the next automatic rotation; zero for none. The ring
// is locked or being updated.
func (r *Ring) nextRotation() time.Time {
	if r.pushed || r.life.RotateEvery == 0 || len(r.description.Keys) == 0 {
		return time.Time{}
	}
	at := r.description.Keys[0].ActivatedAt.Add(r.life.RotateEvery)
	// The wall clock may have been set back.
	if latest := r.now().Add(r.life.RotateEvery - time.Since(r.activations[r.description.Keys[0].Name])); latest.Before(at.Add(-time.Second)) {
		return latest
	}
	return at
}

// rotation returns the active set rotated by one step. The ring is being updated.
func (r *Ring) rotation() *Set {
	keys := slices.Clone(r.set.Keys)
	if r.set.Next != nil {
		keys = slices.Insert(keys, 0, *r.set.Next)
	}
	// Drop surplus previous keys that have been surplus for longer than the lifetime of
	// a ticket. Manual rotations may come faster than the interval.
	keep := max(r.life.Retention(), r.set.len()) - 1 // without the key that will be next
	for len(keys) > keep && (len(keys) >= MaxKeys || r.isOver(keys[len(keys)-2])) {
		keys = keys[:len(keys)-1]
	}
	next := fresh()
	return &Set{Keys: keys, Next: &next}
}

// isOver reports whether every ticket sealed before the key was activated has expired.
// If the key never was activated, it came with a pushed set, and its sender decides.
// The wall clock is not used, because it may jump.
func (r *Ring) isOver(k Key) bool {
	activated, known := r.activations[k.Name()]
	return !known || time.Since(activated) >= r.life.TicketLifetime
}
