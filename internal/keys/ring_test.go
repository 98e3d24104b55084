package keys

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// clock returns a clock that starts at start and advances by a second with each
// reading.
func clock() func() time.Time {
	var mu sync.Mutex
	now := start.Add(-time.Second)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Second)
		return now
	}
}

func never(uint64) bool { return false }

// ringWith returns a ring whose active set is a copy of set.
func ringWith(t testing.TB, set Set) *Ring {
	t.Helper()
	r := NewRing(clock(), twiceADay)
	if _, err := r.Replace(t.Context(), set, Update{Source: SourceAPI}); err != nil {
		t.Fatal(err)
	}
	return r
}

// held returns the active set itself, not a copy of its secrets.
func held(r *Ring) Set { return Set{Keys: slices.Clone(r.set.Keys), Next: r.set.Next} }

// roster names the keys of a description: the number of a test key, or ? for any other
// key, each after the initial of its role.
func roster(d Description) string {
	numbers := make(map[Name]int)
	for n := range 70 {
		numbers[testKey(n, size256).Name()] = n
	}
	var b strings.Builder
	for _, k := range d.Keys {
		text := "?"
		if n, ok := numbers[k.Name]; ok {
			text = strconv.Itoa(n)
		}
		fmt.Fprintf(&b, "%c%s ", k.Role[0], text)
	}
	return strings.TrimSpace(b.String())
}

func TestNewRing(t *testing.T) {
	r := NewRing(clock(), twiceADay)
	d := r.Description()
	if d.Generation != uint64(start.UnixMilli()) || d.Source != SourceGenerated {
		t.Errorf("generation %d, source %s", d.Generation, d.Source)
	}
	if roster(d) != "c? n? p?" || d.Keys[0].Bits != 256 || d.Keys[1].Bits != 256 || d.Keys[2].Bits != 256 {
		t.Errorf("keys %v", d.Keys)
	}
	if d.Keys[0].ActivatedAt != d.UpdatedAt || !d.Keys[1].ActivatedAt.IsZero() || d.Keys[1].CreatedAt != d.UpdatedAt {
		t.Errorf("times %v", d)
	}
	set, _ := r.Snapshot()
	if err := set.Validate(); err != nil {
		t.Error(err)
	}
	if NewRing(clock(), twiceADay).Description().Keys[0].Fingerprint == d.Keys[0].Fingerprint {
		t.Error("two rings made the same key")
	}
}

func TestRotate(t *testing.T) {
	numbers := func(n int) []int {
		s := make([]int, n)
		for i := range s {
			s[i] = i
		}
		return s
	}
	var full strings.Builder
	for i := 1; i < 62; i++ {
		fmt.Fprintf(&full, " p%d", i)
	}
	for _, test := range []struct {
		name string
		set  Set
		want []string // the keys after each step
	}{
		{"one pushed", testSet(size128, 1), []string{"c1 n?", "c? n? p1", "c? n? p? p1", "c? n? p? p? p1"}},
		{"with next", withNext(testSet(size256, 1, 2), testKey(3, size256)), []string{"c3 n? p1 p2", "c? n? p3 p1 p2", "c? n? p? p3 p1 p2"}},
		{"as many as are kept", testSet(size128, 1, 2, 3, 4), []string{"c1 n? p2 p3", "c? n? p1 p2"}},
		{"more than are kept", testSet(size128, 1, 2, 3, 4, 5, 6), []string{"c1 n? p2 p3 p4 p5", "c? n? p1 p2 p3 p4"}},
		{"full", testSet(size128, numbers(64)...), []string{"c0 n?" + full.String() + " p62", "c? n? p0" + full.String()}},
		{"full with next", withNext(testSet(size128, numbers(63)...), testKey(63, size128)), []string{"c63 n? p0" + full.String()}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := ringWith(t, test.set)
			for i, want := range test.want {
				before := r.Description()
				old := held(r)
				d, err := r.Rotate(t.Context(), Update{})
				if err != nil {
					t.Fatal(err)
				}
				if roster(d) != want || d.Source != SourceRotation || d.Generation != following(before, d) {
					t.Errorf("step %d: %s from %s at %d, want %s", i, roster(d), d.Source, d.Generation, want)
				}
				if d.Keys[1].Bits != 256 {
					t.Errorf("step %d: the new key is %v", i, d.Keys[1])
				}
				checkWiped(t, r, old)
			}
		})
	}
}

