package fleet_test

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/fleet"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/seal"
)

// rotor is a node that rotates the ticket keys of its fleet. mu guards all but the
// ring.
type rotor struct {
	ring *keys.Ring

	mu     sync.Mutex
	begun  int                // rotations that were to be stored
	failed int                // those of them that were not
	seen   []keys.Description // every set that was active
	at     []time.Time        // since when
}

// record is the [keys.Record] of the node's own rotations.
func (r *rotor) record(_, _ keys.Description, failure error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if failure == nil {
		r.begun++
	} else {
		r.failed++
	}
	return nil
}

// made is how many rotations were stored.
func (r *rotor) made() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begun - r.failed
}

// follow notes every set until done.
func (r *rotor) follow(ctx context.Context, done func() bool) {
	for {
		changed := r.ring.Changed()
		d := r.ring.Description()
		r.mu.Lock()
		r.seen, r.at = append(r.seen, d), append(r.at, time.Now())
		r.mu.Unlock()
		if done() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// Three nodes rotate the keys of a fleet for 100 intervals: each interval makes one
// generation, whichever node it was, and all nodes have the same one.
func TestRotation(t *testing.T) {
	t.Parallel()
	const (
		rotations = 100
		interval  = 100 * time.Millisecond
		// A node knows the time of Redis to within half of a question's round trip.
		clockError = interval / 4
	)
	server := redistest.Start(t)
	sealKeys, err := seal.ParseKeys(seal.GenerateKey())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*rotations*interval)
	defer cancel()
	life := keys.Lifecycle{RotateEvery: interval, TicketLifetime: 3 * interval}
	rotors := make([]*rotor, 3)
	nodes := make([]*fleet.Node, len(rotors))
	for i := range rotors {
		nodes[i], err = fleet.New(fleet.Config{
			URL: server.URL(), Namespace: "test", ReadTimeout: 50 * time.Millisecond, MaxStale: time.Second, PollEvery: time.Second,
			Seal: sealKeys, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer nodes[i].Close()
		redistest.Await(t, "a node to connect", func() error { return nodes[i].Connect(ctx) })
		ring, err := keys.JoinRing(ctx, nodes[i].Now, life, nodes[i].KeyStore(nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		rotors[i] = &rotor{ring: ring}
	}
	first := rotors[0].ring.Generation()
	enough := func() bool {
		made := 0
		for _, r := range rotors {
			made += r.made()
		}
		return made >= rotations
	}
	running, stop := context.WithCancel(ctx)
	var work, followers sync.WaitGroup
	for i, r := range rotors {
		work.Go(func() { nodes[i].Run(running, r.ring.Refresh) })
		work.Go(func() { r.ring.RotateWhenDue(running, slog.New(slog.DiscardHandler), r.record) })
		followers.Go(func() { r.follow(ctx, enough) })
	}
	followers.Wait()
	stop()
	work.Wait()
	if ctx.Err() != nil {
		t.Fatalf("there are not %d rotations in %v", rotations, 10*rotations*interval)
	}

	// All have seen the same sets, though one may have been too short-lived for a
	// node to see.
	type generation struct {
		key         string
		activatedAt time.Time
		first, last time.Time // when a node had it
	}
	all := make(map[uint64]*generation)
	for i, r := range rotors {
		for j, d := range r.seen {
			g := all[d.Generation]
			if g == nil {
				g = &generation{key: d.Keys[0].Fingerprint, activatedAt: d.Keys[0].ActivatedAt, first: r.at[j], last: r.at[j]}
				all[d.Generation] = g
			}
			if g.key != d.Keys[0].Fingerprint || !g.activatedAt.Equal(d.Keys[0].ActivatedAt) {
				t.Errorf("node %d has another set of generation %d than others", i, d.Generation)
			}
			if r.at[j].Before(g.first) {
				g.first = r.at[j]
			}
			if r.at[j].After(g.last) {
				g.last = r.at[j]
			}
		}
	}
	var gaps, spreads []time.Duration
	order := slices.Sorted(maps.Keys(all))
	for i, n := range order[1:] {
		before, g := all[order[i]], all[n]
		gap := g.activatedAt.Sub(before.activatedAt)
		if gap < interval-clockError {
			t.Errorf("generation %d follows %v after the one before, twice in an interval", n, gap)
		}
		gaps = append(gaps, gap)
		spreads = append(spreads, g.last.Sub(g.first))
	}
	slices.Sort(gaps)
	slices.Sort(spreads)
	t.Logf("an interval took %v to %v; all nodes had a set %v after the first, at most %v",
		gaps[0], gaps[len(gaps)-1], spreads[len(spreads)*99/100-1], spreads[len(spreads)-1])

	// Each rotation made a generation, and nothing else did. Those after the last that
	// was followed may not have been seen.
	var made int
	for _, r := range rotors {
		made += r.made()
	}
	if seen := len(order) - 1; order[0] != first || seen > made || seen < rotations {
		t.Errorf("%d rotations made %d generations", made, seen)
	}
}
