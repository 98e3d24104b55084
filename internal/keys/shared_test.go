package keys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sharedState is the state that several rings save to.
type sharedState struct {
	mu        sync.Mutex
	state     []byte
	unsettled bool
}

// lose replaces the state of the store by an older one, or nil. The store is then
// unsettled.
func (s *sharedState) lose(older []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.unsettled = bytes.Clone(older), true
}

// settle ends the time in which rings put their copies back.
func (s *sharedState) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsettled = false
}

// sharedStore is a ring's access to it, a compare-and-set.
type sharedStore struct {
	*sharedState
	seen []byte
	copy []byte // the ring's own
	away error  // the error of loading it
}

func (s *sharedStore) Copy() ([]byte, error) { return bytes.Clone(s.copy), nil }

func (s *sharedStore) Settled() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsettled {
		return ErrUnsettled
	}
	return nil
}

func (s *sharedStore) Load(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return nil, s.away
	}
	s.seen = bytes.Clone(s.state)
	return bytes.Clone(s.state), nil
}

func (s *sharedStore) Save(_ context.Context, state []byte) error {
	if err := s.Settled(); err != nil {
		return err
	}
	return s.replace(state, false)
}

func (s *sharedStore) Restore(_ context.Context, state []byte) error { return s.replace(state, true) }

func (s *sharedStore) replace(state []byte, restored bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.Equal(s.seen, s.state) {
		return ErrConflict
	}
	s.state, s.unsettled = bytes.Clone(state), restored
	s.seen, s.copy = bytes.Clone(state), bytes.Clone(state)
	return nil
}