// checkWiped checks that of the keys of an earlier set, exactly those that the ring has
// dropped are wiped.
func checkWiped(t *testing.T, r *Ring, old Set) {
	t.Helper()
	holds := make(map[**material]bool)
	for _, k := range r.set.all() {
		holds[k.m] = true
		if wiped(k) {
			t.Errorf("%v is active and wiped", k)
		}
	}
	for _, k := range old.all() {
		if !holds[k.m] && !wiped(k) {
			t.Errorf("%v is dropped and not wiped", k)
		}
	}
}

func TestRevoke(t *testing.T) {
	for _, test := range []struct {
		name   string
		set    Set
		revoke int
		want   string
	}{
		{"previous", testSet(size128, 1, 2, 3), 2, "c1 p3"},
		{"previous with next", withNext(testSet(size128, 1, 2, 3), testKey(4, size128)), 3, "c1 n4 p2"},
		{"next", withNext(testSet(size128, 1, 2), testKey(3, size128)), 3, "c1 n? p2"},
		{"current with next", withNext(testSet(size256, 1, 2), testKey(3, size256)), 1, "c3 n? p2"},
		{"current", testSet(size128, 1, 2), 1, "c? p2"},
		{"the only one", testSet(size256, 1), 1, "c?"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := ringWith(t, test.set)
			before, old := r.Description(), held(r)
			d, err := r.Revoke(t.Context(), testKey(test.revoke, size256).Name(), Update{})
			if err != nil {
				t.Fatal(err)
			}
			if roster(d) != test.want || d.Source != SourceAPI || d.Generation != following(before, d) {
				t.Errorf("%s from %s, want %s", roster(d), d.Source, test.want)
			}
			if isNew := strings.HasPrefix(test.want, "c?"); isNew && d.Keys[0].Bits != 256 || d.Keys[0].ActivatedAt.IsZero() {
				t.Errorf("current is %v", d.Keys[0])
			}
			checkWiped(t, r, old)
		})
	}
	r := ringWith(t, testSet(size128, 1))
	before := r.Description()
	if _, err := r.Revoke(t.Context(), testKey(2, size128).Name(), Update{}); !errors.Is(err, ErrKeyNotFound) {
		t.Errorf("revoking an unknown key: %v", err)
	}
	if got := r.Description(); got.Generation != before.Generation {
		t.Error("revoking an unknown key changed something")
	}
}

func TestReplaceCopiesAndWipes(t *testing.T) {
	r := NewRing(clock(), twiceADay)
	old := held(r)
	set := withNext(testSet(size128, 1, 2), testKey(3, size128))
	if _, err := r.Replace(t.Context(), set, Update{Source: SourceAPI}); err != nil {
		t.Fatal(err)
	}
	checkWiped(t, r, old)
	set.Wipe()
	snapshot, _ := r.Snapshot()
	if want := withNext(testSet(size128, 1, 2), testKey(3, size128)); !snapshot.equal(&want) {
		t.Error("the ring shares memory with who replaced its set")
	}
	snapshot.Wipe()
	if again, _ := r.Snapshot(); wiped(again.Keys[0]) {
		t.Error("a snapshot shares memory with the ring")
	}
	r.Description().Keys[0].Bits = 0
	if r.Description().Keys[0].Bits != 128 {
		t.Error("a description shares memory with the ring")
	}

	// A remaining key gets new memory; the old memory is wiped.
	old = held(r)
	if _, err := r.Replace(t.Context(), testSet(size128, 4, 1), Update{Source: SourceAPI}); err != nil {
		t.Fatal(err)
	}
	checkWiped(t, r, old)
}

