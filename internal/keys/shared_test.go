package keys

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"
)

// sharedState is what several rings save to.
type sharedState struct {
	mu    sync.Mutex
	state []byte
}

// sharedStore is a ring's way to it, a compare-and-set.
type sharedStore struct {
	*sharedState
	seen []byte
}

func (s *sharedStore) Load() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = bytes.Clone(s.state)
	return bytes.Clone(s.state), nil
}

func (s *sharedStore) Save(state []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.Equal(s.seen, s.state) {
		return ErrConflict
	}
	s.state = bytes.Clone(state)
	s.seen = bytes.Clone(state)
	return nil
}

func newShared(t *testing.T, shared *sharedState) *Ring {
	t.Helper()
	r, err := JoinRing(time.Now, Lifecycle{}, &sharedStore{sharedState: shared})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Rings that save to one store agree with a plain model, a list of all sets that
// there were: each update is made from the last one, whoever made that.
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
			if _, err := r.Refresh(); err != nil {
				t.Fatal(err)
			}
			if got := r.Generation(); got != last.Generation {
				t.Fatalf("step %d: generation %d after a refresh, want %d", step, got, last.Generation)
			}
			continue
		case 1: // what the store lost is put back, by whoever has the newest
			if random.IntN(2) == 0 {
				shared.state = nil
			} else {
				shared.state = bytes.Clone(backup)
			}
			for _, r := range rings {
				if _, err := r.Refresh(); err != nil {
					t.Fatal(err)
				}
			}
			backup = bytes.Clone(shared.state)
			continue
		case 2, 3:
			d, err = r.Rotate(u)
		case 4: // holds, also when the ring does not know that set yet
			u.If = func(g uint64) bool { return g == last.Generation }
			d, err = r.Rotate(u)
		case 5: // one that knows an older set only
			u.If = func(g uint64) bool { return g == last.Generation-1 }
			if _, err := r.Rotate(u); !errors.Is(err, ErrPrecondition) || r.Generation() != last.Generation {
				t.Fatalf("step %d: %v, generation %d, want %d", step, err, r.Generation(), last.Generation)
			}
			continue
		default:
			d, err = r.Replace(Generate(256, 1+random.IntN(4)), u)
		}
		if err != nil || d.Generation <= last.Generation {
			t.Fatalf("step %d: generation %d after %d, %v", step, d.Generation, last.Generation, err)
		}
		last = d
	}
	for _, r := range rings {
		if _, err := r.Refresh(); err != nil {
			t.Fatal(err)
		}
		if d := r.Description(); d.Generation != last.Generation || fmt.Sprint(d.Keys) != fmt.Sprint(last.Keys) {
			t.Errorf("%+v, want %+v", d, last)
		}
	}
}

// Whether an update changes anything is asked of the set that the store has, which
// the ring may not know yet: neither a set nor the content of a file that was
// active before is passed over, and a key that another ring has just got can be
// revoked.
func TestSharedNoChange(t *testing.T) {
	shared := new(sharedState)
	a, b := newShared(t, shared), newShared(t, shared)
	old, d := b.Snapshot()
	defer old.Wipe()
	if again, err := b.Replace(old, Update{Source: SourceAPI}); err != nil || again.Generation != d.Generation {
		t.Errorf("the active set again: generation %d, want %d; %v", again.Generation, d.Generation, err)
	}
	pushed := Generate(256, 2)
	name := pushed.Keys[0].Name()
	between, err := a.Replace(pushed, Update{Source: SourceAPI})
	if err != nil {
		t.Fatal(err)
	}
	if d, err = b.Replace(old, Update{Source: SourceAPI}); err != nil || d.Generation <= between.Generation {
		t.Errorf("the set before: generation %d after %d, %v", d.Generation, between.Generation, err)
	}
	if d, err = a.Replace(pushed, Update{Source: SourceAPI}); err != nil {
		t.Fatal(err)
	}
	if revoked, err := b.Revoke(name, Update{}); err != nil || revoked.Generation <= d.Generation {
		t.Errorf("revocation: generation %d after %d, %v", revoked.Generation, d.Generation, err)
	}
}

// The content of a key file is taken once, whichever ring sees it first, and does
// not undo what came after it.
func TestSharedFile(t *testing.T) {
	shared := new(sharedState)
	a, b := newShared(t, shared), newShared(t, shared)
	set := Generate(128, 2)
	data, err := ATS.Append(nil, set)
	if err != nil {
		t.Fatal(err)
	}
	file := [32]byte{1}
	taken, err := a.Load(ATS, data, Update{Source: SourceFile, file: &file})
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := a.Replace(Generate(128, 2), Update{Source: SourceAPI})
	if err != nil || pushed.Generation <= taken.Generation {
		t.Fatal(pushed, err)
	}
	if d, err := b.Load(ATS, data, Update{Source: SourceFile, file: &file}); err != nil || d.Generation != pushed.Generation {
		t.Errorf("generation %d, want %d; %v", d.Generation, pushed.Generation, err)
	}
}

// A state that a later version wrote is neither taken nor replaced.
func TestSharedUnread(t *testing.T) {
	shared := new(sharedState)
	r := newShared(t, shared)
	before := r.Description()
	good := shared.state
	later := append([]byte{stateVersion + 1}, good[1:]...)
	shared.state = later
	if _, err := r.Refresh(); !errors.Is(err, ErrInvalidState) {
		t.Error(err)
	}
	if _, err := r.Rotate(Update{}); !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrInvalidState) {
		t.Error(err)
	}
	if !bytes.Equal(shared.state, later) || r.Generation() != before.Generation {
		t.Error("it was replaced")
	}
	shared.state = good
	if _, err := r.Refresh(); err != nil {
		t.Error(err)
	}
	if _, err := r.Rotate(Update{}); err != nil {
		t.Error(err)
	}
}
