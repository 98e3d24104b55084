package cache_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

const benchSessions = 1 << 18

func benchCache(b *testing.B, memory int64) (*cache.Cache, []cache.ID, []byte, time.Time) {
	c := newCache(b, cache.Config{Memory: memory, MaxSessionBytes: cache.MaxSize})
	ids := make([]cache.ID, benchSessions)
	data, end := filled(160, 1), time.Now().Add(time.Hour)
	for i := range ids {
		ids[i] = numbered(rand.Uint64())
		mustPut(b, c, ids[i], data, end)
	}
	b.ReportAllocs()
	b.ResetTimer()
	return c, ids, data, end
}

func BenchmarkGet(b *testing.B) {
	c, ids, data, _ := benchCache(b, 128<<20)
	b.RunParallel(func(pb *testing.PB) {
		dst := make([]byte, 0, len(data))
		for pb.Next() {
			if _, _, ok := c.Get(dst, ids[rand.IntN(benchSessions)]); !ok {
				b.Error("a session is missing")
			}
		}
	})
}

func BenchmarkGetMiss(b *testing.B) {
	c, _, _, _ := benchCache(b, 128<<20)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Get(nil, numbered(rand.Uint64()))
		}
	})
}

func BenchmarkPutReplace(b *testing.B) {
	c, ids, data, end := benchCache(b, 128<<20)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mustPut(b, c, ids[rand.IntN(benchSessions)], data, end)
		}
	})
}

// BenchmarkPutEvict stores new sessions in a full cache.
func BenchmarkPutEvict(b *testing.B) {
	c, _, data, end := benchCache(b, 32<<20)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mustPut(b, c, numbered(rand.Uint64()), data, end)
		}
	})
}

func BenchmarkListPage(b *testing.B) {
	c, _, _, _ := benchCache(b, 128<<20)
	var after cache.ID
	for b.Loop() {
		page, more := c.List(after, 100)
		if after = page[len(page)-1].ID; !more {
			after = cache.ID{}
		}
	}
}

func BenchmarkFlush(b *testing.B) {
	c, ids, data, end := benchCache(b, 128<<20)
	for b.Loop() {
		c.Flush()
		b.StopTimer()
		for _, id := range ids {
			mustPut(b, c, id, data, end)
		}
		b.StartTimer()
	}
}