func TestSameSetChangesNothing(t *testing.T) {
	set := withNext(testSet(size128, 1, 2), testKey(3, size128))
	r := ringWith(t, set)
	before, stats := r.Description(), r.Stats()
	d, err := r.Replace(t.Context(), set, Update{Source: SourceFile})
	if err != nil || !same(d, before) {
		t.Errorf("the same set: %v, %v, before %v", d, err, before)
	}
	if got := r.Stats().Updates; !maps.Equal(got, stats.Updates) {
		t.Errorf("updates %v, before %v", got, stats.Updates)
	}
	if snapshot, _ := r.Snapshot(); !snapshot.equal(&set) {
		t.Error("the set has changed")
	}
	for _, other := range []Set{
		testSet(size128, 1, 2),
		withNext(testSet(size128, 2, 1), testKey(3, size128)),
		withNext(testSet(size128, 1, 2), testKey(4, size128)),
		withNext(testSet(size128, 1), testKey(3, size128)),
		withNext(testSet(size256, 4, 5), testKey(1, size128)),
	} {
		r := ringWith(t, set)
		if d, err := r.Replace(t.Context(), other, Update{Source: SourceFile}); err != nil || d.Generation != following(before, d) || d.Source != SourceFile {
			t.Errorf("%v, %v", d, err)
		}
	}
}

// following returns the generation of a change after before.
func following(before, after Description) uint64 {
	return max(before.Generation+1, uint64(after.UpdatedAt.UnixMilli()))
}

func same(a, b Description) bool {
	return a.Generation == b.Generation && a.UpdatedAt.Equal(b.UpdatedAt) && a.Source == b.Source && slices.Equal(a.Keys, b.Keys)
}

