package cache_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

// recorder keeps the events that it is told of.
type recorder struct {
	mu     sync.Mutex
	events []cache.Event
	unwant cache.EventKind // is not wanted
}

func (r *recorder) Wants(kind cache.EventKind) bool { return kind != r.unwant }

func (r *recorder) Observe(e cache.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// take returns the events since the last call.
func (r *recorder) take() []cache.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.events
	r.events = nil
	return taken
}

const allWanted = cache.EventKind(255)

func TestObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{unwant: allWanted}
		c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessions: 2, MaxSessionBytes: 1024, Observer: r})
		start := time.Now()
		want := func(what string, kind cache.EventKind, id, size int, idle time.Duration) {
			t.Helper()
			events := r.take()
			if len(events) != 1 {
				t.Fatalf("%s: %d events", what, len(events))
			}
			e := events[0]
			if e.Kind != kind || e.ID != numbered(uint64(id)) || e.Size != size || e.At.UTC().Sub(e.LastUsed.UTC()) != idle || time.Until(e.At.UTC()).Abs() > time.Second {
				t.Errorf("%s: %+v", what, e)
			}
		}
		mustPut(t, c, numbered(1), filled(10, 1), start.Add(time.Hour))
		want("put", cache.EventStored, 1, 10, 0)
		mustPut(t, c, numbered(1), filled(10, 2), start.Add(time.Hour))
		want("put of the same size", cache.EventReplaced, 1, 10, 0)
		mustPut(t, c, numbered(1), filled(100, 2), start.Add(time.Hour))
		want("put of another size", cache.EventReplaced, 1, 100, 0)
		time.Sleep(time.Minute)
		mustPut(t, c, numbered(2), filled(20, 1), time.Now().Add(time.Minute))
		want("put", cache.EventStored, 2, 20, 0)
		mustPut(t, c, numbered(3), filled(30, 1), start.Add(time.Hour))
		events := r.take()
		if len(events) != 2 || events[0].Kind != cache.EventEvicted || events[0].ID != numbered(1) || events[0].At.UTC().Sub(events[0].LastUsed.UTC()) != time.Minute || events[1].Kind != cache.EventStored {
			t.Errorf("put beyond the limit: %+v", events)
		}
		if _, err := c.Put(numbered(2), nil, cache.PutOptions{ExpiresAt: start.Add(time.Hour)}); err == nil || len(r.take()) != 0 {
			t.Errorf("a put that fails is told, or does not fail: %v", err)
		}
		c.Get(nil, numbered(2))
		if events := r.take(); len(events) != 0 {
			t.Errorf("get: %+v", events)
		}
		time.Sleep(time.Minute + time.Second)
		want("expiry", cache.EventExpired, 2, 20, time.Minute)
		if err := c.Delete(numbered(3), nil); err != nil {
			t.Fatal(err)
		}
		want("delete", cache.EventRemoved, 3, 30, time.Minute+time.Second)
		mustPut(t, c, numbered(4), filled(40, 1), time.Now().Add(time.Hour))
		r.take()
		c.Flush()
		want("flush", cache.EventRemoved, 4, 40, 0)
		r.unwant = cache.EventStored
		mustPut(t, c, numbered(5), filled(40, 1), time.Now().Add(time.Hour))
		if events := r.take(); len(events) != 0 {
			t.Errorf("what is not wanted is told: %+v", events)
		}
	})
}

// What the observer is told makes up what the cache holds, whoever writes it. The counts
// are those of Stats.
func TestObserverSeesAll(t *testing.T) {
	r := &recorder{unwant: allWanted}
	c := newCache(t, cache.Config{Memory: 2 << 20, MaxSessionBytes: 4096, Observer: r})
	var writing sync.WaitGroup
	for range 8 {
		writing.Go(func() {
			for range 5000 {
				id := numbered(rand.Uint64N(2000))
				switch n := rand.IntN(100); {
				case n < 80:
					end := time.Now().Add(time.Hour)
					if n < 10 {
						end = time.Now().Add(time.Duration(rand.IntN(20)+1) * time.Millisecond)
					}
					_, _ = c.Put(id, filled(rand.IntN(4000)+1, 1), cache.PutOptions{ExpiresAt: end}) // it may have expired
				case n < 99:
					_ = c.Delete(id, nil) // it need not be there
				case rand.IntN(100) == 0:
					c.Flush()
				}
			}
		})
	}
	writing.Wait()
	// The sweep goes on, so compare when nothing changes meanwhile.
	var held map[cache.ID]cache.Entry
	var told map[cache.ID]cache.Event
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		told = make(map[cache.ID]cache.Event)
		counts := map[cache.EventKind]uint64{}
		r.mu.Lock()
		events := slices.Clone(r.events)
		r.mu.Unlock()
		for i, e := range events {
			counts[e.Kind]++
			_, known := told[e.ID]
			if stored := e.Kind == cache.EventStored; stored == known {
				t.Fatalf("event %d, kind %d: the session is known: %v", i, e.Kind, known)
			}
			if e.Kind <= cache.EventReplaced {
				told[e.ID] = e
			} else {
				delete(told, e.ID)
			}
		}
		held = make(map[cache.ID]cache.Entry)
		page, more := c.List(cache.ID{}, cache.MaxPage)
		for ; len(page) > 0; page, more = c.List(page[len(page)-1].ID, cache.MaxPage) {
			for _, l := range page {
				held[l.ID] = l.Entry
			}
			if !more {
				break
			}
		}
		st := c.Stats()
		if len(held) == len(told) && counts[cache.EventExpired] == st.Expired {
			if counts[cache.EventStored]+counts[cache.EventReplaced] != st.Stored || counts[cache.EventReplaced] != st.Replaced ||
				counts[cache.EventRemoved] != st.Removed+st.Flushed || counts[cache.EventEvicted] != st.Evicted.Memory || st.Evicted.Memory == 0 || st.Expired == 0 {
				t.Errorf("told %v, counted %+v", counts, st)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cache holds %d sessions, was told of %d", len(held), len(told))
		}
	}
	for id, e := range held {
		if told[id].Size != e.Size || told[id].ExpiresAt != e.ExpiresAt {
			t.Errorf("holds %+v, told %+v", e, told[id])
		}
	}
}
