package cache_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

func newCache(t testing.TB, cfg cache.Config) *cache.Cache {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = time.Now // the clock of the bubble, in tests that have one
	}
	c, err := cache.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// clock is a clock that stands still unless it is moved.
type clock struct{ ns atomic.Int64 }

func newClock(start time.Time) *clock {
	k := &clock{}
	k.set(start)
	return k
}

func (k *clock) now() time.Time      { return time.Unix(0, k.ns.Load()) }
func (k *clock) set(t time.Time)     { k.ns.Store(t.UnixNano()) }
func (k *clock) add(d time.Duration) { k.ns.Add(int64(d)) }

// numbered returns the n-th of many different IDs of 32 bytes.
func numbered(n uint64) cache.ID {
	var b [32]byte
	binary.LittleEndian.PutUint64(b[:], n)
	id, err := cache.MakeID(b[:])
	if err != nil {
		panic(err)
	}
	return id
}

// filled returns size bytes, none of them zero.
func filled(size int, with byte) []byte { return bytes.Repeat([]byte{with | 1}, size) }

func absent(_ cache.Tag, exists bool) bool { return !exists }

func is(data []byte) cache.Condition {
	return func(tag cache.Tag, exists bool) bool { return exists && tag == cache.TagOf(data) }
}

func mustPut(t testing.TB, c *cache.Cache, id cache.ID, data []byte, end time.Time) {
	t.Helper()
	if _, err := c.Put(id, data, cache.PutOptions{ExpiresAt: end}); err != nil {
		t.Fatal(err)
	}
}

// ends adds up the sessions that ended in any way.
func ends(st cache.Stats) uint64 {
	return st.Replaced + st.Removed + st.Expired + st.Flushed + st.Evicted.Memory + st.Evicted.Sessions
}

