package cache_test

import (
	"container/list"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/cache/cachetest"
)

// lru is a plain LRU cache, to hold the session cache against.
type lru struct {
	order    list.List // of IDs, the one used last first
	at       map[uint32]*list.Element
	capacity int
}

func (p *lru) Get(s cachetest.Session, _, _ time.Duration) bool {
	at := p.at[s.ID]
	if at != nil {
		p.order.MoveToFront(at)
	}
	return at != nil
}

func (p *lru) Put(s cachetest.Session, now, _ time.Duration) {
	if len(p.at) == p.capacity {
		p.Delete(cachetest.Session{ID: p.order.Back().Value.(uint32)}, now)
	}
	p.at[s.ID] = p.order.PushFront(s.ID)
}

func (p *lru) Delete(s cachetest.Session, _ time.Duration) {
	if at := p.at[s.ID]; at != nil {
		p.order.Remove(at)
		delete(p.at, s.ID)
	}
}

// sessions is the session cache, with sessions whose size depends on their ID.
type sessions struct {
	testing.TB
	*cache.Cache
	clock *clock
	size  func(id uint32) int
}

func (p *sessions) id(s cachetest.Session) cache.ID { return numbered(uint64(s.ID)) }

func (p *sessions) at(now time.Duration) time.Time { return time.Unix(0, int64(now)) }

func (p *sessions) Get(s cachetest.Session, now, _ time.Duration) bool {
	p.clock.set(p.at(now))
	_, _, ok := p.Cache.Get(nil, p.id(s))
	return ok
}

func (p *sessions) Put(s cachetest.Session, now, _ time.Duration) {
	p.clock.set(p.at(now))
	mustPut(p, p.Cache, p.id(s), filled(p.size(s.ID), 1), p.at(s.End))
}

func (p *sessions) Delete(s cachetest.Session, now time.Duration) {
	p.clock.set(p.at(now))
	_ = p.Cache.Delete(p.id(s), nil)
}

// TestHits holds the hits of the cache against those of an LRU with as much room,
// for clients as they are: some never come back, and a TLS 1.3 session is used once.
func TestHits(t *testing.T) {
	tls12 := cachetest.Load{
		Clients: 50_000, Once: 0.6, Connections: 4, Gap: 20 * time.Second,
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
			k := newClock(time.Unix(0, 0))
			test.cfg.MaxSessionBytes, test.cfg.Now = 1000, k.now
			c := newCache(t, test.cfg)
			got := cachetest.Replay(trace, test.load, &sessions{t, c, k, test.size}).Ratio()
			capacity := c.Stats().Entries
			want := cachetest.Replay(trace, test.load, &lru{at: map[uint32]*list.Element{}, capacity: capacity}).Ratio()
			t.Logf("%d connections, room for %d sessions: %.1f %% hits, LRU %.1f %%", len(trace), capacity, got, want)
			if capacity < room || got < want-1 {
				t.Errorf("room for %d sessions, %.1f %% hits, LRU %.1f %%", capacity, got, want)
			}
		})
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
	if idle.Count != 5 || idle.Sum != 4*60*time.Hour+3*10*time.Second {
		t.Errorf("%d times, %v together", idle.Count, idle.Sum)
	}
	for _, b := range idle.Buckets {
		if want := uint64(1); b.UpperBound < 10 && b.Count != 0 || b.UpperBound >= 10 && b.Count != want {
			t.Errorf("%d were idle for at most %d s", b.Count, b.UpperBound)
		}
	}
}