func newShared(t *testing.T, shared *sharedState) *Ring {
	t.Helper()
	r, err := JoinRing(t.Context(), time.Now, Lifecycle{}, &sharedStore{sharedState: shared}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Rings that save to one store agree with a plain model, a list of all sets: each
// update starts from the last one, whichever ring made it.
func TestShared(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SESSAPI_TEST_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SESSAPI_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	shared := new(sharedState)
	var rings []*Ring
	for range 4 {
		rings = append(rings, newShared(t, shared))
	}
	last := rings[0].Description()
	backup := bytes.Clone(shared.state)
	for step := range 3000 {
		r := rings[random.IntN(len(rings))]
		var d Description
		var err error
		u := Update{Source: SourceAPI}
		switch random.IntN(8) {
		case 0:
			if err := r.Refresh(); err != nil {
				t.Fatal(err)
			}
			if got := r.Generation(); got != last.Generation {
				t.Fatalf("step %d: generation %d after a refresh, want %d", step, got, last.Generation)
			}
			continue
		case 1: // the ring with the newest copy restores a lost state
			older := backup
			if random.IntN(2) == 0 {
				older = nil
			}
			shared.lose(older)
			for i := range rings {
				if err := rings[(step+i)%len(rings)].Refresh(); err != nil {
					t.Fatal(err)
				}
				if _, err := r.Rotate(t.Context(), u); !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrUnsettled) {
					t.Fatalf("step %d: an update while rings put back what they have: %v", step, err)
				}
			}
			for _, r := range rings { // with the set that the last of them put back
				if err := r.Refresh(); err != nil || r.Generation() != last.Generation {
					t.Fatalf("step %d: generation %d, want %d; %v", step, r.Generation(), last.Generation, err)
				}
			}
			shared.settle()
			backup = bytes.Clone(shared.state)
			continue
		case 2, 3:
			d, err = r.Rotate(t.Context(), u)
		case 4: // holds even if the ring does not know that set yet
			u.If = func(g uint64) bool { return g == last.Generation }
			d, err = r.Rotate(t.Context(), u)
		case 5: // a ring that knows only an older set
			u.If = func(g uint64) bool { return g == last.Generation-1 }
			if _, err := r.Rotate(t.Context(), u); !errors.Is(err, ErrPrecondition) || r.Generation() != last.Generation {
				t.Fatalf("step %d: %v, generation %d, want %d", step, err, r.Generation(), last.Generation)
			}
			continue
		default:
			d, err = r.Replace(t.Context(), Generate(256, 1+random.IntN(4)), u)
		}
		if err != nil || d.Generation <= last.Generation {
			t.Fatalf("step %d: generation %d after %d, %v", step, d.Generation, last.Generation, err)
		}
		last = d
	}
	for _, r := range rings {
		if err := r.Refresh(); err != nil {
			t.Fatal(err)
		}
		if d := r.Description(); d.Generation != last.Generation || fmt.Sprint(d.Keys) != fmt.Sprint(last.Keys) {
			t.Errorf("%+v, want %+v", d, last)
		}
	}
}

// The set in the store, which the ring may not know yet, decides whether an update
// changes anything. A set or file content that was active before is not ignored, and a
// key that another ring has just added can be revoked.
func TestSharedNoChange(t *testing.T) {
	shared := new(sharedState)
	a, b := newShared(t, shared), newShared(t, shared)
	old, d := b.Snapshot()
	defer old.Wipe()
	if again, err := b.Replace(t.Context(), old, Update{Source: SourceAPI}); err != nil || again.Generation != d.Generation {
		t.Errorf("the active set again: generation %d, want %d; %v", again.Generation, d.Generation, err)
	}
	pushed := Generate(256, 2)
	name := pushed.Keys[0].Name()
	between, err := a.Replace(t.Context(), pushed, Update{Source: SourceAPI})
	if err != nil {
		t.Fatal(err)
	}
	if d, err = b.Replace(t.Context(), old, Update{Source: SourceAPI}); err != nil || d.Generation <= between.Generation {
		t.Errorf("the set before: generation %d after %d, %v", d.Generation, between.Generation, err)
	}
	if d, err = a.Replace(t.Context(), pushed, Update{Source: SourceAPI}); err != nil {
		t.Fatal(err)
	}
	if revoked, err := b.Revoke(t.Context(), name, Update{}); err != nil || revoked.Generation <= d.Generation {
		t.Errorf("revocation: generation %d after %d, %v", revoked.Generation, d.Generation, err)
	}
}

// The content of a key file is loaded once, whichever ring sees it first, and does not
// undo later updates.
func TestSharedFile(t *testing.T) {
	shared := new(sharedState)
	a, b := newShared(t, shared), newShared(t, shared)
	set := Generate(128, 2)
	data := ATS.Append(nil, set)
	file := [32]byte{1}
	taken, err := a.Load(t.Context(), ATS, data, Update{Source: SourceFile, file: &file})
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := a.Replace(t.Context(), Generate(128, 2), Update{Source: SourceAPI})
	if err != nil || pushed.Generation <= taken.Generation {
		t.Fatal(pushed, err)
	}
	if d, err := b.Load(t.Context(), ATS, data, Update{Source: SourceFile, file: &file}); err != nil || d.Generation != pushed.Generation {
		t.Errorf("generation %d, want %d; %v", d.Generation, pushed.Generation, err)
	}
}

// A state from a later version is neither loaded nor replaced.
func TestSharedUnread(t *testing.T) {
	shared := new(sharedState)
	r := newShared(t, shared)
	before := r.Description()
	good := shared.state
	later := append([]byte{stateVersion + 1}, good[1:]...)
	shared.state = later
	if err := r.Refresh(); !errors.Is(err, ErrInvalidState) {
		t.Error(err)
	}
	if _, err := r.Rotate(t.Context(), Update{}); !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrInvalidState) {
		t.Error(err)
	}
	if !bytes.Equal(shared.state, later) || r.Generation() != before.Generation {
		t.Error("it was replaced")
	}
	shared.state = good
	if err := r.Refresh(); err != nil {
		t.Error(err)
	}
	if _, err := r.Rotate(t.Context(), Update{}); err != nil {
		t.Error(err)
	}
}

// joined joins a ring with this copy of its own; nil for none.
func joined(t *testing.T, shared *sharedState, copied []byte) (*Ring, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return JoinRing(ctx, time.Now, Lifecycle{RotateEvery: time.Hour}, &sharedStore{sharedState: shared, copy: copied}, nil)
}