func TestNewValidates(t *testing.T) {
	good := cache.Config{Memory: cache.MinMemory, MaxSessionBytes: cache.MaxSize}
	for name, set := range map[string]func(*cache.Config){
		"memory too small":      func(c *cache.Config) { c.Memory = cache.MinMemory - 1 },
		"memory negative":       func(c *cache.Config) { c.Memory = math.MinInt64 },
		"memory too large":      func(c *cache.Config) { c.Memory = cache.MaxMemory + 1 },
		"max sessions negative": func(c *cache.Config) { c.MaxSessions = -1 },
		"session bytes zero":    func(c *cache.Config) { c.MaxSessionBytes = 0 },
		"session bytes over":    func(c *cache.Config) { c.MaxSessionBytes = cache.MaxSize + 1 },
	} {
		cfg := good
		set(&cfg)
		if c, err := cache.New(cfg); err == nil {
			c.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPutGet(t *testing.T) {
	start := time.Date(2026, 7, 1, 12, 0, 0, 5e6, time.FixedZone("", 3600))
	k := newClock(start)
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 100, Now: k.now})
	id := numbered(1)
	data := []byte("first")
	end := start.Add(time.Minute)

	if got, e, ok := c.Get([]byte("dst"), id); ok || string(got) != "dst" || e != (cache.Entry{}) {
		t.Errorf("Get of nothing = %q, %v, %v", got, e, ok)
	}
	if replaced, err := c.Put(id, data, cache.PutOptions{ExpiresAt: end, Mark: 7}); replaced || err != nil {
		t.Fatalf("Put = %v, %v", replaced, err)
	}
	copy(data, "XXXXX")
	got, e, ok := c.Get([]byte("dst"), id)
	if want := (cache.Entry{Size: 5, StoredAt: cache.Time(start.UnixMilli()), ExpiresAt: cache.Time(end.UnixMilli()), Mark: 7}); !ok || string(got) != "dstfirst" || e != want {
		t.Errorf("Get = %q, %+v, %v, want %+v", got, e, ok, want)
	}
	copy(got, "XXXXXXXX")
	if got, _, _ := c.Get(nil, id); string(got) != "first" {
		t.Errorf("the cache shares memory with its callers: %q", got)
	}

	k.add(time.Second)
	if replaced, err := c.Put(id, []byte("second, and longer"), cache.PutOptions{ExpiresAt: end}); !replaced || err != nil {
		t.Fatalf("Put = %v, %v", replaced, err)
	}
	got, e, ok = c.Get(nil, id)
	if !ok || string(got) != "second, and longer" || e.Mark != 0 || !e.StoredAt.UTC().Equal(k.now()) {
		t.Errorf("Get = %q, %+v, %v", got, e, ok)
	}
	st := c.Stats()
	if st.Hits != 3 || st.Misses != 1 || st.Stored != 2 || st.Replaced != 1 || st.Entries != 1 || st.DataBytes != 18 {
		t.Errorf("%+v", st)
	}
}

func TestGetDoesNotAllocate(t *testing.T) {
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 160})
	id := numbered(1)
	mustPut(t, c, id, filled(160, 1), time.Now().Add(time.Hour))
	dst := make([]byte, 0, 160)
	if n := testing.AllocsPerRun(1000, func() { c.Get(dst, id) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestExpiryIsExact(t *testing.T) {
	start := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	k := newClock(start)
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 100, Now: k.now})
	id := numbered(1)
	for _, end := range []time.Time{{}, start.Add(-time.Hour), start.Add(-1), start} {
		if _, err := c.Put(id, []byte{1}, cache.PutOptions{ExpiresAt: end}); err != cache.ErrExpired {
			t.Errorf("Put with the end %v: %v", end, err)
		}
	}
	end := start.Add(time.Minute)
	mustPut(t, c, id, []byte{1}, end)
	k.set(end.Add(-1)) // the millisecond before
	if _, _, ok := c.Get(nil, id); !ok {
		t.Error("gone before its end")
	}
	k.set(end)
	if page, _ := c.List(cache.ID{}, 10); len(page) != 0 {
		t.Error("listed at its end")
	}
	if err := c.Delete(id, nil); err != cache.ErrNotFound {
		t.Errorf("Delete at its end: %v", err)
	}
	if st := c.Stats(); st.Expired != 1 || st.Entries != 0 {
		t.Errorf("%+v", st)
	}
	if _, err := c.Put(id, []byte{1}, cache.PutOptions{ExpiresAt: end.Add(time.Millisecond), If: absent}); err != nil {
		t.Errorf("Put in place of an expired session: %v", err)
	}
	k.set(end.Add(time.Millisecond))
	if _, _, ok := c.Get(nil, id); ok {
		t.Error("returned at its end")
	}

	mustPut(t, c, id, []byte{1}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
	if _, e, ok := c.Get(nil, id); !ok || e.ExpiresAt.UTC().Year() != 2527 {
		t.Errorf("far end: %v, %v", e, ok)
	}
}

func TestRejections(t *testing.T) {
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 1000})
	old, end := filled(1000, 1), time.Now().Add(time.Hour)
	var sessions int
	for c.Stats().Evicted.Memory == 0 { // full, so that anything stored would evict
		mustPut(t, c, numbered(uint64(sessions)), old, end)
		sessions++
	}
	id := numbered(uint64(sessions - 1))
	before := c.Stats()
	for _, test := range []struct {
		name string
		id   cache.ID
		size int
		o    cache.PutOptions
		want error
	}{
		{"zero ID", cache.ID{}, 1, cache.PutOptions{ExpiresAt: end}, cache.ErrInvalidID},
		{"empty", id, 0, cache.PutOptions{ExpiresAt: end}, cache.ErrEmpty},
		{"too large", id, 1001, cache.PutOptions{ExpiresAt: end}, cache.ErrTooLarge},
		{"expired", id, 1, cache.PutOptions{ExpiresAt: time.Now()}, cache.ErrExpired},
		{"there", id, 1, cache.PutOptions{ExpiresAt: end, If: absent}, cache.ErrPrecondition},
		{"other content", id, 1, cache.PutOptions{ExpiresAt: end, If: is([]byte{1})}, cache.ErrPrecondition},
		{"not there", numbered(math.MaxUint64), 1, cache.PutOptions{ExpiresAt: end, If: is(old)}, cache.ErrPrecondition},
	} {
		if replaced, err := c.Put(test.id, make([]byte, test.size), test.o); replaced || !errors.Is(err, test.want) {
			t.Errorf("%s: %v, %v", test.name, replaced, err)
		}
	}
	if err := c.Delete(id, is([]byte{1})); err != cache.ErrPrecondition {
		t.Errorf("Delete of other content: %v", err)
	}
	after := c.Stats()
	if want := (cache.Rejected{TooLarge: 1, Expired: 1, Empty: 1, Precondition: 3}); after.Rejected != want {
		t.Errorf("rejected %+v, want %+v", after.Rejected, want)
	}
	before.Rejected, before.Contended, after.Contended = after.Rejected, 0, 0
	if after != before {
		t.Errorf("a rejected Put changed something:\n%+v\n%+v", before, after)
	}
	if got, _, ok := c.Get(nil, id); !ok || !bytes.Equal(got, old) {
		t.Error("a rejected Put changed the session")
	}
	if replaced, err := c.Put(id, []byte{1}, cache.PutOptions{ExpiresAt: end, If: is(old)}); !replaced || err != nil {
		t.Errorf("Put with a condition that holds: %v, %v", replaced, err)
	}
	if err := c.Delete(id, is([]byte{1})); err != nil {
		t.Errorf("Delete with a condition that holds: %v", err)
	}
}