func TestTimes(t *testing.T) {
	r := ringWith(t, testSet(size128, 1, 2))
	first := r.Description()
	if k := first.Keys[0]; !k.CreatedAt.Equal(first.UpdatedAt) || !k.ActivatedAt.Equal(first.UpdatedAt) {
		t.Errorf("current is %v", k)
	}
	if k := first.Keys[1]; !k.ActivatedAt.IsZero() {
		t.Errorf("pushed as previous and active at %v", k.ActivatedAt)
	}
	replace := func(set Set) Description {
		d, err := r.Replace(t.Context(), set, Update{Source: SourceAPI})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	second := replace(testSet(size128, 2, 1))
	if k := second.Keys[0]; !k.CreatedAt.Equal(first.UpdatedAt) || !k.ActivatedAt.Equal(second.UpdatedAt) {
		t.Errorf("promoted: %v", k)
	}
	if k := second.Keys[1]; !k.ActivatedAt.Equal(first.UpdatedAt) {
		t.Errorf("demoted: %v", k)
	}
	third := replace(testSet(size128, 2, 1, 3))
	if !third.Keys[0].ActivatedAt.Equal(second.UpdatedAt) {
		t.Errorf("stayed current: %v", third.Keys[0])
	}
	fourth := replace(testSet(size128, 1, 2))
	if !fourth.Keys[0].ActivatedAt.Equal(fourth.UpdatedAt) {
		t.Errorf("current again: %v", fourth.Keys[0])
	}
}

// Secrets that differ from those of an active key with the same name are rejected in
// every place, unless they are the output of the format for that key.
func TestConflictingSecrets(t *testing.T) {
	other := func(n, size int) Key { // the same name
		k := testKey(n+50, size)
		return NewKey(testKey(n, size).view().name, k.view().hmacSecret, k.view().aesKey)
	}
	active := withNext(testSet(size256, 1, 2), testKey(3, size256))
	for _, test := range []struct {
		set  Set
		want []string
	}{
		{Set{Keys: []Key{other(1, size256)}}, []string{"keys[0].name conflicting_secrets"}},
		{withNext(Set{Keys: []Key{testKey(1, size256), other(3, size256)}}, other(2, size128)), []string{"keys[1].name conflicting_secrets", "next.name conflicting_secrets"}},
		{testSet(size128, 2, 8), []string{"keys[0].name conflicting_secrets"}},
		{testSet(size256, 3, 8), nil},
	} {
		r := ringWith(t, active)
		before := r.Description()
		_, err := r.Replace(t.Context(), test.set, Update{Source: SourceAPI})
		if got := issuesOf(t, err); !slices.Equal(got, test.want) {
			t.Errorf("issues %q, want %q", got, test.want)
		}
		if err != nil && !same(before, r.Description()) {
			t.Errorf("%v became %v", before, r.Description())
		}
		if want := uint64(min(1, len(test.want))); r.Stats().Rejected.Invalid[KindConflict] != want {
			t.Errorf("counted %v", r.Stats().Rejected.Invalid)
		}
	}
	for _, f := range Formats() {
		if !f.Readable() {
			continue
		}
		for _, size := range []int{size128, size256} {
			active := withNext(testSet(size, 1, 2), testKey(3, size))
			r := ringWith(t, active)
			d, err := r.Load(t.Context(), f, written(f, Set{Keys: []Key{active.Keys[1]}}), Update{Source: SourceAPI})
			if err != nil || d.Keys[0].Fingerprint != active.Keys[1].Fingerprint() {
				t.Errorf("%s: an active key of %d bits, pushed as the format has it: %v, %v", f, 8*size, d.Keys, err)
			}
		}
	}
	// Layouts of the same length that are easily confused.
	for _, swap := range []struct {
		size      int
		is, taken Format
	}{{size128, NGINX, ATS}, {size128, ATS, NGINX}, {size256, DNSDist, Envoy}, {size256, OpenSSL, DNSDist}} {
		r := ringWith(t, testSet(swap.size, 1))
		_, err := r.Load(t.Context(), swap.taken, written(swap.is, testSet(swap.size, 1)), Update{Source: SourceAPI})
		if got := issuesOf(t, err); !slices.Equal(got, []string{"keys[0].name conflicting_secrets"}) {
			t.Errorf("%s as %s: issues %q", swap.is, swap.taken, got)
		}
	}
}

func TestRefusedUpdates(t *testing.T) {
	set := withNext(testSet(size128, 1, 2), testKey(3, size128))
	r := ringWith(t, set)
	before := r.Description()
	name := testKey(1, size128).Name()
	replace := func(set Set) error {
		_, err := r.Replace(t.Context(), set, Update{Source: SourceAPI})
		return err
	}
	load := func(data []byte) error {
		_, err := r.Load(t.Context(), ATS, data, Update{Source: SourceAPI})
		return err
	}
	_, replaceErr := r.Replace(t.Context(), testSet(size128, 4), Update{Source: SourceAPI, If: never})
	_, loadErr := r.Load(t.Context(), ATS, written(ATS, testSet(size128, 4)), Update{Source: SourceAPI, If: never})
	_, rotateErr := r.Rotate(t.Context(), Update{If: never})
	_, revokeErr := r.Revoke(t.Context(), name, Update{If: never})
	_, sameErr := r.Replace(t.Context(), set, Update{Source: SourceAPI, If: never})
	for i, err := range []error{replaceErr, loadErr, rotateErr, revokeErr, sameErr} {
		if !errors.Is(err, ErrPrecondition) {
			t.Errorf("%d: %v, want ErrPrecondition", i, err)
		}
	}
	for i, err := range []error{
		replace(Set{}), replace(testSet(size128, 1, 1)), replace(Set{Keys: []Key{NewKey(name[:], testKey(1, size128).view().hmacSecret, testKey(1, size256).view().aesKey)}}),
		replace(testSet(size256, 1)), load(nil), load(make([]byte, 47)), load(make([]byte, 48)), load(make([]byte, 65*48)),
	} {
		if _, ok := errors.AsType[*InvalidError](err); !ok {
			t.Errorf("%d: %v, want an InvalidError", i, err)
		}
	}
	if got := r.Description(); !same(got, before) {
		t.Errorf("refused updates left %v, before %v", got, before)
	}
	if snapshot, _ := r.Snapshot(); !snapshot.equal(&set) {
		t.Error("the set has changed")
	}

	stats := r.Stats()
	if stats.Rejected.Precondition != 5 {
		t.Errorf("%d times precondition", stats.Rejected.Precondition)
	}
	if want := map[Kind]uint64{KindCount: 3, KindDuplicateName: 1, KindMixedSize: 1, KindLength: 1, KindEncoding: 0, KindWeak: 1, KindConflict: 1}; !maps.Equal(stats.Rejected.Invalid, want) {
		t.Errorf("rejected %v, want %v", stats.Rejected.Invalid, want)
	}
}

func TestCondition(t *testing.T) {
	r := ringWith(t, testSet(size128, 1))
	before := r.Description()
	generation := before.Generation
	expect := func(g uint64) bool { return g == generation }
	if d, err := r.Rotate(t.Context(), Update{If: expect}); err != nil || d.Generation != following(before, d) {
		t.Errorf("%v, %v", d, err)
	}
	if _, err := r.Rotate(t.Context(), Update{If: expect}); !errors.Is(err, ErrPrecondition) {
		t.Errorf("stale: %v", err)
	}
}

func TestStats(t *testing.T) {
	r := NewRing(clock(), twiceADay)
	if want := (map[Source]uint64{SourceGenerated: 1, SourceAPI: 0, SourceFile: 0, SourceRotation: 0}); !maps.Equal(r.Stats().Updates, want) {
		t.Errorf("updates %v, want %v", r.Stats().Updates, want)
	}
	if want := (map[Kind]uint64{KindCount: 0, KindDuplicateName: 0, KindMixedSize: 0, KindLength: 0, KindEncoding: 0, KindWeak: 0, KindConflict: 0}); !maps.Equal(r.Stats().Rejected.Invalid, want) {
		t.Errorf("rejected %v, want %v", r.Stats().Rejected.Invalid, want)
	}
	if _, err := r.Load(t.Context(), ATS, written(ATS, testSet(size128, 1, 2, 3)), Update{Source: SourceFile}); err != nil {
		t.Fatal(err)
	}
	d, err := r.Rotate(t.Context(), Update{})
	if err != nil {
		t.Fatal(err)
	}
	got := r.Stats()
	if got.Generation != d.Generation || !got.UpdatedAt.Equal(d.UpdatedAt) || got.Source != d.Source || !got.ActivatedAt.Equal(d.Keys[0].ActivatedAt) {
		t.Errorf("stats %v of %v", got, d)
	}
	if want := (map[Role]int{RoleCurrent: 1, RoleNext: 1, RolePrevious: 2}); !maps.Equal(got.Keys, want) {
		t.Errorf("keys %v, want %v", got.Keys, want)
	}
	if want := (map[Source]uint64{SourceGenerated: 1, SourceAPI: 0, SourceFile: 1, SourceRotation: 1}); !maps.Equal(got.Updates, want) {
		t.Errorf("updates %v, want %v", got.Updates, want)
	}
	clear(got.Updates)
	clear(got.Rejected.Invalid)
	if r.Stats().Updates[SourceFile] != 1 || len(r.Stats().Rejected.Invalid) != len(kinds) {
		t.Error("stats share memory with the ring")
	}
}

// model is a ring in its simplest form. Keys are fingerprints.
type model struct {
	keys       []string       // current and previous
	next       string         // empty without one
	bits       map[string]int // of keys that were pushed
	generation uint64
	source     Source
	updated    time.Time
	created    map[string]time.Time
	activated  map[string]time.Time
}

// drawn stands for a key that the ring has not drawn yet.
const drawn = "drawn"

// TestModel runs random operations against a ring and a model. KEYS_SEED sets
// the seed.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("KEYS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("KEYS_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	synctest.Test(t, func(t *testing.T) { testModel(t, random) })
}

