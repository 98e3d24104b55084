package main

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestDeadline moves a deadline about at random, and the connection has to be told
// that it has passed when it has, to the nanosecond, and at no other time.
func TestDeadline(t *testing.T) {
	seed := rand.Uint64()
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		var over bool
		told := 0
		d := &deadline{epoch: time.Now(), set: func(at time.Time) error {
			told++
			over = !at.IsZero() && !at.After(time.Now())
			return nil
		}}
		defer d.stop()
		var want time.Time
		const steps = 10_000
		for step := range steps {
			waits := random.IntN(2) == 0
			if !waits {
				d.end()
			} else if passed := d.begin(); passed != want.Equal(longAgo) {
				t.Fatalf("step %d (seed %d): with the deadline at %v it has passed: %t", step, seed, want, passed)
			}
			switch random.IntN(6) {
			case 0:
				want = time.Time{}
			case 1:
				want = longAgo
			default: // most move further away, as net/http does
				want = time.Now().Add(1 + time.Duration(random.Int64N(int64(20*time.Second))))
			}
			if err := d.move(want); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(random.Int64N(int64(8 * time.Second))))
			synctest.Wait()
			passed := !want.IsZero() && !want.After(time.Now())
			if over != passed && (waits || !want.Equal(longAgo)) {
				t.Fatalf("step %d (seed %d): the connection has it as passed: %t, it is: %t", step, seed, over, passed)
			}
		}
		if told >= steps {
			t.Errorf("the connection is told %d times in %d steps", told, steps)
		}
	})
}

// TestDeadlineTakenBack takes a deadline back just as it passes: from then on the
// connection must not have it as passed, for nothing would ever change that.
func TestDeadlineTakenBack(t *testing.T) {
	var over atomic.Bool
	d := &deadline{epoch: time.Now(), set: func(at time.Time) error {
		over.Store(!at.IsZero())
		return nil
	}}
	defer d.stop()
	for round := range 20_000 {
		for _, at := range []time.Time{time.Now().Add(20 * time.Microsecond), {}} {
			if err := d.move(at); err != nil {
				t.Fatal(err)
			}
			for wait := time.Duration(round%40) * time.Microsecond; !at.IsZero() && time.Since(at.Add(-20*time.Microsecond)) < wait; {
			}
		}
		for d.at.Load() != 0 { // the timer fires soon
			runtime.Gosched()
		}
		d.mu.Lock() // and is done
		stuck := over.Load()
		d.mu.Unlock()
		if stuck {
			t.Fatalf("round %d: the connection has a deadline as passed that it has no more", round)
		}
	}
}

// TestDeadlineWakes moves a deadline to where it has passed just as something begins
// to wait on the connection: it must not wait.
func TestDeadlineWakes(t *testing.T) {
	passed := make(chan struct{}, 1)
	d := &deadline{epoch: time.Now(), set: func(at time.Time) error {
		if at.IsZero() {
			select {
			case <-passed:
			default:
			}
		} else {
			passed <- struct{}{}
		}
		return nil
	}}
	defer d.stop()
	// Both spin, for only then they come to it at the same time.
	var began, ended atomic.Int64
	reach := func(counter *atomic.Int64, n int64) {
		for spins := 1; counter.Load() < n && !t.Failed(); spins++ {
			if spins%1024 == 0 {
				runtime.Gosched()
			}
		}
	}
	const rounds = 50_000
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() {
		for n := range int64(rounds) {
			reach(&began, n+1)
			if !d.begin() {
				select {
				case <-passed:
					passed <- struct{}{} // it has passed until it is moved
				case <-time.After(10 * time.Second):
					t.Errorf("round %d: it waits", n)
					return
				}
			}
			d.end()
			ended.Add(1)
		}
	})
	for n := range int64(rounds) {
		began.Add(1)
		for range n % 1024 {
			_ = ended.Load()
		}
		if err := d.move(longAgo); err != nil {
			t.Fatal(err)
		}
		if reach(&ended, n+1); t.Failed() {
			return
		}
		if err := d.move(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
}