func TestEverySize(t *testing.T) {
	c := newCache(t, cache.Config{Memory: 4 << 20, MaxSessionBytes: cache.MaxSize})
	all := make([]byte, cache.MaxSize)
	for i := range all {
		all[i] = byte(i*7 + i>>8)
	}
	end := time.Now().Add(time.Hour)
	dst := make([]byte, 0, cache.MaxSize)
	for size := 1; size <= cache.MaxSize; size++ {
		id := numbered(uint64(size % 50))
		mustPut(t, c, id, all[:size], end)
		got, e, ok := c.Get(dst, id)
		if !ok || e.Size != size || !bytes.Equal(got, all[:size]) {
			t.Fatalf("%d bytes: %d returned, %+v, %v", size, len(got), e, ok)
		}
	}
}

func TestSizeHistogram(t *testing.T) {
	c := newCache(t, cache.Config{Memory: 4 << 20, MaxSessionBytes: cache.MaxSize})
	sizes := []int{1, 63, 64, 65, 128, 129, 40000, 65535, 65536}
	sum := 0
	for i, size := range sizes {
		mustPut(t, c, numbered(uint64(i)), filled(size, 1), time.Now().Add(time.Hour))
		sum += size
	}
	got := c.Stats().Sizes
	if got.Count != uint64(len(sizes)) || got.Sum != uint64(sum) {
		t.Errorf("count %d, sum %d", got.Count, got.Sum)
	}
	last := 0
	for _, b := range got.Buckets {
		want := uint64(0)
		for _, size := range sizes {
			if size <= b.UpperBound {
				want++
			}
		}
		if b.Count != want || b.UpperBound <= last {
			t.Errorf("bucket %d: %d, want %d", b.UpperBound, b.Count, want)
		}
		last = b.UpperBound
	}
	if last != cache.MaxSize {
		t.Errorf("the last bucket ends at %d", last)
	}
}

// TestWiping looks at the memory itself, for each way in which a session ends.
func TestWiping(t *testing.T) {
	const size = 1000
	id := numbered(0)
	end := func() time.Time { return time.Now().Add(time.Minute) }
	for name, act := range map[string]func(*cache.Cache){
		"Delete": func(c *cache.Cache) { _ = c.Delete(id, nil) },
		"Flush":  func(c *cache.Cache) { c.Flush() },
		"Close":  func(c *cache.Cache) { c.Close() },
		"replaced": func(c *cache.Cache) {
			_, _ = c.Put(id, []byte{1}, cache.PutOptions{ExpiresAt: end()})
		},
		"replaced in place": func(c *cache.Cache) {
			_, _ = c.Put(id, filled(size-3, 1), cache.PutOptions{ExpiresAt: end()})
		},
		"evicted": func(c *cache.Cache) {
			for n := uint64(1); c.Stats().Evicted.Sessions == 0; n++ {
				time.Sleep(time.Nanosecond)
				_, _ = c.Put(numbered(n), []byte{1}, cache.PutOptions{ExpiresAt: end()})
			}
		},
		"expired, then asked for": func(c *cache.Cache) {
			time.Sleep(time.Minute)
			c.Get(nil, id)
		},
		"expired, then swept": func(*cache.Cache) { time.Sleep(time.Minute + time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessions: 5, MaxSessionBytes: size})
				mustPut(t, c, id, filled(size, 0xff), end())
				if !c.Holds(filled(size, 0xff)) {
					t.Fatal("it is not to be found in memory")
				}
				act(c)
				synctest.Wait()
				if c.Holds(filled(3, 0xff)) {
					t.Error("some of it is left")
				}
			})
		})
	}
}