// At the start of a ring, the higher generation wins, and putting it back is recorded.
// A ring that has none, or was alone before, saves the first set to an empty store only
// after others had time to do so.
func TestJoin(t *testing.T) {
	states := func(t *testing.T) (older, newer []byte, first *Ring) {
		shared := new(sharedState)
		first = newShared(t, shared)
		older = bytes.Clone(shared.state)
		if _, err := first.Revoke(t.Context(), first.Description().Keys[0].Name, Update{}); err != nil {
			t.Fatal(err)
		}
		return older, bytes.Clone(shared.state), first
	}
	t.Run("older store", func(t *testing.T) {
		older, newer, first := states(t)
		shared := &sharedState{state: older}
		var told []Description
		r, err := JoinRing(t.Context(), time.Now, Lifecycle{}, &sharedStore{sharedState: shared, copy: newer}, func(before, after Description, failure error) error {
			told = append(told, before, after)
			return failure
		})
		want := first.Description()
		if err != nil || r.Description().Keys[0] != want.Keys[0] {
			t.Fatalf("%+v, want %+v; %v", r.Description(), want, err)
		}
		if generation := PeekState(shared.state).Generation; generation != want.Generation || !shared.unsettled {
			t.Errorf("the store has generation %d, want %d, and is unsettled: %v", generation, want.Generation, shared.unsettled)
		}
		if generation := PeekState(older).Generation; len(told) != 2 || told[0].Generation != generation || told[1].Generation != want.Generation {
			t.Errorf("recorded: %+v", told)
		}
	})
	t.Run("newer store", func(t *testing.T) {
		older, newer, first := states(t)
		r, err := joined(t, &sharedState{state: newer}, older)
		if err != nil || r.Generation() != first.Generation() {
			t.Error(r, err)
		}
	})
	t.Run("empty store", func(t *testing.T) {
		_, newer, first := states(t)
		shared := &sharedState{unsettled: true}
		r, err := joined(t, shared, newer)
		if generation := PeekState(shared.state).Generation; err != nil || r.Generation() != first.Generation() || generation != first.Generation() {
			t.Error(generation, err)
		}
	})
	t.Run("store away", func(t *testing.T) {
		_, newer, first := states(t)
		away := errors.New("away")
		for _, copied := range [][]byte{newer, nil} {
			r, err := JoinRing(t.Context(), time.Now, Lifecycle{}, &sharedStore{sharedState: new(sharedState), copy: copied, away: away}, nil)
			if copied != nil && (err != nil || r.Generation() != first.Generation()) || copied == nil && !errors.Is(err, away) {
				t.Error(err)
			}
		}
	})
	alone := new(sharedState)
	before, err := OpenRing(time.Now, Lifecycle{}, &sharedStore{sharedState: alone})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("was alone", func(t *testing.T) {
		older, _, _ := states(t) // newer than the one from before
		if _, err := before.Rotate(t.Context(), Update{}); err != nil {
			t.Fatal(err)
		}
		r, err := joined(t, &sharedState{state: older}, alone.state)
		if generation := PeekState(older).Generation; err != nil || r.Generation() != generation {
			t.Errorf("the ring did not take what the others have: %v", err)
		}
	})
	for name, copied := range map[string][]byte{"no copy": nil, "was alone, empty store": alone.state} {
		t.Run(name, func(t *testing.T) {
			_, newer, first := states(t)
			synctest.Test(t, func(t *testing.T) {
				shared := &sharedState{unsettled: true}
				var r *Ring
				var err error
				done := make(chan struct{})
				go func() { defer close(done); r, err = joined(t, shared, copied) }()
				time.Sleep(10 * time.Second)
				select {
				case <-done:
					t.Fatal("it did not wait")
				default:
				}
				shared.lose(newer) // another ring puts it back
				<-done
				if err != nil || r.Generation() != first.Generation() {
					t.Errorf("it has other keys than the others; %v", err)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				shared := &sharedState{unsettled: true}
				go func() { time.Sleep(10 * time.Second); shared.settle() }()
				r, err := joined(t, shared, copied)
				if err != nil {
					t.Fatal(err)
				}
				if state := PeekState(shared.state); state.Generation != r.Generation() || !state.Shared {
					t.Errorf("the store has %+v", state)
				}
				if copied != nil && r.Generation() != before.Generation() {
					t.Error("it did not keep its keys")
				}
			})
		})
	}
}

// A waiting ring survives an outage of the store, but waits no longer than its limit.
func TestJoinWaitsThroughOutage(t *testing.T) {
	for comesBack, want := range map[bool]error{true: nil, false: context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			shared := &sharedState{unsettled: true}
			store := &sharedStore{sharedState: shared}
			setAway := func(err error) {
				shared.mu.Lock()
				defer shared.mu.Unlock()
				store.away = err
			}
			go func() {
				time.Sleep(5 * time.Second)
				setAway(errors.New("away"))
				if comesBack {
					time.Sleep(5 * time.Second)
					setAway(nil)
					shared.settle()
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			r, err := JoinRing(ctx, time.Now, Lifecycle{}, store, nil)
			if (err == nil) != comesBack || (r != nil) != comesBack || !errors.Is(ctx.Err(), want) {
				t.Errorf("comes back: %v; %v, %v", comesBack, err, ctx.Err())
			}
		})
	}
}

// A rotation that becomes due while the store is unsettled is not an error, and is made
// later.
func TestRotationWaitsForStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := new(sharedState)
		r, err := JoinRing(t.Context(), time.Now, Lifecycle{RotateEvery: time.Hour}, &sharedStore{sharedState: shared}, nil)
		if err != nil {
			t.Fatal(err)
		}
		first := r.Generation()
		ctx, cancel := context.WithCancel(t.Context())
		var log bytes.Buffer
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.RotateWhenDue(ctx, slog.New(slog.NewTextHandler(&log, nil)), nil)
		}()
		time.Sleep(time.Hour - time.Second)
		shared.lose(bytes.Clone(shared.state))
		time.Sleep(time.Minute)
		if r.Generation() != first {
			t.Error("it rotated in an unsettled store")
		}
		shared.settle()
		time.Sleep(time.Minute)
		cancel()
		<-done
		if r.Generation() == first {
			t.Error("it never rotated")
		}
		if strings.Contains(log.String(), "level=ERROR") {
			t.Error(log.String())
		}
	})
}

