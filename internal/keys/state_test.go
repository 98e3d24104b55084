package keys

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memoryStore is a store in memory that fails on request.
type memoryStore struct {
	mu    sync.Mutex
	state []byte
	saves int
	fail  error
}

func (s *memoryStore) Load(context.Context) ([]byte, error) { return bytes.Clone(s.state), s.fail }

func (s *memoryStore) Save(_ context.Context, state []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saves++
	if s.fail == nil {
		s.state = bytes.Clone(state)
	}
	return s.fail
}

var errDisk = errors.New("disk full")

func (s *memoryStore) failWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// openRing opens a ring with its own clock.
func openRing(t *testing.T, store Store) *Ring {
	t.Helper()
	r, err := OpenRing(clock(), twiceADay, store)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sameState compares two rings, except the time of their next rotation, which depends
// on the clock.
func sameState(t *testing.T, got, want *Ring) {
	t.Helper()
	gotSet, g := got.Snapshot()
	wantSet, w := want.Snapshot()
	if !gotSet.equal(&wantSet) || got.pushed != want.pushed || got.taken != want.taken {
		t.Error("the set is another")
	}
	if g.Generation != w.Generation || g.Source != w.Source || !g.UpdatedAt.Equal(w.UpdatedAt) {
		t.Errorf("%+v, want %+v", g, w)
	}
	if !slices.EqualFunc(g.Keys, w.Keys, func(a, b KeyDescription) bool {
		times := a.CreatedAt.Equal(b.CreatedAt) && a.ActivatedAt.Equal(b.ActivatedAt)
		a.CreatedAt, a.ActivatedAt = b.CreatedAt, b.ActivatedAt
		return times && a == b
	}) {
		t.Errorf("%+v, want %+v", g.Keys, w.Keys)
	}
}

// A restored ring has the same state after each kind of update.
func TestOpenRing(t *testing.T) {
	store := new(memoryStore)
	r := openRing(t, store)
	if r.Stats().Updates[SourceGenerated] != 1 || store.saves != 1 {
		t.Error("the first set is not stored")
	}
	again := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(what, err)
		}
		restored := openRing(t, store)
		sameState(t, restored, r)
		if n := restored.Stats().Updates[r.Description().Source]; n != 0 {
			t.Errorf("%s: coming back counts as %d updates", what, n)
		}
		r = restored
	}
	again("generated", nil)
	_, err := r.Rotate(t.Context(), Update{})
	again("rotated", err)
	generation := r.Generation()
	_, err = r.Replace(t.Context(), withNext(testSet(size256, 1, 2), testKey(3, size256)), Update{Source: SourceAPI})
	again("pushed", err)
	if r.Generation() <= generation {
		t.Errorf("generation %d follows %d", r.Generation(), generation)
	}
	_, err = r.Revoke(t.Context(), testKey(2, size256).Name(), Update{})
	again("revoked", err)
	_, err = r.Replace(t.Context(), testSet(size128, 5), Update{Source: SourceAPI})
	again("one key", err)
	saves := store.saves
	_, err = r.Replace(t.Context(), testSet(size128, 5), Update{Source: SourceAPI})
	again("the same", err)
	if store.saves != saves {
		t.Error("the same set is stored again")
	}
}

// After an older state is restored, no other set gets a generation that a client has
// seen, and the restored set keeps its own.
func TestOlderState(t *testing.T) {
	store, now := new(memoryStore), clock()
	open := func() *Ring {
		t.Helper()
		r, err := OpenRing(now, twiceADay, store)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := open()
	seen := map[uint64]Name{r.Generation(): r.Description().Keys[0].Name}
	backup := bytes.Clone(store.state)
	rotate := func() {
		t.Helper()
		d, err := r.Rotate(t.Context(), Update{})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := seen[d.Generation]; ok {
			t.Errorf("generation %d is used again", d.Generation)
		}
		seen[d.Generation] = d.Keys[0].Name
	}
	for range 3 {
		for range 5 {
			rotate()
		}
		store.state = bytes.Clone(backup)
		r = open()
		if d := r.Description(); seen[d.Generation] != d.Keys[0].Name {
			t.Errorf("generation %d has another set now", d.Generation)
		}
	}
}

// A failing store stops every kind of update, with no effect left.
func TestStoreFails(t *testing.T) {
	store := &memoryStore{fail: errDisk}
	if _, err := OpenRing(clock(), twiceADay, store); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	store.failWith(nil)
	r := openRing(t, store)
	if _, err := r.Replace(t.Context(), testSet(size128, 1, 2, 3), Update{Source: SourceAPI}); err != nil {
		t.Fatal(err)
	}
	saved, before, changed := store.state, r.Description(), r.Changed()
	store.failWith(errDisk)
	_, replaceErr := r.Replace(t.Context(), testSet(size128, 4), Update{Source: SourceAPI})
	_, rotateErr := r.Rotate(t.Context(), Update{})
	_, revokeErr := r.Revoke(t.Context(), testKey(1, size128).Name(), Update{})
	for _, err := range []error{replaceErr, rotateErr, revokeErr} {
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, errDisk) {
			t.Error(err)
		}
	}
	select {
	case <-changed:
		t.Error("who waits is told of a change")
	default:
	}
	if d := r.Description(); !same(d, before) || !bytes.Equal(store.state, saved) {
		t.Errorf("%+v, was %+v", d, before)
	}
	active := held(r)
	for _, k := range active.all() {
		if wiped(k) {
			t.Error("an active key is wiped")
		}
	}
	store.failWith(nil)
	d, err := r.Rotate(t.Context(), Update{})
	if err != nil || d.Generation <= before.Generation+1 {
		t.Errorf("generation %d after %d and failures, which may have been stored: %v", d.Generation, before.Generation, err)
	}
	sameState(t, openRing(t, store), r)
}