func testModel(t *testing.T, random *rand.Rand) {
	now := time.Now()
	r := NewRing(func() time.Time { return now }, twiceADay)
	m := model{bits: make(map[string]int), created: make(map[string]time.Time), activated: make(map[string]time.Time), generation: uint64(now.UnixMilli()), source: SourceGenerated, updated: now}
	d := r.Description()
	m.keys, m.next = []string{d.Keys[0].Fingerprint, d.Keys[2].Fingerprint}, d.Keys[1].Fingerprint
	m.created[m.keys[0]], m.created[m.keys[1]], m.created[m.next], m.activated[m.keys[0]] = now, now, now, now

	for step := range 5000 {
		time.Sleep(time.Duration(random.IntN(3)) * 20 * time.Minute)
		now = time.Now()
		active, _ := r.Snapshot()
		old := held(r)
		var condition Condition
		holds := true
		switch random.IntN(4) {
		case 0:
			condition = func(g uint64) bool { return g == m.generation }
		case 1:
			condition, holds = func(g uint64) bool { return g != m.generation }, false
		}
		keys, next, source := slices.Clone(m.keys), m.next, Source("")
		var wantErr, err error
		var operation string
		switch random.IntN(5) {
		case 0:
			operation, source = "rotate", SourceRotation
			before := len(keys) + 1
			if next != "" {
				keys = append([]string{next}, keys...)
			} else {
				before = len(keys)
			}
			next = drawn
			for len(keys)+1 > max(4, before) {
				successor := m.activated[keys[len(keys)-2]]
				if len(keys) < MaxKeys && !successor.IsZero() && now.Sub(successor) < twiceADay.TicketLifetime {
					break
				}
				keys = keys[:len(keys)-1]
			}
			d, err = r.Rotate(t.Context(), Update{If: condition})
		case 1:
			operation, source = "revoke", SourceAPI
			target := random.IntN(len(keys) + 2)
			var name Name
			switch {
			case target < len(keys):
				name = active.Keys[target].Name()
				if target > 0 {
					keys = slices.Delete(keys, target, target+1)
				} else if next != "" {
					keys[0], next = next, drawn
				} else {
					keys[0] = drawn
				}
			case target == len(keys) && next != "":
				name, next = active.Next.Name(), drawn
			default:
				wantErr = ErrKeyNotFound
			}
			d, err = r.Revoke(t.Context(), name, Update{If: condition})
		case 2:
			operation, source = "replace", SourceAPI
			set := randomSet(random, active)
			next, keys = "", nil
			for role, k := range set.all() {
				m.bits[k.Fingerprint()] = k.Bits()
				if role == RoleNext {
					next = k.Fingerprint()
				} else {
					keys = append(keys, k.Fingerprint())
				}
			}
			d, err = r.Replace(t.Context(), set, Update{Source: source, If: condition})
		case 3:
			operation, source = "same", SourceFile
			d, err = r.Replace(t.Context(), active, Update{Source: source, If: condition})
		case 4:
			operation = "invalid"
			invalid := &InvalidError{}
			if d, err = r.Load(t.Context(), ATS, make([]byte, random.IntN(200)), Update{Source: SourceFile, If: condition}); errors.As(err, &invalid) {
				wantErr, holds = err, true
			} else {
				t.Fatalf("step %d: %v for zeros", step, err)
			}
		}
		if !holds {
			wantErr = ErrPrecondition
		}
		if !errors.Is(err, wantErr) || (wantErr == nil) != (err == nil) {
			t.Fatalf("step %d: %s: %v, want %v", step, operation, err, wantErr)
		}
		if err != nil {
			d = r.Description()
		} else if changed := !slices.Equal(keys, m.keys) || next != m.next; changed {
			m.change(t, d, keys, next, now)
			m.source, m.updated = source, now
			m.generation = max(m.generation+1, uint64(now.UnixMilli()))
		}
		if want := m.description(); !same(stripNames(d), want) {
			t.Fatalf("step %d: %s left\n%v, want\n%v", step, operation, stripNames(d), want)
		}
		set, _ := r.Snapshot()
		if err := set.Validate(); err != nil {
			t.Fatalf("step %d: %s: %v", step, operation, err)
		}
		i := 0
		for role, k := range set.all() {
			if d.Keys[i].Fingerprint != k.Fingerprint() || d.Keys[i].Role != role || d.Keys[i].Name != k.Name() {
				t.Fatalf("step %d: %s: %v does not describe %v", step, operation, d.Keys[i], k)
			}
			i++
		}
		checkWiped(t, r, old)
		if t.Failed() {
			t.Fatalf("step %d: %s", step, operation)
		}
	}
}

