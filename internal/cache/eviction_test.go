package cache_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/cache/cachetest"
)

// TestHits holds the hits of the cache against those of an LRU with as much room,
// for clients as they are: some never come back, and a TLS 1.3 session is used once.
func TestHits(t *testing.T) {
	tls12 := cachetest.Load{
		Clients: 20_000, Once: 0.6, Connections: 4, Gap: 20 * time.Second,
		Visit: 3 * time.Hour, VisitSigma: 1.5, TTL: 24 * time.Hour,
	}
	tls13 := tls12
	tls13.SingleUse = true
	const room = 2000
	same := func(uint32) int { return 160 }
	// Sessions of 100 lengths in words, some of them large.
	mixed := func(id uint32) int {
		rnd := rand.New(rand.NewPCG(uint64(id), 0))
		return 100 + 8*rnd.IntN(20)*(1+rnd.IntN(5))
	}
	for _, test := range []struct {
		name string
		load cachetest.Load
		cfg  cache.Config
		size func(id uint32) int
	}{
		{"TLS 1.2", tls12, cache.Config{Memory: 4 << 20, MaxSessions: room}, same},
		{"single use", tls13, cache.Config{Memory: 4 << 20, MaxSessions: room}, same},
		{"TLS 1.2, mixed sizes, bounded by memory", tls12, cache.Config{Memory: 1 << 20}, mixed},
		{"single use, mixed sizes, bounded by memory", tls13, cache.Config{Memory: 1 << 20}, mixed},
	} {
		t.Run(test.name, func(t *testing.T) {
			trace := test.load.Trace(1)
			test.cfg.MaxSessionBytes = 1000
			sessions, err := cachetest.NewSessions(test.cfg, test.size)
			if err != nil {
				t.Fatal(err)
			}
			defer sessions.Cache.Close()
			got := cachetest.Replay(trace, test.load, sessions).Ratio()
			capacity := sessions.Cache.Stats().Entries
			want := cachetest.Replay(trace, test.load, cachetest.NewLRU(capacity)).Ratio()
			t.Logf("%d connections, room for %d sessions: %.1f %% hits, LRU %.1f %%", len(trace), capacity, got, want)
			if capacity < room || got < want-0.5 {
				t.Errorf("room for %d sessions, %.1f %% hits, LRU %.1f %%", capacity, got, want)
			}
		})
	}
}

// TestIdleSum evicts sessions for longer than a time.Duration can add up.
func TestIdleSum(t *testing.T) {
	k := newClock(time.Unix(1e9, 0))
	c := newCache(t, cache.Config{Memory: 8 << 20, MaxSessions: 20_000, MaxSessionBytes: 100, Now: k.now})
	const evicted, idle = 20_000, 70 * 24 * time.Hour
	for n := range uint64(2 * evicted) {
		if n == evicted {
			k.add(idle)
		}
		mustPut(t, c, numbered(n), []byte{1}, k.now().Add(2*idle))
	}
	// A shard that has no session left that is as old evicts a new one.
	if got, want := c.Stats().Idle.Sum, evicted*idle.Seconds(); got > want || got < 0.9*want {
		t.Errorf("%v s together, want about %v", got, want)
	}
}

// TestIdle evicts sessions that were used at different times.
func TestIdle(t *testing.T) {
	k := newClock(time.Unix(1e9, 0))
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessions: 4, MaxSessionBytes: 100, Now: k.now})
	put := func(n uint64) { mustPut(t, c, numbered(n), []byte{1}, k.now().Add(1000*time.Hour)) }
	for n := range uint64(4) {
		put(n)
	}
	k.add(10 * time.Second)
	c.Get(nil, numbered(3))
	put(4) // in place of one that was idle for 10 s
	k.add(60 * time.Hour)
	for n := range uint64(4) { // two idle for 60 h and 10 s, two for 60 h
		put(5 + n)
	}
	idle := c.Stats().Idle
	if idle.Count != 5 || idle.Sum != (4*60*time.Hour+3*10*time.Second).Seconds() {
		t.Errorf("%d times, %v s together", idle.Count, idle.Sum)
	}
	for _, b := range idle.Buckets {
		if want := uint64(1); b.UpperBound < 10 && b.Count != 0 || b.UpperBound >= 10 && b.Count != want {
			t.Errorf("%d were idle for at most %d s", b.Count, b.UpperBound)
		}
	}
}
