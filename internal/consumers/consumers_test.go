package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
)

func reportOf(generation uint64) Report {
	return Report{Kind: "nginx", Generation: generation, State: Current, ExpiresIn: time.Minute}
}

func put(t *testing.T, table *Table, name string, generation uint64) {
	t.Helper()
	if err := table.Put(t.Context(), name, "edge", reportOf(generation)); err != nil {
		t.Fatal(err)
	}
}

// modelled is a consumer in the model.
type modelled struct {
	identity        string
	report          Report
	reported, since time.Time
	expires         time.Time
}

// TestModel runs random operations against a plain model. SESSAPI_TEST_SEED repeats a
// run.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("SESSAPI_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SESSAPI_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		synctest.Test(t, func(t *testing.T) { runModel(t, random) })
	}
}

func runModel(t *testing.T, random *rand.Rand) {
	table := New(time.Now, nil)
	model := map[string]modelled{}
	ring := keys.NewRing(time.Now, keys.Lifecycle{})
	generations := []uint64{0, ring.Generation()}
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	for range 500 {
		time.Sleep(time.Duration(random.IntN(3)) * time.Duration(random.Int64N(int64(20*time.Minute))))
		now := time.Now()
		for name, m := range model {
			if !now.Before(m.expires.Add(24 * time.Hour)) {
				delete(model, name)
			}
		}
		name, identity := pick("a/1", "a/2", "b/1", "b/2"), pick("x", "x", "x", "y", "")
		known, isKnown := model[name]
		live := isKnown && now.Before(known.expires)
		switch random.IntN(8) {
		case 0:
			time.Sleep(time.Millisecond) // else its generation is not the time
			if _, err := ring.Rotate(t.Context(), keys.Update{}); err != nil {
				t.Fatal(err)
			}
			generations = append(generations, ring.Generation())
		case 1:
			if err := table.Delete(t.Context(), name); errors.Is(err, ErrNotFound) == isKnown {
				t.Fatalf("Delete %s: %v", name, err)
			}
			delete(model, name)
		case 2: // a restart
			data, _ := table.encode()
			down := time.Duration(random.Int64N(int64(2 * time.Hour)))
			time.Sleep(down)
			table = New(time.Now, nil)
			if err := table.Restore(data); err != nil {
				t.Fatal(err)
			}
			for name, m := range model {
				if again := time.Now().Add(m.report.ExpiresIn); now.Before(m.expires) {
					m.expires = again
				}
				model[name] = m
			}
		default:
			r := Report{
				Kind: pick("nginx", "haproxy"), Generation: generations[random.IntN(len(generations))],
				State: State(pick("current", "current", "applying", "failed")), Detail: pick("", "why"),
				ExpiresIn: time.Duration(10+random.IntN(3591)) * time.Second,
			}
			err := table.Put(t.Context(), name, identity, r)
			if want := live && known.identity != identity; errors.Is(err, ErrOwned) != want || err != nil && !want {
				t.Fatalf("Put %s by %q: %v, want refused: %v", name, identity, err, want)
			}
			if err == nil {
				m := modelled{identity, r, now, now, now.Add(r.ExpiresIn)}
				if live && known.report.State == r.State && known.report.Generation == r.Generation {
					m.since = known.since
				}
				model[name] = m
			}
		}
		compare(t, table, model, ring.Description(), generations)
	}
}

func compare(t *testing.T, table *Table, model map[string]modelled, active keys.Description, generations []uint64) {
	t.Helper()
	now := time.Now()
	list := table.List(active)
	i := 0
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name, m := range model {
			if now.Before(m.expires.Add(24*time.Hour)) && !yield(name) {
				return
			}
		}
	}) {
		m := model[name]
		state, since := m.report.State, m.since
		switch {
		case !now.Before(m.expires):
			state, since = Missing, m.expires
		case state == Current && m.report.Generation != active.Generation:
			state = Stale // since the first generation that it does not have
			if i := slices.Index(generations, m.report.Generation); i > 0 {
				since = time.UnixMilli(int64(generations[i+1]))
			} else { // it has no key of them
				since = active.Keys[len(active.Keys)-1].CreatedAt
			}
		}
		if i >= len(list) || list[i].Name != name {
			t.Fatalf("%s is not where it belongs: %v", name, list)
		}
		c := list[i]
		i++
		if c.State != state || c.Identity != m.identity || c.Generation != m.report.Generation || c.Kind != m.report.Kind || c.Detail != m.report.Detail ||
			c.Behind != (m.report.Generation != active.Generation) || c.ReportedAt.Sub(m.reported).Abs() >= time.Millisecond || !c.ExpiresAt.Equal(m.expires) {
			t.Fatalf("%s is %+v, want %s %+v", name, c, state, m)
		}
		// Sets have 3 keys: earlier ones are unknown. A generation is in whole
		// milliseconds.
		if d := c.Since.Sub(since).Abs(); d >= time.Millisecond && (c.State != Stale || c.Since.Before(since)) {
			t.Fatalf("%s is %s since %v, want %v", name, c.State, c.Since, since)
		}
	}
	if i != len(list) {
		t.Fatalf("there are more: %v", list[i:])
	}
	if count := Count(list); len(count) != len(States()) || count[Current]+count[Stale]+count[Applying]+count[Failed]+count[Missing] != len(list) {
		t.Fatalf("%v of %d", count, len(list))
	}
}

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := New(time.Now, nil)
		for i := range Max {
			put(t, table, fmt.Sprintf("host/%d", i), 1)
		}
		if err := table.Put(t.Context(), "host/more", "edge", reportOf(1)); !errors.Is(err, ErrTooMany) {
			t.Error(err)
		}
		put(t, table, "host/7", 2)
		time.Sleep(MissingFor + time.Minute) // all are forgotten
		put(t, table, "host/more", 1)
	})
}