func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Config{Memory: 32 << 20, MaxSessionBytes: 100})
		empty := c.Stats().Bytes
		const sessions = 100_000
		start := time.Now()
		for n := range uint64(sessions) { // ends over ten seconds
			mustPut(t, c, numbered(n), filled(50, 1), start.Add(time.Millisecond+time.Duration(n)*100*time.Microsecond))
		}
		for s := 1; s <= 11; s++ {
			time.Sleep(time.Second)
			synctest.Wait()
			st := c.Stats()
			alive := max(0, sessions-s*10_000)
			if st.Entries < alive || st.Entries > alive+10_000 {
				t.Errorf("after %d s: %d sessions, %d are alive", s, st.Entries, alive)
			}
		}
		st := c.Stats()
		if st.Expired != sessions || st.Bytes != empty || st.DataBytes != 0 {
			t.Errorf("%+v, empty had %d bytes", st, empty)
		}
	})
}

// TestSweepFar has sessions that end at any time within a day, in an order of its own.
func TestSweepFar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 100})
		start := time.Now()
		rnd := rand.New(rand.NewPCG(1, 2))
		ends := []time.Duration{}
		for range 500 {
			ends = append(ends, 1+time.Duration(rnd.ExpFloat64()*float64(time.Hour)))
		}
		for n, end := range ends {
			mustPut(t, c, numbered(uint64(n)), filled(50, 1), start.Add(time.Millisecond+end))
		}
		slices.Sort(ends)
		for n, end := range ends {
			time.Sleep(time.Until(start.Add(end + time.Second)))
			synctest.Wait()
			if left := c.Stats().Entries; left > len(ends)-n-1 {
				t.Fatalf("%v after its end one of %d sessions is left", time.Since(start.Add(end)), left)
			}
		}
	})
}

// TestClockJumps sets the clock forth and back. What has ended by the clock is
// swept, and nothing else.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newClock(time.Unix(1e9, 0))
		c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 100, Now: k.now})
		check := func(what string, want int) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			if got := c.Stats().Entries; got != want {
				t.Errorf("%s: %d sessions, want %d", what, got, want)
			}
		}
		put := func(n uint64, life time.Duration) {
			t.Helper()
			mustPut(t, c, numbered(n), filled(50, 1), k.now().Add(life))
		}
		put(1, time.Minute)
		put(2, 100*time.Hour)
		put(3, 30*24*time.Hour)
		check("at first", 3)
		k.add(99 * time.Hour)
		check("99 hours on", 2)
		k.add(-98 * time.Hour)
		put(4, time.Minute) // before what was swept
		put(5, 200*time.Hour)
		check("98 hours back", 4)
		if _, _, ok := c.Get(nil, numbered(4)); !ok {
			t.Error("a session is gone before its end")
		}
		k.add(2 * time.Minute)
		check("behind the end of one of them", 3)
		k.add(99 * time.Hour)
		check("beyond where it was", 2)
		k.add(29 * 24 * time.Hour)
		check("a month on", 0)
		put(6, time.Hour)
		k.add(250 * 365 * 24 * time.Hour)
		check("250 years on", 0)
	})
}

// TestSweepIsBounded has the clock leap, so that all sessions end at once: the sweep
// does little under one lock all the same.
func TestSweepIsBounded(t *testing.T) {
	k := newClock(time.Unix(1e9, 0))
	c := newCache(t, cache.Config{Memory: 64 << 20, MaxSessions: 100_000, MaxSessionBytes: 100, Now: k.now})
	for n := range uint64(100_000) {
		mustPut(t, c, numbered(n), []byte{1}, k.now().Add(24*time.Hour))
	}
	k.add(25 * time.Hour)
	if most, bound := c.Sweep(); most > bound {
		t.Errorf("%d steps under one lock, want %d at most", most, bound)
	}
	if st := c.Stats(); st.Entries != 0 || st.Expired != 100_000 {
		t.Errorf("%d sessions, %d expired", st.Entries, st.Expired)
	}
}

