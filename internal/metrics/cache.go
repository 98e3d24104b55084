package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sessapi/sessapi/internal/cache"
)

// cacheCollector reads the figures of a session cache when it is scraped.
type cacheCollector struct {
	cache *cache.Cache

	hits, misses, stored, replaced, removed, expired, flushed *prometheus.Desc
	evicted, rejected, contended                              *prometheus.Desc
	entries, maxSessions, bytes, dataBytes, capacity          *prometheus.Desc
	sizes, idle                                               *prometheus.Desc
	locked, dumpable                                          *prometheus.Desc
}

func newCacheCollector(c *cache.Cache) *cacheCollector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return desc("cache", name, help, labels...)
	}
	return &cacheCollector{
		cache:       c,
		hits:        d("hits_total", "Lookups that found a session."),
		misses:      d("misses_total", "Lookups that found no session, or an expired one."),
		stored:      d("stored_total", "Sessions stored."),
		replaced:    d("replaced_total", "Sessions replaced by another one with the same ID."),
		removed:     d("removed_total", "Sessions deleted."),
		expired:     d("expired_total", "Sessions expired."),
		flushed:     d("flushed_total", "Sessions removed by a flush."),
		evicted:     d("evicted_total", "Sessions evicted, by the limit: memory or sessions.", "reason"),
		idle:        d("evicted_idle_seconds", "Time since evicted sessions were last stored or read, in seconds."),
		rejected:    d("rejected_total", "Sessions not stored, by reason.", "reason"),
		contended:   d("lock_contended_total", "Waits for a lock of the cache."),
		entries:     d("entries", "Sessions in the cache."),
		maxSessions: d("max_entries", "Limit on the number of sessions; 0 is none."),
		bytes:       d("bytes", "Memory in use, index and data together, in bytes."),
		dataBytes:   d("data_bytes", "Total size of the sessions in the cache, in bytes."),
		capacity:    d("capacity_bytes", "Limit of the memory, in bytes."),
		locked:      d("memory_locked", "1 if the cache stays out of swap."),
		dumpable:    d("memory_dumpable", "1 if a core dump would contain the cache."),
		sizes:       d("session_size_bytes", "Sizes of stored sessions, in bytes."),
	}
}

func (c *cacheCollector) Describe(ch chan<- *prometheus.Desc) {
	prometheus.DescribeByCollect(c, ch)
}

func (c *cacheCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.cache.Stats()
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	counter(c.hits, s.Hits)
	counter(c.misses, s.Misses)
	counter(c.stored, s.Stored)
	counter(c.replaced, s.Replaced)
	counter(c.removed, s.Removed)
	counter(c.expired, s.Expired)
	counter(c.flushed, s.Flushed)
	counter(c.evicted, s.Evicted.Memory, "memory")
	counter(c.evicted, s.Evicted.Sessions, "sessions")
	counter(c.rejected, s.Rejected.TooLarge, "too_large")
	counter(c.rejected, s.Rejected.Expired, "expired")
	counter(c.rejected, s.Rejected.Empty, "empty")
	counter(c.rejected, s.Rejected.Precondition, "precondition")
	counter(c.rejected, s.Rejected.Closed, "closed")
	counter(c.contended, s.Contended)
	gauge(c.entries, int64(s.Entries))
	gauge(c.maxSessions, int64(s.MaxSessions))
	gauge(c.bytes, s.Bytes)
	gauge(c.dataBytes, s.DataBytes)
	gauge(c.capacity, s.Capacity)
	flag := func(d *prometheus.Desc, on bool) {
		n := int64(0)
		if on {
			n = 1
		}
		gauge(d, n)
	}
	flag(c.locked, c.cache.Locked())
	flag(c.dumpable, c.cache.Dumpable())
	histogram := func(d *prometheus.Desc, count uint64, sum float64, buckets []cache.Bucket) {
		counts := make(map[float64]uint64, len(buckets))
		for _, b := range buckets {
			counts[float64(b.UpperBound)] = b.Count
		}
		ch <- prometheus.MustNewConstHistogram(d, count, sum, counts)
	}
	histogram(c.sizes, s.Sizes.Count, float64(s.Sizes.Sum), s.Sizes.Buckets[:])
	histogram(c.idle, s.Idle.Count, s.Idle.Sum, s.Idle.Buckets[:])
}
