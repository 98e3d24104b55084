package cache_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

// sealed returns size bytes, at least 12, that tell the ID, and whether they
// are whole.
func sealed(id uint64, size int) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint64(b, id)
	for i := 8; i+12 <= size; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rand.Uint64())
	}
	binary.LittleEndian.PutUint32(b[size-4:], crc32.ChecksumIEEE(b[:size-4]))
	return b
}

func checkSealed(id uint64, b []byte) error {
	if len(b) < 12 {
		return fmt.Errorf("%d bytes", len(b))
	}
	end := len(b) - 4
	if crc32.ChecksumIEEE(b[:end]) != binary.LittleEndian.Uint32(b[end:]) || binary.LittleEndian.Uint64(b) != id {
		return fmt.Errorf("torn or foreign: %d bytes under %d", len(b), id)
	}
	return nil
}

// TestConcurrentMix lets all calls run at once on a cache that is far too
// small, and watches values and bounds.
func TestConcurrentMix(t *testing.T) {
	const (
		workers  = 8
		ids      = 300
		rounds   = 3000
		sessions = 100
	)
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessions: sessions, MaxSessionBytes: cache.MaxSize})
	var wg, watcher sync.WaitGroup
	stop := make(chan struct{})
	watcher.Go(func() {
		for {
			if st := c.Stats(); st.Bytes > st.Capacity || st.Entries > sessions {
				t.Errorf("over its bounds: %+v", st)
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	var replaced, stored atomic.Uint64
	for range workers {
		wg.Go(func() {
			for round := range rounds {
				n := rand.Uint64N(ids)
				id := numbered(n)
				switch op := rand.IntN(1000); {
				case op < 500:
					if data, _, ok := c.Get(nil, id); ok {
						if err := checkSealed(n, data); err != nil {
							t.Error(err)
							return
						}
					}
				case op < 940:
					size := 12 + rand.IntN(1000)
					if round/500%2 == 1 { // memory is the bound, before it was the number
						size *= 60
					}
					data := sealed(n, size)
					o := cache.PutOptions{ExpiresAt: time.Now().Add(time.Duration(1+rand.IntN(1000)) * time.Millisecond)}
					if op < 600 {
						o.If = absent
					}
					was, err := c.Put(id, data, o)
					switch {
					case err == nil:
						stored.Add(1)
					case err == cache.ErrPrecondition && o.If != nil:
					case err != cache.ErrExpired: // which a slow machine may see
						t.Error(err)
					}
					if was {
						replaced.Add(1)
					}
				case op < 980:
					_ = c.Delete(id, nil)
				case op < 999:
					c.List(id, 10)
				default:
					c.Flush()
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	watcher.Wait()
	c.Close() // so that the sweep changes nothing below
	st := c.Stats()
	if st.Stored != stored.Load() || st.Replaced != replaced.Load() || st.Stored != ends(st) || st.Entries != 0 {
		t.Errorf("%d stored, %d replaced, counted %+v", stored.Load(), replaced.Load(), st)
	}
	if st.Evicted.Memory == 0 || st.Evicted.Sessions == 0 {
		t.Errorf("one of the bounds was never reached: %+v", st)
	}
}

// TestHardBound has writers of all sizes compete for the last bytes of memory.
func TestHardBound(t *testing.T) {
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: cache.MaxSize})
	end := time.Now().Add(time.Hour)
	data := filled(cache.MaxSize, 1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5000 {
				size := 1 + rand.IntN(cache.MaxSize)>>rand.IntN(10)
				if _, err := c.Put(numbered(rand.Uint64N(200)), data[:size], cache.PutOptions{ExpiresAt: end}); err != nil {
					t.Error(err)
				}
				if st := c.Stats(); st.Bytes > st.Capacity {
					t.Errorf("%d bytes of %d", st.Bytes, st.Capacity)
					return
				}
			}
		})
	}
	wg.Wait()
	st := c.Stats()
	if uint64(st.Entries)+ends(st) != st.Stored || st.Stored != 8*5000 || st.Evicted.Memory == 0 {
		t.Errorf("%+v", st)
	}
	if n := c.Flush(); n != st.Entries {
		t.Errorf("%d sessions flushed of %d", n, st.Entries)
	}
}

// TestConcurrentSameID has writers of one ID.
func TestConcurrentSameID(t *testing.T) {
	const workers, rounds = 8, 3000
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 4096})
	id, end := numbered(1), time.Now().Add(time.Hour)
	var wg sync.WaitGroup
	var fresh atomic.Int64
	last := make([][]byte, workers)
	for w := range workers {
		wg.Go(func() {
			for range rounds {
				last[w] = sealed(1, 12+rand.IntN(4000))
				replaced, err := c.Put(id, last[w], cache.PutOptions{ExpiresAt: end})
				if err != nil {
					t.Error(err)
				}
				if !replaced {
					fresh.Add(1)
				}
				if data, _, ok := c.Get(nil, id); !ok || checkSealed(1, data) != nil {
					t.Errorf("%v: %v", ok, checkSealed(1, data))
				}
			}
		})
	}
	wg.Wait()
	data, _, _ := c.Get(nil, id)
	if !slices.ContainsFunc(last, func(b []byte) bool { return string(b) == string(data) }) {
		t.Error("what is there is not the last write of anyone")
	}
	st := c.Stats()
	if fresh.Load() != 1 || st.Stored != workers*rounds || st.Replaced != workers*rounds-1 || st.Entries != 1 {
		t.Errorf("%d new, %+v", fresh.Load(), st)
	}
}

// TestConditionsAreAtomic counts with compare and swap.
func TestConditionsAreAtomic(t *testing.T) {
	const workers, rounds = 8, 500
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 64})
	id, end := numbered(1), time.Now().Add(time.Hour)
	var wg sync.WaitGroup
	var created, removed atomic.Int64
	for range workers {
		wg.Go(func() {
			for range rounds {
				if _, err := c.Put(id, make([]byte, 8), cache.PutOptions{ExpiresAt: end, If: absent}); err == nil {
					created.Add(1)
				}
				for done := false; !done; {
					old, _, _ := c.Get(nil, id)
					sum := binary.LittleEndian.AppendUint64(nil, binary.LittleEndian.Uint64(old)+1)
					_, err := c.Put(id, sum, cache.PutOptions{ExpiresAt: end, If: is(old)})
					done = err == nil
				}
			}
		})
	}
	wg.Wait()
	data, _, _ := c.Get(nil, id)
	if got := binary.LittleEndian.Uint64(data); got != workers*rounds || created.Load() != 1 {
		t.Errorf("counted to %d of %d, created %d times", got, workers*rounds, created.Load())
	}
	for range workers {
		wg.Go(func() {
			if c.Delete(id, is(data)) == nil {
				removed.Add(1)
			}
		})
	}
	wg.Wait()
	if removed.Load() != 1 {
		t.Errorf("removed %d times", removed.Load())
	}
}