func TestClose(t *testing.T) {
	// The bubble fails the test when a goroutine is left in it.
	synctest.Test(t, func(t *testing.T) {
		c, err := cache.New(cache.Config{Memory: 1 << 20, MaxSessionBytes: 100, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		id, end := numbered(1), time.Now().Add(time.Hour)
		mustPut(t, c, id, []byte{1}, end)
		go c.Close()
		c.Close()
		c.Close()
		if _, err := c.Put(id, []byte{1}, cache.PutOptions{ExpiresAt: end}); err != cache.ErrClosed {
			t.Errorf("Put: %v", err)
		}
		if _, _, ok := c.Get(nil, id); ok {
			t.Error("Get found something")
		}
		if err := c.Delete(id, nil); err != cache.ErrNotFound {
			t.Errorf("Delete: %v", err)
		}
		if page, more := c.List(cache.ID{}, 1); len(page) != 0 || more {
			t.Errorf("List: %v, %v", page, more)
		}
		if n := c.Flush(); n != 0 {
			t.Errorf("Flush: %d", n)
		}
		if st := c.Stats(); st.Entries != 0 || st.Stored != ends(st) || st.Rejected.Closed != 1 {
			t.Errorf("%+v", st)
		}
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 100})
		empty := c.Stats().Bytes
		for n := range uint64(100) {
			mustPut(t, c, numbered(n), []byte{1}, time.Now().Add(time.Duration(1+n%2)*time.Millisecond))
		}
		time.Sleep(time.Millisecond)
		if n := c.Flush(); n != 50 {
			t.Errorf("flushed %d live sessions", n)
		}
		if st := c.Stats(); st.Flushed != 50 || st.Expired != 50 || st.Entries != 0 || st.Bytes != empty {
			t.Errorf("%+v", st)
		}
	})
}

func TestList(t *testing.T) {
	c := newCache(t, cache.Config{Memory: 4 << 20, MaxSessionBytes: 100})
	end := time.Now().Add(time.Hour)
	var want []cache.Listed // in the order of the cache
	const sessions = 2500
	for n := range uint64(sessions) {
		mustPut(t, c, numbered(n), filled(1+int(n%100), 1), end)
	}
	for _, limit := range []int{cache.MaxPage, math.MaxInt, 1, 7, 500} {
		var got []cache.Listed
		var after cache.ID
		for more := true; more; {
			var page []cache.Listed
			page, more = c.List(after, limit)
			if len(page) > min(limit, cache.MaxPage) || more && len(page) < min(limit, cache.MaxPage) {
				t.Fatalf("a page of %d with the limit %d, more is %v", len(page), limit, more)
			}
			got = append(got, page...)
			after = got[len(got)-1].ID
		}
		if want == nil {
			want = got
			seen := map[cache.ID]bool{}
			for _, e := range got {
				_, direct, ok := c.Get(nil, e.ID)
				if !ok || direct != e.Entry || seen[e.ID] {
					t.Fatalf("listed %+v, there is %+v, seen before is %v", e, direct, seen[e.ID])
				}
				seen[e.ID] = true
			}
			if len(seen) != sessions {
				t.Fatalf("%d sessions listed", len(seen))
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("the listing in pages of %d differs from the first one", limit)
		}
	}
	for _, limit := range []int{0, -1, math.MinInt} {
		if page, _ := c.List(cache.ID{}, limit); len(page) != 0 {
			t.Errorf("limit %d: %d sessions", limit, len(page))
		}
	}
	if err := c.Delete(want[9].ID, nil); err != nil {
		t.Fatal(err)
	}
	if page, _ := c.List(want[9].ID, 1); len(page) != 1 || page[0] != want[10] {
		t.Error("a listing does not go on after a session that is gone")
	}
	if page, more := c.List(want[sessions-1].ID, 10); len(page) != 0 || more {
		t.Errorf("after the last one: %v, %v", page, more)
	}
}

func TestMaxSessions(t *testing.T) {
	for _, limit := range []int{1, 2, 100, 70_000} {
		c := newCache(t, cache.Config{Memory: 32 << 20, MaxSessions: limit, MaxSessionBytes: 100})
		end := time.Now().Add(time.Hour)
		for n := range limit + 50 {
			mustPut(t, c, numbered(uint64(n)), []byte{1}, end)
			if got := c.Stats().Entries; n%101 == 0 && got != min(n+1, limit) {
				t.Fatalf("%d sessions after %d, the limit is %d", got, n+1, limit)
			}
		}
		last := numbered(uint64(limit + 49))
		if replaced, err := c.Put(last, filled(100, 1), cache.PutOptions{ExpiresAt: end}); !replaced || err != nil {
			t.Errorf("replaced %v, %v", replaced, err)
		}
		if st := c.Stats(); st.Evicted != (cache.Evicted{Sessions: 50}) || st.Entries != limit || st.MaxSessions != limit {
			t.Errorf("%+v", st)
		}
	}
}

// TestSpaceIsShared stores three times what caches of several sizes hold. From
// when the first session has to go there is little room left: what the shards
// differ by, what is lost where a ring ends, and what ended sessions still take.
func TestSpaceIsShared(t *testing.T) {
	for _, memory := range []int64{1 << 20, 3 << 20, 32 << 20} {
		for _, size := range []int{160, 1000, 4096, 16 << 10, cache.MaxSize} {
			c := newCache(t, cache.Config{Memory: memory, MaxSessionBytes: max(size, 1000)})
			end := time.Now().Add(time.Hour)
			first, least := 1.0, 1.0 // how full it was
			data := filled(size, 1)
			for n := range uint64(3 * memory / int64(size)) {
				mustPut(t, c, numbered(n), data, end)
				if n%64 != 0 { // looking takes longer than storing
					continue
				}
				st := c.Stats()
				if st.Bytes > st.Capacity {
					t.Fatalf("%d bytes of %d", st.Bytes, st.Capacity)
				}
				if st.Evicted.Memory > 0 {
					full := float64(st.Bytes) / float64(st.Capacity)
					if least == 1 {
						first = full
					}
					least = min(least, full)
				}
			}
			if least < 0.75 || least < 0.95 && size*10_000 < int(memory) {
				t.Errorf("%d MiB, sessions of %d bytes: %.1f %% full when one is evicted", memory>>20, size, 100*least)
			}
			t.Logf("%d MiB, sessions of %d bytes: %.1f %% full when the first is evicted, %.1f %% at least from then on", memory>>20, size, 100*first, 100*least)
		}
	}
}

// TestReplaceInFullCache replaces the very session that is due to be evicted by
// one that needs more room, often where no other session hashes to.
func TestReplaceInFullCache(t *testing.T) {
	exists := func(_ cache.Tag, exists bool) bool { return exists }
	for range 50 {
		k := newClock(time.Unix(1e9, 0))
		c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: cache.MaxSize, Now: k.now})
		oldest, end := numbered(0), k.now().Add(time.Hour)
		mustPut(t, c, oldest, []byte{1}, end)
		for n := uint64(1); c.Stats().Capacity-c.Stats().Bytes >= cache.MaxSize-1; n++ {
			k.add(1)
			mustPut(t, c, numbered(n), filled(48<<10, 1), end)
		}
		k.add(1)
		replaced, err := c.Put(oldest, filled(cache.MaxSize, 3), cache.PutOptions{ExpiresAt: end, If: exists})
		if !replaced || err != nil {
			t.Fatalf("replaced %v, %v, %+v", replaced, err, c.Stats())
		}
	}
}

