package keys

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// twiceADay is the service's default lifecycle.
var twiceADay = Lifecycle{RotateEvery: 12 * time.Hour, TicketLifetime: 24 * time.Hour}

func TestRetention(t *testing.T) {
	for _, test := range []struct {
		every, lifetime time.Duration
		want            int
	}{
		{12 * time.Hour, 24 * time.Hour, 4},
		{12 * time.Hour, 24*time.Hour + 1, 5},
		{24 * time.Hour, time.Hour, 3},
		{time.Hour, 24 * time.Hour, 26},
		{0, 24 * time.Hour, 3},
	} {
		if got := (Lifecycle{test.every, test.lifetime}).Retention(); got != test.want {
			t.Errorf("every %v, tickets of %v: %d keys, want %d", test.every, test.lifetime, got, test.want)
		}
	}
}

// TestWeeksOfRotation issues tickets at random times in simulated weeks, in a fleet
// whose servers are up to date or an hour behind, with occasional manual rotations.
// Each ticket must be decryptable during its lifetime. No server may see a ticket of a
// key that it does not have. No key may encrypt for longer than an interval.
func TestWeeksOfRotation(t *testing.T) {
	const behind = time.Hour
	seed := rand.Uint64()
	for _, life := range []Lifecycle{
		twiceADay,
		{RotateEvery: 5 * time.Hour, TicketLifetime: 24 * time.Hour},
		{RotateEvery: 24 * time.Hour, TicketLifetime: 2 * time.Hour},
		{RotateEvery: 4 * time.Hour, TicketLifetime: 168 * time.Hour}, // 44 keys, and room for 20 steps by hand
	} {
		t.Run(fmt.Sprintf("every %v, tickets of %v", life.RotateEvery, life.TicketLifetime), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				t.Log("seed", seed)
				random := rand.New(rand.NewPCG(seed, 1))
				r := NewRing(time.Now, life)
				ctx, cancel := context.WithCancel(t.Context())
				go r.RotateWhenDue(ctx, slog.New(slog.DiscardHandler), nil)
				type ticket struct {
					key Name
					end time.Time
				}
				var tickets []ticket
				current, since := r.Description().Keys[0].Name, time.Now()
				late := r.Description() // the description on a server that is behind
				steps := func() uint64 { return r.Stats().Updates[SourceRotation] }
				lateSince, lateSteps := time.Now(), steps()
				for end := time.Now().Add(6 * 7 * 24 * time.Hour); time.Now().Before(end); {
					time.Sleep(time.Duration(random.ExpFloat64() * float64(10*time.Minute)))
					synctest.Wait()
					if random.IntN(300) == 0 {
						if _, err := r.Rotate(t.Context(), Update{}); err != nil {
							t.Fatal(err)
						}
					}
					d := r.Description()
					has := map[Name]bool{}
					for _, k := range d.Keys {
						has[k.Name] = true
					}
					now := time.Now()
					if d.Keys[0].Name != current {
						current, since = d.Keys[0].Name, now
					} else if now.Sub(since) > life.RotateEvery {
						t.Fatalf("a key encrypts for %v", now.Sub(since))
					}
					if left := d.NextRotationAt.Sub(now); left < 0 || left > life.RotateEvery {
						t.Fatalf("the next rotation is in %v", left)
					}
					if now.Sub(lateSince) > behind {
						late, lateSince, lateSteps = d, now, steps()
					}
					tickets = append(tickets, ticket{current, now.Add(life.TicketLifetime)})
					live := tickets[:0]
					for _, ticket := range tickets {
						if now.After(ticket.end) {
							continue
						}
						live = append(live, ticket)
						if !has[ticket.key] {
							t.Fatalf("a ticket that lives for %v more has lost its key", ticket.end.Sub(now))
						}
					}
					tickets = live
					known := false
					for _, k := range late.Keys {
						known = known || k.Name == current
					}
					if !known && steps()-lateSteps < 2 {
						t.Fatal("a key encrypts that was not handed out by the step before")
					}
				}
				cancel()
			})
		})
	}
}

