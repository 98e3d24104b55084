//go:build unix

package events

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

// benchSubscribers runs a benchmark of a cache that publishes to 0, 1 and 64 subscribers.
// Each reads all that comes, as a stream does; what it makes of it is not measured.
func benchSubscribers(b *testing.B, memory int64, run func(c *cache.Cache, ids []cache.ID) func(*testing.PB)) {
	for _, subscribers := range []int{-1, 0, 1, MaxSubscribers} {
		name := fmt.Sprint("subscribers=", subscribers)
		bus := New(time.Now)
		config := cache.Config{Memory: memory, MaxSessionBytes: cache.MaxSize, Observer: bus}
		if subscribers < 0 {
			name, config.Observer = "no_bus", nil
		}
		b.Run(name, func(b *testing.B) {
			c, err := cache.New(config)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			ids := make([]cache.ID, 1<<16)
			for i := range ids {
				ids[i] = id(rand.Uint64())
				put(b, c, ids[i])
			}
			var reading sync.WaitGroup
			defer reading.Wait()
			done := make(chan struct{})
			defer close(done)
			for range subscribers {
				s := subscribe(b, bus, All, "")
				reading.Go(func() { drain(s, done) })
			}
			runtime.GC() // now, not for the rings of the subscribers later
			b.ReportAllocs()
			b.ResetTimer()
			before := processorTime(b)
			b.RunParallel(run(c, ids))
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// processorTime is what the process has used, readers and all. On a busy machine it says
// more than the time that passes.
func processorTime(tb testing.TB) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// drain reads as a stream does, with a pause after each wake-up.
func drain(s *Subscription, done <-chan struct{}) {
	batch := make([]Event, 0, 64)
	for {
		select {
		case <-done:
			return
		default:
		}
		if batch = s.Read(batch[:0]); len(batch) > 0 {
			continue
		}
		select {
		case <-s.Wake():
			time.Sleep(10 * time.Millisecond)
		case <-done:
			return
		}
	}
}

var (
	benchData = make([]byte, 160)
	benchEnd  = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
)

func put(tb testing.TB, c *cache.Cache, id cache.ID) {
	if _, err := c.Put(id, benchData, cache.PutOptions{ExpiresAt: benchEnd}); err != nil {
		tb.Error(err)
	}
}

func BenchmarkGet(b *testing.B) {
	benchSubscribers(b, 32<<20, func(c *cache.Cache, ids []cache.ID) func(*testing.PB) {
		return func(pb *testing.PB) {
			dst := make([]byte, 0, len(benchData))
			for pb.Next() {
				if _, _, ok := c.Get(dst, ids[rand.IntN(len(ids))]); !ok {
					b.Error("a session is missing")
				}
			}
		}
	})
}

func BenchmarkPutReplace(b *testing.B) {
	benchSubscribers(b, 32<<20, func(c *cache.Cache, ids []cache.ID) func(*testing.PB) {
		return func(pb *testing.PB) {
			for pb.Next() {
				put(b, c, ids[rand.IntN(len(ids))])
			}
		}
	})
}

// BenchmarkPutEvict stores new sessions in a full cache: two events each.
func BenchmarkPutEvict(b *testing.B) {
	benchSubscribers(b, 8<<20, func(c *cache.Cache, _ []cache.ID) func(*testing.PB) {
		return func(pb *testing.PB) {
			var raw [32]byte
			for pb.Next() {
				binary.BigEndian.PutUint64(raw[:], rand.Uint64())
				id, _ := cache.MakeID(raw[:])
				put(b, c, id)
			}
		}
	})
}