// The keys of a failed update are wiped, except those shared with the active set.
func TestFailedSetIsWiped(t *testing.T) {
	store := new(memoryStore)
	r := openRing(t, store)
	store.failWith(errDisk)
	r.updating.Lock()
	defer r.updating.Unlock()
	c := r.prepare(r.rotation(), SourceRotation)
	if err := r.commit(t.Context(), c, r.taken, nil); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	if !wiped(*c.set.Next) || wiped(c.set.Keys[0]) || wiped(c.set.Keys[1]) {
		t.Error("the fresh key is to be wiped, and no other")
	}
}

func TestRecord(t *testing.T) {
	store := new(memoryStore)
	r := openRing(t, store)
	for _, refusal := range []error{errDisk, nil} {
		active, saves, calls := r.Description(), store.saves, 0
		d, err := r.Rotate(t.Context(), Update{Record: func(before, after Description, _ error) error {
			calls++
			if !same(before, active) || after.Generation <= before.Generation || after.Keys[0].Name != before.Keys[1].Name {
				t.Errorf("from %+v to %+v", before, after)
			}
			if store.saves != saves || r.Generation() != active.Generation {
				t.Error("something has changed already")
			}
			return refusal
		}})
		if calls != 1 || !errors.Is(err, refusal) || errors.Is(err, ErrUnavailable) != (refusal != nil) {
			t.Errorf("%d calls: %v", calls, err)
		}
		if changed := r.Generation() != active.Generation; changed != (refusal == nil) || store.saves != saves && refusal != nil {
			t.Errorf("%+v", d)
		}
	}
	set, _ := r.Snapshot()
	if _, err := r.Replace(t.Context(), set, Update{Record: func(_, _ Description, _ error) error { t.Error("the same set is recorded"); return nil }}); err != nil {
		t.Error(err)
	}
}

// A change that was recorded but could not be stored is recorded as failed.
func TestRecordOfFailure(t *testing.T) {
	store := new(memoryStore)
	r := openRing(t, store)
	store.failWith(errDisk)
	var failures []error
	_, err := r.Rotate(t.Context(), Update{Record: func(before, after Description, failure error) error {
		if before.Generation != r.Generation() || after.Generation != following(before, after) {
			t.Errorf("from %d to %d", before.Generation, after.Generation)
		}
		failures = append(failures, failure)
		return nil
	}})
	if !errors.Is(err, ErrUnavailable) || len(failures) != 2 || failures[0] != nil || !errors.Is(failures[1], errDisk) {
		t.Errorf("recorded %v, returned %v", failures, err)
	}
}

// slowStore blocks a Save until it is released.
type slowStore struct {
	memoryStore
	saving, done chan struct{}
}

func (s *slowStore) Save(ctx context.Context, state []byte) error {
	s.saving <- struct{}{}
	<-s.done
	return s.memoryStore.Save(ctx, state)
}

// No reader waits for the store.
func TestReadersDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, new(memoryStore))
		store := &slowStore{saving: make(chan struct{}), done: make(chan struct{})}
		r.store = store
		updated := make(chan error)
		go func() { _, err := r.Rotate(t.Context(), Update{}); updated <- err }()
		<-store.saving
		before := r.Generation()
		changed := r.Changed()
		set, d := r.Snapshot()
		set.Wipe()
		if d.Generation != before || r.Stats().Generation != before || r.Description().Generation != before {
			t.Error("what is not stored is seen")
		}
		close(store.done)
		if err := <-updated; err != nil {
			t.Fatal(err)
		}
		<-changed
	})
}

