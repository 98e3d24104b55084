package fleet_test

import (
	"context"
	"log/slog"
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

	mu   sync.Mutex
	made map[uint64]keys.Description // its rotations, by generation
	seen []keys.Description          // sets that were active
	at   []time.Time                 // since when
}

// record is the [keys.Record] of the node's own rotations.
func (r *rotor) record(_, after keys.Description, failure error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if failure == nil {
		r.made[after.Generation] = after
	} else {
		delete(r.made, after.Generation)
	}
	return nil
}

// follow notes every set until one has the last generation.
func (r *rotor) follow(ctx context.Context, last uint64) {
	for {
		changed := r.ring.Changed()
		d := r.ring.Description()
		r.mu.Lock()
		r.seen, r.at = append(r.seen, d), append(r.at, time.Now())
		r.mu.Unlock()
		if d.Generation >= last {
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
// generation, whichever node it was, and all nodes have it soon.
func TestRotation(t *testing.T) {
	t.Parallel()
	const (
		rotations = 100
		interval  = 100 * time.Millisecond
		// A node knows the time of Redis to within half of a question's round trip.
		clockError = interval / 4
		spread     = time.Second // how long a set may take to all nodes
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
			URL: server.URL(), Namespace: "test", ReadTimeout: 50 * time.Millisecond, MaxStale: time.Second,
			Seal: sealKeys, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer nodes[i].Close()
		if err := nodes[i].Connect(ctx); err != nil {
			t.Fatal(err)
		}
		ring, err := keys.JoinRing(nodes[i].Now, life, nodes[i].KeyStore(nil))
		if err != nil {
			t.Fatal(err)
		}
		rotors[i] = &rotor{ring: ring, made: make(map[uint64]keys.Description)}
	}
	// The first update of a node that found a set leaps over the generations that
	// might have been before; the last one to come leaps over those of all.
	if _, err := rotors[len(rotors)-1].ring.Rotate(keys.Update{}); err != nil {
		t.Fatal(err)
	}
	first := rotors[len(rotors)-1].ring.Generation()
	running, stop := context.WithCancel(ctx)
	var work, followers sync.WaitGroup
	for i, r := range rotors {
		work.Go(func() { nodes[i].Run(running, r.ring.Refresh) })
		work.Go(func() { r.ring.RotateWhenDue(running, slog.New(slog.DiscardHandler), r.record) })
		followers.Go(func() { r.follow(ctx, first+rotations) })
	}
	followers.Wait()
	stop()
	work.Wait()
	if ctx.Err() != nil {
		t.Fatalf("there are not %d rotations in %v", rotations, 10*rotations*interval)
	}

	// Each generation was made by one node, an interval after the one before.
	made := make(map[uint64]keys.Description)
	for _, r := range rotors {
		for generation, d := range r.made {
			if _, ok := made[generation]; ok {
				t.Errorf("two nodes made generation %d", generation)
			}
			made[generation] = d
		}
	}
	var gaps []time.Duration
	for n := first + 1; n <= first+rotations; n++ {
		d, ok := made[n]
		if !ok {
			t.Errorf("nobody made generation %d", n)
			continue
		}
		if before, ok := made[n-1]; ok {
			gap := d.Keys[0].ActivatedAt.Sub(before.Keys[0].ActivatedAt)
			if gap < interval-clockError {
				t.Errorf("generation %d follows %v after the one before, twice in an interval", n, gap)
			}
			gaps = append(gaps, gap)
		}
	}

	// All nodes had the same sets, soon one after the other. One may have been too
	// busy to see a set before the next.
	from, to := make(map[uint64]time.Time), make(map[uint64]time.Time)
	for i, r := range rotors {
		for j, d := range r.seen {
			n := d.Generation
			if n > first && n <= first+rotations && d.Keys[0].Fingerprint != made[n].Keys[0].Fingerprint {
				t.Errorf("node %d has another set of generation %d", i, n)
			}
			if at, ok := from[n]; !ok || r.at[j].Before(at) {
				from[n] = r.at[j]
			}
			if r.at[j].After(to[n]) {
				to[n] = r.at[j]
			}
		}
	}
	var spreads []time.Duration
	for n, at := range from {
		if n > first { // that was there before anybody looked
			spreads = append(spreads, to[n].Sub(at))
		}
	}
	slices.Sort(gaps)
	slices.Sort(spreads)
	t.Logf("an interval took %v to %v; all nodes had a set %v after the first, at most %v",
		gaps[0], gaps[len(gaps)-1], spreads[(len(spreads)-1)*99/100], spreads[len(spreads)-1])
	// A skipped interval would be one of two.
	if median := gaps[len(gaps)/2]; median >= 2*interval {
		t.Errorf("an interval takes %v", median)
	}
	if latest := spreads[len(spreads)-1]; latest > spread {
		t.Errorf("a set took %v to all nodes", latest)
	}
}