// change moves the model to these keys. Fresh keys are looked up in d and must be new.
func (m *model) change(t *testing.T, d Description, keys []string, next string, now time.Time) {
	t.Helper()
	place := func(key *string, i int) {
		if *key == drawn && i < len(d.Keys) {
			*key = d.Keys[i].Fingerprint
			if _, known := m.created[*key]; known {
				t.Fatalf("%s is not drawn", *key)
			}
		}
	}
	place(&keys[0], 0)
	if next != "" {
		place(&next, 1)
	}
	created, activated := make(map[string]time.Time), make(map[string]time.Time)
	for _, key := range append([]string{next}, keys...) {
		created[key] = now
		if at, known := m.created[key]; known {
			created[key], activated[key] = at, m.activated[key]
		}
	}
	if keys[0] != m.keys[0] {
		activated[keys[0]] = now
	}
	m.keys, m.next, m.created, m.activated = keys, next, created, activated
}

// description returns the description of the model, without names.
func (m *model) description() Description {
	d := Description{Generation: m.generation, UpdatedAt: m.updated, Source: m.source}
	add := func(role Role, key string) {
		bits, ok := m.bits[key]
		if !ok {
			bits = 256
		}
		d.Keys = append(d.Keys, KeyDescription{
			Role: role, Bits: bits, Fingerprint: key, CreatedAt: m.created[key], ActivatedAt: m.activated[key],
		})
	}
	add(RoleCurrent, m.keys[0])
	if m.next != "" {
		add(RoleNext, m.next)
	}
	for _, key := range m.keys[1:] {
		add(RolePrevious, key)
	}
	return d
}