// TestExpiredMakeRoom has as many sessions as there may be, the oldest of which
// has ended and is not swept yet.
func TestExpiredMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newClock(time.Unix(1e9, 0))
		c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessions: 10, MaxSessionBytes: 100, Now: k.now})
		mustPut(t, c, numbered(0), filled(50, 1), k.now().Add(time.Second))
		for n := range uint64(9) {
			mustPut(t, c, numbered(1+n), filled(50, 1), k.now().Add(time.Hour))
		}
		k.add(time.Minute)
		mustPut(t, c, numbered(10), filled(50, 1), k.now().Add(time.Hour))
		if st := c.Stats(); st.Entries != 10 || st.Expired != 1 || st.Evicted.Sessions != 0 {
			t.Errorf("%d sessions, %d expired, %d evicted", st.Entries, st.Expired, st.Evicted.Sessions)
		}
	})
}

// TestSessionsInUseStay lets many times as many sessions pass through as fit,
// while a few are used now and then.
func TestSessionsInUseStay(t *testing.T) {
	k := newClock(time.Unix(1e9, 0))
	for _, cfg := range []cache.Config{
		{Memory: 1 << 20, MaxSessions: 2000},
		{Memory: 32 << 20}, // has room for about 7,700 sessions
	} {
		cfg.MaxSessionBytes = 4096
		cfg.Now = k.now
		c := newCache(t, cfg)
		end := k.now().Add(time.Hour)
		data := filled(min(4096, int(cfg.Memory>>13)), 1)
		const used = 100
		for n := range uint64(100_000) {
			k.add(time.Microsecond)
			mustPut(t, c, numbered(n), data, end)
			if _, _, ok := c.Get(nil, numbered(n%used)); !ok && n >= used {
				t.Fatalf("%+v: session %d was evicted after %d", cfg, n%used, n)
			}
		}
		if st := c.Stats(); st.Entries > 10_000 {
			t.Errorf("%d sessions: the cache was never full", st.Entries)
		}
	}
}