// A rotation that cannot be stored is retried, after a pause.
func TestRotationIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(memoryStore)
		r, err := OpenRing(time.Now, twiceADay, store)
		if err != nil {
			t.Fatal(err)
		}
		generation := r.Generation()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		log := new(logBuffer)
		go r.RotateWhenDue(ctx, slog.New(slog.NewTextHandler(log, nil)), nil)
		store.failWith(errDisk)
		time.Sleep(twiceADay.RotateEvery + time.Minute)
		synctest.Wait()
		if n := log.count(slog.LevelError); n < 2 || n > 7 || r.Generation() != generation {
			t.Errorf("%d failures in a minute", n)
		}
		store.failWith(nil)
		time.Sleep(rotateAgain)
		synctest.Wait()
		if r.Description().Source != SourceRotation {
			t.Error("not rotated once the store works")
		}
		cancel()
		synctest.Wait()
		// A rotation that becomes due while the service is down is made at once.
		time.Sleep(3 * twiceADay.RotateEvery)
		if r, err = OpenRing(time.Now, twiceADay, store); err != nil {
			t.Fatal(err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		go r.RotateWhenDue(ctx, slog.New(slog.DiscardHandler), nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if steps := r.Stats().Updates[SourceRotation]; steps != 1 {
			t.Errorf("%d steps", steps)
		}
	})
}

// Of state and key file, the more recent update wins.
func TestStateAndFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ticket.key")
	writeFile(t, path, atsFile(1, 2))
	store := new(memoryStore)
	restart := func() *Ring {
		t.Helper()
		r := openRing(t, store)
		if _, err := OpenFile(path, r, slog.New(slog.DiscardHandler), nil); err != nil {
			t.Fatal(err)
		}
		return r
	}
	want := func(r *Ring, keys string, source Source) {
		t.Helper()
		if d := r.Description(); roster(d) != keys || d.Source != source {
			t.Errorf("%s from %s, want %s from %s", roster(d), d.Source, keys, source)
		}
	}
	r := restart()
	want(r, "c1 p2", SourceFile)
	push(t, r, 3)
	want(restart(), "c3", SourceAPI)
	writeFile(t, path, atsFile(4))
	r = restart()
	want(r, "c4", SourceFile)
	// A file with the active keys changes nothing, but counts as loaded.
	push(t, r, 5)
	writeFile(t, path, atsFile(5))
	want(restart(), "c5", SourceAPI)
	r = restart()
	push(t, r, 6)
	want(restart(), "c6", SourceAPI)
}

func FuzzState(f *testing.F) {
	store := new(memoryStore)
	r, err := OpenRing(clock(), twiceADay, store)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(store.state)
	if _, err := r.Replace(f.Context(), testSet(size128, 1, 2), Update{Source: SourceAPI}); err != nil {
		f.Fatal(err)
	}
	f.Add(store.state)
	shared := new(sharedState)
	if _, err := JoinRing(f.Context(), clock(), twiceADay, &sharedStore{sharedState: shared}, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(shared.state)
	if _, err := r.Replace(f.Context(), Set{Keys: []Key{testKey(1, size128), testKey(3, size256)}}, Update{Source: SourceAPI}); err != nil {
		f.Fatal(err)
	}
	f.Add(store.state)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, taken, err := parseState(data)
		if err != nil {
			if _, err := OpenRing(clock(), twiceADay, &memoryStore{state: data}); len(data) > 0 && !errors.Is(err, ErrInvalidState) {
				t.Error(err)
			}
			return
		}
		if written := appendState(nil, c, taken); !bytes.Equal(written, data) {
			t.Errorf("%x is written as %x", data, written)
		}
		r, err := OpenRing(clock(), twiceADay, &memoryStore{state: data})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Rotate(t.Context(), Update{}); err != nil {
			t.Error(err)
		}
	})
}

// A set of one size is stored as before, and every version can read it. A set of two
// sizes is restored unchanged.
func TestStateOfSizes(t *testing.T) {
	stored, err := os.ReadFile("testdata/state-1") // by a version that knew one size alone
	if err != nil {
		t.Fatal(err)
	}
	set := withNext(testSet(size128, 1, 2), testKey(3, size128))
	store := &memoryStore{state: bytes.Clone(stored)}
	r := openRing(t, store)
	if got, _ := r.Snapshot(); !got.equal(&set) {
		t.Errorf("read %v", got)
	}
	c, taken, err := parseState(stored)
	if err != nil || !bytes.Equal(appendState(nil, c, taken), stored) {
		t.Errorf("it is written in another way (%v)", err)
	}
	d, err := r.Rotate(t.Context(), Update{})
	if err != nil || d.Keys[1].Bits != 256 || d.Keys[2].Bits != 128 {
		t.Fatalf("%v, %v", d.Keys, err)
	}
	sameState(t, openRing(t, store), r)
}