// earlier is a state from an earlier version, without a fleet ID.
func earlier(state []byte) []byte {
	state = bytes.Clone(state)
	state[1] &^= stateFleet
	return slices.Delete(state, 10, 10+len(FleetID{}))
}

// A copy newer than the state of the store is put back only if both are of the same
// fleet, or an earlier version wrote the state of the store.
func TestJoinOtherFleet(t *testing.T) {
	shared, others := new(sharedState), new(sharedState)
	newShared(t, shared)
	older := bytes.Clone(shared.state)
	if _, err := newShared(t, shared).Rotate(t.Context(), Update{}); err != nil {
		t.Fatal(err)
	}
	ring := newShared(t, others)
	for ring.Generation() <= PeekState(shared.state).Generation {
		if _, err := ring.Rotate(t.Context(), Update{}); err != nil {
			t.Fatal(err)
		}
	}
	newer, other := shared.state, others.state
	if a, b := PeekState(older), PeekState(newer); a.Fleet == (FleetID{}) || a.Fleet != b.Fleet || a.Fleet == PeekState(other).Fleet {
		t.Fatal(a, b, PeekState(other))
	}
	for _, test := range []struct {
		name          string
		store, copied []byte
		putBack       bool
	}{
		{"same", older, newer, true},
		{"other", newer, other, false},
		{"other, empty store", nil, other, true},
		{"earlier version", older, earlier(newer), false},
		{"earlier version, empty store", nil, earlier(newer), true},
		{"store of an earlier version", earlier(older), newer, true},
		{"both of an earlier version", earlier(older), earlier(newer), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			shared := &sharedState{state: bytes.Clone(test.store)}
			r, err := joined(t, shared, test.copied)
			if err != nil {
				t.Fatal(err)
			}
			want := test.store
			if test.putBack {
				want = test.copied
			}
			if !bytes.Equal(shared.state, want) || r.Generation() != PeekState(want).Generation {
				t.Fatalf("the store has %+v, the ring %d, want %+v", PeekState(shared.state), r.Generation(), PeekState(want))
			}
			shared.settle()
			d, err := r.Rotate(t.Context(), Update{})
			if err != nil {
				t.Fatal(err)
			}
			got, fleet := PeekState(shared.state), PeekState(want).Fleet
			if got.Generation != d.Generation || got.Fleet == (FleetID{}) || fleet != (FleetID{}) && got.Fleet != fleet || r.Stats().Fleet != got.Fleet {
				t.Errorf("an update makes it %+v, and the ring is of fleet %x", got, r.Stats().Fleet)
			}
		})
	}
}

// A running ring has the set of the fleet: it puts that back in place of an older one,
// whichever ring wrote it, and loads a newer one.
func TestRunningRingAndOtherFleet(t *testing.T) {
	older, shared := new(sharedState), new(sharedState)
	newShared(t, older)
	r := newShared(t, shared)
	for r.Generation() <= PeekState(older.state).Generation {
		if _, err := r.Rotate(t.Context(), Update{}); err != nil {
			t.Fatal(err)
		}
	}
	want := bytes.Clone(shared.state)
	shared.lose(older.state)
	if err := r.Refresh(); err != nil || !bytes.Equal(shared.state, want) {
		t.Errorf("the store has %+v, want %+v; %v", PeekState(shared.state), PeekState(want), err)
	}
}