// TestLargeMemory has much more memory than it uses, in many shards and, for a
// bound of few sessions, in as few as can be.
func TestLargeMemory(t *testing.T) {
	for _, cfg := range []cache.Config{
		{Memory: 16 << 30, MaxSessionBytes: cache.MaxSize},
		{Memory: 16 << 30, MaxSessionBytes: cache.MaxSize, MaxSessions: 1000},
	} {
		c := newCache(t, cfg)
		for n := range uint64(1000) {
			mustPut(t, c, numbered(n), filled(160, 1), time.Now().Add(time.Hour))
		}
		page, more := c.List(cache.ID{}, 100)
		if _, _, ok := c.Get(nil, numbered(999)); !ok || len(page) != 100 || !more || c.Stats().Entries != 1000 {
			t.Errorf("%d sessions listed, more is %v, %v", len(page), more, ok)
		}
		c.Close()
	}
}

// A Put that finds room far from the end of the ring, behind sessions that stay,
// moves a bounded number of them under its lock.
func TestPutMovesFew(t *testing.T) {
	c := newCache(t, cache.Config{Memory: cache.MinMemory, MaxSessionBytes: 300})
	data, end := filled(160, 1), time.Now().Add(time.Hour)
	stored := uint64(0)
	for ; c.Stats().Evicted.Memory == 0; stored++ {
		mustPut(t, c, numbered(stored), data, end)
	}
	for i := stored / 2; i < stored; i++ {
		_ = c.Delete(numbered(i), nil) // but for the one that was evicted
	}
	data = data[:150] // a word less: none of the free pieces has its length
	for i := range 100 {
		mustPut(t, c, numbered(stored+uint64(i)), data, end)
		if over := c.Overdrawn(); over > cache.LargestRecord(300) {
			t.Fatalf("Put %d moved %d words more than one may", i, over)
		}
	}
}

// TestReplaceInPlace replaces sessions by others that take as much memory: all of
// the new one holds, its end too, whether that is sooner or later.
func TestReplaceInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 100})
		start := time.Now()
		at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
		for n, ends := range [][2]int{{60, 2}, {2, 60}, {2, 7200}, {7200, 2}, {60, 60}} {
			id := numbered(uint64(n))
			mustPut(t, c, id, filled(50, 1), at(ends[0]))
			before := c.Stats().Bytes
			mustPut(t, c, id, filled(49, 2), at(ends[1]))
			if got, e, ok := c.Get(nil, id); !ok || !bytes.Equal(got, filled(49, 2)) || e.ExpiresAt.UTC().Sub(at(ends[1])).Abs() > time.Millisecond {
				t.Errorf("ends %v: %v, %+v, %t", ends, got, e, ok)
			}
			if after := c.Stats().Bytes; after != before {
				t.Errorf("ends %v: it takes %d bytes, before it was %d", ends, after, before)
			}
		}
		if st := c.Stats(); st.Stored != 10 || st.Replaced != 5 || st.DataBytes != 5*49 || st.Entries != 5 {
			t.Errorf("%+v", st)
		}
		for _, left := range []struct{ at, entries int }{{1, 5}, {3, 3}, {61, 1}, {7201, 0}} {
			time.Sleep(time.Until(at(left.at)))
			synctest.Wait()
			if got := c.Stats().Entries; got != left.entries {
				t.Errorf("after %d s there are %d sessions, want %d", left.at, got, left.entries)
			}
		}
	})
}

// TestMaxSessionsBeyondMemory: a bound that memory never lets a cache come to, be it
// the largest that there is, changes nothing.
func TestMaxSessionsBeyondMemory(t *testing.T) {
	for _, limit := range []int{1 << 30, math.MaxInt / 4 * 3, math.MaxInt} {
		c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessions: limit, MaxSessionBytes: 100})
		mustPut(t, c, numbered(1), filled(50, 1), time.Now().Add(time.Minute))
		if st := c.Stats(); st.Entries != 1 || st.MaxSessions != limit {
			t.Errorf("limit %d: %+v", limit, st)
		}
	}
}