// sharing is a store that loses records on request.
type sharing map[string]Record

func (s sharing) Update(_ context.Context, name string, change func(Record) (Record, error)) (Record, error) {
	fresh, err := change(s[name])
	if err == nil {
		s[name] = fresh
	}
	return fresh, err
}

func (s sharing) Known() bool { return true }

// The newer of two records wins, wherever it comes from and whatever the nodes' clocks
// say.
func TestMerge(t *testing.T) {
	store := sharing{}
	now := time.Now()
	ahead, behind := New(func() time.Time { return now.Add(10 * time.Second) }, store), New(func() time.Time { return now }, store)
	generation := func(table *Table) (g uint64) {
		for _, c := range table.List(keys.Description{}) {
			g = c.Generation
		}
		return g
	}
	put(t, ahead, "a/1", 1)
	first := store["a/1"]
	put(t, behind, "a/1", 2)
	ahead.Merge("a/1", store["a/1"])
	ahead.Merge("a/1", first)
	if generation(ahead) != 2 || generation(behind) != 2 {
		t.Errorf("%d and %d", generation(ahead), generation(behind))
	}
	clear(store) // the owner stays the same
	if err := ahead.Put(t.Context(), "a/1", "other", reportOf(3)); !errors.Is(err, ErrOwned) {
		t.Error(err)
	}
	if err := ahead.Delete(t.Context(), "a/1"); err != nil {
		t.Error(err)
	}
	behind.Merge("a/1", store["a/1"])
	behind.Merge("a/1", first)
	if generation(behind) != 0 || behind.Has("a/1") {
		t.Error("a forgotten consumer came back")
	}
	// Marks of forgotten consumers do not take room forever.
	for i := range 2 * maxRecords {
		behind.Merge(fmt.Sprintf("b/%d", i), Record{ReportedAt: now, ExpiresAt: now, Forgotten: true})
	}
	if n := len(behind.Records()); n > maxRecords {
		t.Errorf("%d records", n)
	}
	put(t, behind, "a/2", 1)
}

func TestSaveWhenChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := New(time.Now, nil)
		var saves atomic.Int64
		var full atomic.Bool
		full.Store(true)
		go table.SaveWhenChanged(t.Context(), func([]byte) error {
			saves.Add(1)
			if full.Load() {
				return errors.New("the disk is full")
			}
			return nil
		}, slog.New(slog.DiscardHandler))
		wait := func(want int64) {
			t.Helper()
			time.Sleep(SaveEvery)
			synctest.Wait()
			if got := saves.Load(); got != want {
				t.Errorf("%d saves, want %d", got, want)
			}
		}
		wait(0)
		put(t, table, "a/1", 1)
		wait(1)
		wait(2) // it failed
		full.Store(false)
		wait(3)
		wait(3)
		if err := table.Delete(t.Context(), "a/1"); err != nil {
			t.Fatal(err)
		}
		wait(4)
	})
}

// Data that is not a state changes nothing. In a state from a clock that was ahead, no
// consumer lasts longer than its report.
func TestRestore(t *testing.T) {
	now := time.Now().UTC()
	table := New(func() time.Time { return now }, nil)
	put(t, table, "a/1", 1)
	whole, _ := table.encode()
	for what, change := range map[string][2]string{
		"cut off": {`}}}`, `}}`}, "version": {`"version":1`, `"version":2`}, "name": {"a/1", "a"}, "long name": {"a/1", "a/" + strings.Repeat("x", 65)},
		"kind": {"nginx", "ngi nx"}, "state": {`"current"`, `"stale"`}, "expiry": {"60000000000", "1"}, "no time": {"reported_at", "else"},
	} {
		fresh := New(time.Now, nil)
		broken := strings.Replace(string(whole), change[0], change[1], 1)
		if err := fresh.Restore([]byte(broken)); !errors.Is(err, ErrInvalidState) || broken == string(whole) || len(fresh.Records()) > 0 {
			t.Errorf("%s: %v, %v of %s", what, err, fresh.Records(), broken)
		}
	}
	earlier := New(func() time.Time { return now.Add(-1000 * time.Hour) }, nil)
	if err := earlier.Restore(whole); err != nil {
		t.Fatal(err)
	}
	if c := earlier.List(keys.Description{})[0]; c.ReportedAt.After(earlier.now()) || c.ExpiresAt.Sub(earlier.now()) > time.Minute {
		t.Errorf("%+v", c)
	}
}

func FuzzRestore(f *testing.F) {
	table := New(time.Now, nil)
	if err := table.Put(f.Context(), "a/1", "edge", reportOf(1)); err != nil {
		f.Fatal(err)
	}
	whole, _ := table.encode()
	f.Add(whole)
	f.Add(Record{ReportedAt: time.Now(), Forgotten: true}.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		table := New(time.Now, nil)
		if table.Restore(data) == nil {
			for name, r := range table.Records() {
				if !isName(name) || !r.valid() {
					t.Errorf("%q: %+v", name, r)
				}
			}
			again, _ := table.encode()
			if err := New(time.Now, nil).Restore(again); err != nil {
				t.Errorf("%v of %s", err, again)
			}
		}
		if r, err := DecodeRecord(data); err == nil {
			var same Record
			if json.Unmarshal(r.Encode(), &same) != nil || same.Generation != r.Generation || !same.ReportedAt.Equal(r.ReportedAt) {
				t.Errorf("%+v", r)
			}
		}
	})
}
