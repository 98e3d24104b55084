package main

import (
	"sync"
	"sync/atomic"
	"time"
)

// deadline is the deadline of a connection for reading, or for writing, with a
// timer that is left alone as long as it does not fire too late. net/http moves
// the deadlines five times in a request, nearly always further away, and moving
// those of the connection costs a twentieth of a GET. It is safe for concurrent use.
type deadline struct {
	set   func(time.Time) error // the connection's own
	epoch time.Time             // with a monotonic clock, which no correction of the time moves

	want atomic.Int64 // when it is, in nanoseconds since epoch; 0 is never
	at   atomic.Int64 // when the timer fires, likewise; 0 when it does not run
	// over is whether set was told that it has passed.
	over atomic.Bool
	// idle is whether nothing waits on the connection that would have to be woken.
	idle atomic.Bool

	mu    sync.Mutex // guards the timer, and changes of at and over
	timer *time.Timer
}

// longAgo has passed.
var longAgo = time.Unix(1, 0)

// move moves the deadline; the zero time is none.
func (d *deadline) move(t time.Time) error {
	want := int64(0)
	if !t.IsZero() {
		want = int64(t.Sub(d.epoch)) | 1 // is not 0
	}
	d.want.Store(want)
	if !d.over.Load() {
		// The order of these, here and in fire and begin, has one of the two see the
		// other's.
		if at := d.at.Load(); want == 0 || at != 0 && at <= want || want < 0 && d.idle.Load() {
			return nil
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.apply()
}

// begin comes before something waits on the connection, which it must not when the
// deadline was moved to where it had passed: nobody may have told the connection.
func (d *deadline) begin() (passed bool) {
	d.idle.Store(false)
	return d.want.Load() < 0
}

// end comes when nothing waits any more.
func (d *deadline) end() { d.idle.Store(true) }

// apply has the connection and the timer as the deadline wants them. The deadline
// is locked.
func (d *deadline) apply() error {
	for want := d.want.Load(); d.start(want); want = d.want.Load() {
		d.over.Store(true)
		// Who took it back without having seen that is seen here.
		if d.want.Load() == want {
			return d.set(longAgo)
		}
	}
	if !d.over.Load() {
		return nil
	}
	defer d.over.Store(false) // not before, for others go on at once when it is not
	return d.set(time.Time{})
}

// start has the timer fire when the deadline wants it, or sooner. It reports whether
// that has passed instead. The deadline is locked.
func (d *deadline) start(want int64) (passed bool) {
	if at := d.at.Load(); want == 0 || at != 0 && at <= want {
		return false
	}
	if want < 0 { // longAgo, or nearly
		return true
	}
	left := time.Duration(want) - time.Since(d.epoch)
	if left <= 0 {
		return true
	}
	d.at.Store(want)
	if d.timer == nil {
		d.timer = time.AfterFunc(left, d.fire)
	} else {
		d.timer.Reset(left)
	}
	return false
}

// fire is called by the timer.
func (d *deadline) fire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at.Store(0)
	_ = d.apply() // the connection may be closed
}

// stop ends the timer of a connection that is closed.
func (d *deadline) stop() {
	d.want.Store(0)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
}
