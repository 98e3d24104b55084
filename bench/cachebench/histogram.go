package main

import (
	"math"
	"math/bits"
	"time"
)

// subBuckets is the number of buckets between a power of two and the next: a
// quantile is at most one part in subBuckets too long.
const (
	subBucketBits = 5
	subBuckets    = 1 << subBucketBits
)

// histogram counts durations in buckets that grow with them. The zero histogram
// is empty. It is for one goroutine.
type histogram struct {
	buckets [(64 - subBucketBits + 1) * subBuckets]uint64
	count   uint64
	max     time.Duration
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucketOf(uint64(d))]++
	h.count++
	h.max = max(h.max, d)
}

// bucketOf returns the bucket of a number of nanoseconds: below subBuckets each
// has its own, above the leading bits decide.
func bucketOf(ns uint64) int {
	shift := max(0, bits.Len64(ns)-subBucketBits-1)
	return shift*subBuckets + int(ns>>shift)
}

// upperBound returns the longest duration of a bucket.
func upperBound(bucket int) time.Duration {
	shift := max(0, bucket/subBuckets-1)
	return time.Duration((uint64(bucket-shift*subBuckets)+1)<<shift - 1)
}

// quantile returns a duration that the share q of those counted do not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.count)))
	var seen uint64
	for i, n := range h.buckets {
		if seen += n; n > 0 && seen >= rank {
			return min(upperBound(i), h.max)
		}
	}
	return h.max
}

// figures returns the quantiles that the stall measure shows, in microseconds.
func (h *histogram) figures() figures {
	micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	return figures{
		"p50":    micros(h.quantile(0.5)),
		"p99":    micros(h.quantile(0.99)),
		"p99.9":  micros(h.quantile(0.999)),
		"p99.99": micros(h.quantile(0.9999)),
		"max":    micros(h.max),
	}
}