// TestClockJumps sets the wall clock back and forth. It must not cause a missed
// rotation, and each jump may cause at most one.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var offset atomic.Int64
		wall := func() time.Time { return time.Now().Round(0).Add(time.Duration(offset.Load())) }
		r := NewRing(wall, twiceADay)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.RotateWhenDue(ctx, slog.New(slog.DiscardHandler), nil)
		rotations := r.Stats().Updates[SourceRotation]
		step := func(what string, jump, sleep time.Duration, want uint64) {
			t.Helper()
			current := r.Description().Keys[0].Name // of tickets that live through the whole step
			offset.Add(int64(jump))
			time.Sleep(sleep)
			synctest.Wait()
			d := r.Description()
			before := rotations
			rotations = r.Stats().Updates[SourceRotation]
			if got := rotations - before; got != want {
				t.Errorf("%s: %d rotations, want %d", what, got, want)
			}
			if left := d.NextRotationAt.Sub(wall()); left <= 0 || left > twiceADay.RotateEvery {
				t.Errorf("%s: the next rotation is in %v", what, left)
			}
			if !slices.ContainsFunc(d.Keys, func(k KeyDescription) bool { return k.Name == current }) {
				t.Errorf("%s: the key of live tickets is gone", what)
			}
			if most := twiceADay.Retention() + 2; len(d.Keys) > most { // the jumps caused two more steps in a day
				t.Errorf("%s: %d keys are kept", what, len(d.Keys))
			}
		}
		step("an hour", 0, time.Hour, 0)
		step("a year ahead", 365*24*time.Hour, 2*time.Minute, 1)
		step("hours after it", 0, 11*time.Hour, 0)
		step("the end of the interval", 0, time.Hour, 1)
		step("two years back", -2*365*24*time.Hour, 11*time.Hour, 0)
		step("the end of that interval", 0, time.Hour, 1)
		step("a day", 0, 24*time.Hour, 2)
		step("suspended for three days", 3*24*time.Hour, 2*time.Minute, 1)
		step("a year back", -365*24*time.Hour, time.Minute, 0)
		for range 10 {
			step("a day after that", 0, 24*time.Hour, 2)
		}
	})
}

// TestPushedSetsStay checks that the ring never rotates pushed sets by itself.
func TestPushedSetsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRing(time.Now, twiceADay)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.RotateWhenDue(ctx, slog.New(slog.DiscardHandler), nil)
		time.Sleep(13 * time.Hour)
		generated, d := r.Snapshot()
		if d.Source != SourceRotation || d.NextRotationAt.IsZero() {
			t.Fatalf("%+v", d)
		}
		if _, err := r.Replace(t.Context(), generated, Update{Source: SourceAPI}); err != nil {
			t.Fatal(err)
		}
		if r.Description().NextRotationAt.IsZero() {
			t.Error("the same set again stops its rotation")
		}
		stays := func(what string) {
			t.Helper()
			before := r.Generation()
			time.Sleep(100 * time.Hour)
			synctest.Wait()
			if d := r.Description(); d.Generation != before || !d.NextRotationAt.IsZero() {
				t.Errorf("%s: rotated, or is going to be: %+v", what, d)
			}
		}
		if _, err := r.Replace(t.Context(), testSet(size128, 1, 2), Update{Source: SourceAPI}); err != nil {
			t.Fatal(err)
		}
		stays("pushed")
		if _, err := r.Rotate(t.Context(), Update{}); err != nil {
			t.Fatal(err)
		}
		stays("rotated by hand")
	})
}

func TestChanged(t *testing.T) {
	r := NewRing(time.Now, Lifecycle{})
	changed := r.Changed()
	set, _ := r.Snapshot()
	if _, err := r.Replace(t.Context(), set, Update{Source: SourceAPI}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
		t.Error("the same set is a change")
	default:
	}
	if _, err := r.Rotate(t.Context(), Update{}); err != nil {
		t.Fatal(err)
	}
	<-changed
	if r.Changed() == changed {
		t.Error("the next change has no channel of its own")
	}
}