// TestContention has a Get wait for a lock that a condition holds.
func TestContention(t *testing.T) {
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 64})
	id, end := numbered(1), time.Now().Add(time.Hour)
	mustPut(t, c, id, []byte{1}, end)
	if n := c.Stats().Contended; n != 0 {
		t.Errorf("counted %d with nobody else there", n)
	}
	var wg sync.WaitGroup
	var hits uint64
	for deadline := time.Now().Add(30 * time.Second); c.Stats().Contended == 0; hits++ {
		if time.Now().After(deadline) {
			t.Fatal("not counted")
		}
		_, _ = c.Put(id, []byte{2}, cache.PutOptions{ExpiresAt: end, If: func(cache.Tag, bool) bool {
			started := make(chan struct{})
			wg.Go(func() {
				close(started)
				c.Get(nil, id)
			})
			<-started
			runtime.Gosched() // lets it reach the lock, the second time if not the first
			return true
		}})
		wg.Wait()
	}
	if got := c.Stats().Hits; got != hits {
		t.Errorf("%d of %d calls found the session", got, hits)
	}
}

// TestListWhileWriting lists sessions that stay among others that come and go.
func TestListWhileWriting(t *testing.T) {
	const stay = 500
	c := newCache(t, cache.Config{Memory: 8 << 20, MaxSessionBytes: 64})
	end := time.Now().Add(time.Hour)
	for n := range uint64(stay) {
		mustPut(t, c, numbered(n), []byte{1}, end)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := rand.Uint64N(4 * stay)
				if n >= stay && rand.IntN(2) == 0 {
					_ = c.Delete(numbered(n), nil)
					continue
				}
				if _, err := c.Put(numbered(n), []byte{2}, cache.PutOptions{ExpiresAt: end}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for round := range 40 {
		seen := map[cache.ID]bool{}
		var after cache.ID
		for more := true; more; {
			var page []cache.Listed
			page, more = c.List(after, 1+round)
			for _, e := range page {
				if seen[e.ID] {
					t.Errorf("listed twice: %v", e.ID)
				}
				seen[e.ID] = true
				after = e.ID
			}
		}
		for n := range uint64(stay) {
			if !seen[numbered(n)] {
				t.Errorf("not listed: %d", n)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// TestCloseWhileWriting closes a cache that is in use.
func TestCloseWhileWriting(t *testing.T) {
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 64})
	end := time.Now().Add(time.Hour)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := uint64(0); ; n++ {
				_, err := c.Put(numbered(n), []byte{1}, cache.PutOptions{ExpiresAt: end})
				if err == cache.ErrClosed {
					return
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for c.Stats().Stored == 0 {
	}
	c.Close()
	wg.Wait()
	if st := c.Stats(); st.Entries != 0 || st.DataBytes != 0 || st.Stored != ends(st) {
		t.Errorf("%+v", st)
	}
}

// TestListAcrossLocks lists a full index, in which every write pushes others
// along, while the listing gives up its lock now and then: no page has a session
// twice.
func TestListAcrossLocks(t *testing.T) {
	c := newCache(t, cache.Config{Memory: 1 << 20, MaxSessionBytes: 100})
	end := time.Now().Add(time.Hour)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range uint64(4) {
		writers.Go(func() {
			rnd := rand.New(rand.NewPCG(w, 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				id := numbered(rnd.Uint64N(20_000))
				if rnd.IntN(3) == 0 {
					_ = c.Delete(id, nil)
				} else {
					_, _ = c.Put(id, []byte{1}, cache.PutOptions{ExpiresAt: end})
				}
			}
		})
	}
	for range 3000 {
		page, _ := c.List(cache.ID{}, cache.MaxPage)
		seen := make(map[cache.ID]bool, len(page))
		for _, e := range page {
			if seen[e.ID] {
				t.Errorf("%v is twice in a page", e.ID)
			}
			seen[e.ID] = true
		}
	}
	close(stop)
	writers.Wait()
}