func stripNames(d Description) Description {
	d.NextRotationAt = time.Time{}
	d.Keys = slices.Clone(d.Keys)
	for i := range d.Keys {
		d.Keys[i].Name = Name{}
	}
	return d
}

// randomSet returns a valid set, partly from the keys of another.
func randomSet(random *rand.Rand, other Set) Set {
	var pool []Key
	if random.IntN(3) > 0 {
		for _, k := range other.all() {
			pool = append(pool, k.clone())
		}
	}
	for _, n := range random.Perm(30)[:10] {
		if k := testKey(n, []int{size128, size256}[n%2]); !slices.ContainsFunc(pool, k.Equal) {
			pool = append(pool, k)
		}
	}
	random.Shuffle(len(pool), func(i, j int) { pool[i], pool[j] = pool[j], pool[i] })
	n := 1 + random.IntN(len(pool)-1)
	set := Set{Keys: pool[:n]}
	if random.IntN(2) == 0 {
		set.Next = &pool[n]
	}
	return set
}

// Readers only ever see complete published sets, while writers replace, rotate and
// revoke, which wipes the keys that the readers copied from.
func TestConcurrentSnapshots(t *testing.T) {
	const writers, readers, updates = 4, 4, 300
	r := NewRing(time.Now, twiceADay)
	type sighting struct {
		generation uint64
		digest     [sha256.Size]byte
	}
	digest := func(d Description) [sha256.Size]byte {
		return sha256.Sum256(fmt.Append(nil, d.Source, d.Keys))
	}
	first := r.Description()
	published := map[uint64][sha256.Size]byte{first.Generation: digest(first)}
	var mu sync.Mutex // guards published
	stop := make(chan struct{})
	seen := make([][]sighting, readers)
	var reading, writing sync.WaitGroup
	for i := range readers {
		reading.Go(func() {
			for {
				set, d := r.Snapshot()
				i0 := 0
				for role, k := range set.all() {
					if want := d.Keys[i0]; k.Fingerprint() != want.Fingerprint || role != want.Role {
						t.Errorf("key %d of the snapshot is not the one described", i0)
						return
					}
					i0++
				}
				if i0 != len(d.Keys) {
					t.Errorf("%d keys, %d described", i0, len(d.Keys))
					return
				}
				seen[i] = append(seen[i], sighting{d.Generation, digest(d)})
				if s := r.Stats(); s.Generation < d.Generation {
					t.Errorf("generation went from %d to %d", d.Generation, s.Generation)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range writers {
		random := rand.New(rand.NewPCG(uint64(i), 0))
		writing.Go(func() {
			for n := range updates {
				var d Description
				var err error
				switch n % 3 {
				case 0:
					d, err = r.Replace(t.Context(), testSet(size256, random.Perm(5)...), Update{Source: SourceAPI})
				case 1:
					d, err = r.Rotate(t.Context(), Update{})
				case 2:
					d, err = r.Revoke(t.Context(), r.Description().Keys[0].Name, Update{})
				}
				if err != nil && !errors.Is(err, ErrKeyNotFound) {
					t.Error(err)
					return
				}
				if err == nil {
					mu.Lock()
					published[d.Generation] = digest(d)
					mu.Unlock()
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	reading.Wait()
	for _, sightings := range seen {
		for _, s := range sightings {
			if published[s.generation] != s.digest {
				t.Fatalf("generation %d was seen and never published", s.generation)
			}
		}
	}
}

func BenchmarkSnapshot(b *testing.B) {
	r := ringWith(b, withNext(testSet(size256, 1, 2, 3), testKey(4, size256)))
	b.ReportAllocs()
	for b.Loop() {
		set, _ := r.Snapshot()
		set.Wipe()
	}
}

func BenchmarkDescription(b *testing.B) {
	r := ringWith(b, withNext(testSet(size256, 1, 2, 3), testKey(4, size256)))
	b.ReportAllocs()
	for b.Loop() {
		r.Description()
	}
}

func BenchmarkRotate(b *testing.B) {
	r := NewRing(clock(), twiceADay)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Rotate(b.Context(), Update{}); err != nil {
			b.Fatal(err)
		}
	}
}
