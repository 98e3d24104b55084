package cache

import (
	"math/bits"
	"sync/atomic"
)

// Stats holds the state of a cache, and counts since New.
//
// Every stored session ends in exactly one way, so while nothing is being written
//
//	Stored = Entries + Replaced + Removed + Expired + Flushed + Evicted.Memory + Evicted.Sessions
//
// During writes each figure is right, but they are not all of one instant.
type Stats struct {
	// Hits counts Get calls that returned a session, Misses those that did not.
	Hits, Misses uint64

	// Stored counts Put calls that succeeded.
	Stored uint64

	// Replaced counts sessions replaced by a Put of the same ID.
	Replaced uint64
	// Removed counts sessions removed by Delete.
	Removed uint64
	// Expired counts expired sessions, dropped by the sweep or by the call that found
	// them.
	Expired uint64
	// Flushed counts live sessions removed by Flush or Close.
	Flushed uint64
	// Evicted counts sessions evicted to make room.
	Evicted Evicted
	// Idle is the distribution of the times since evicted sessions were last stored, or
	// returned by Get.
	Idle Idle

	// Rejected counts Put calls that stored nothing.
	Rejected Rejected

	// Contended counts waits for a lock.
	Contended uint64

	// Sizes is the distribution of the sizes that were stored.
	Sizes Sizes

	// Entries is the number of sessions held. It includes those that expired
	// since the last sweep; it never exceeds MaxSessions.
	Entries int
	// Bytes is the memory in use for index and data. It never exceeds Capacity; in an
	// empty cache it is the fixed index.
	Bytes int64
	// DataBytes is the sum of the sizes of the sessions held.
	DataBytes int64
	// Capacity is Config.Memory.
	Capacity int64
	// MaxSessions is Config.MaxSessions; 0 is none.
	MaxSessions int
}

// Evicted counts evictions by the limit that caused them.
type Evicted struct {
	Memory   uint64 // Config.Memory
	Sessions uint64 // Config.MaxSessions
}

// Rejected counts failed Put calls by their error.
type Rejected struct {
	TooLarge     uint64 // ErrTooLarge
	Expired      uint64 // ErrExpired
	Empty        uint64 // ErrEmpty
	Precondition uint64 // ErrPrecondition
	Closed       uint64 // ErrClosed
}

// Sizes is a cumulative histogram of the sizes of stored sessions in bytes.
type Sizes struct {
	Buckets [sizeBuckets]Bucket // by rising UpperBound
	Count   uint64              // all sessions stored; the count of the last bucket too
	Sum     uint64              // of all sizes, in bytes
}

// Idle is a cumulative histogram of times in seconds.
type Idle struct {
	Buckets [idleBuckets]Bucket // by rising UpperBound
	Count   uint64              // all; more than the last bucket has
	Sum     float64             // of all times, in seconds
}

// Bucket counts the sessions of at most UpperBound bytes or seconds.
type Bucket struct {
	UpperBound int
	Count      uint64
}

// The upper bounds are the powers of two from 64 to MaxSize.
const (
	firstBoundBits = 6
	sizeBuckets    = 11
)

// sizeBucket returns the index of the first bucket that size, 1 to MaxSize,
// falls in.
func sizeBucket(size int) int {
	return max(0, bits.Len(uint(size-1))-firstBoundBits)
}

// The upper bounds are the powers of two from 1 s to 2^17 s, a day and a half.
const idleBuckets = 18

// idleBucket returns the index of the first bucket that a time in milliseconds falls
// in, or idleBuckets.
func idleBucket(ms uint64) int {
	seconds := (ms + 999) / 1000
	return min(bits.Len64(max(seconds, 1)-1), idleBuckets)
}

// counters is a shard's part of the Stats, without what it counts beside.
type counters struct {
	stored                              uint64
	replaced, removed, expired, flushed uint64
	evicted                             Evicted
	sizes                               [sizeBuckets]uint64 // not cumulative
	sizeSum                             uint64
	idle                                [idleBuckets + 1]uint64 // not cumulative
	idleSum                             uint64                  // in milliseconds
	dataBytes                           int64
}

// rejections counts what is refused, often before any shard is locked.
type rejections struct {
	tooLarge, expired, empty, precondition, closed atomic.Uint64
}

// Stats returns the figures of the cache. It locks one shard after another.
func (c *Cache) Stats() Stats {
	st := Stats{
		Rejected: Rejected{
			TooLarge:     c.rejected.tooLarge.Load(),
			Expired:      c.rejected.expired.Load(),
			Empty:        c.rejected.empty.Load(),
			Precondition: c.rejected.precondition.Load(),
			Closed:       c.rejected.closed.Load(),
		},
		Entries:     int(c.sessions.used.Load()),
		Bytes:       c.cfg.Memory,
		Capacity:    c.cfg.Memory,
		MaxSessions: c.cfg.MaxSessions,
	}
	for i := range c.shards {
		s := &c.shards[i]
		s.lock()
		n := s.n
		st.Hits += s.hits
		st.Misses += s.misses
		st.Contended += s.contended
		st.Bytes -= int64((len(s.words) - s.liveWords) * wordSize)
		s.mu.Unlock()
		st.Stored += n.stored
		st.Replaced += n.replaced
		st.Removed += n.removed
		st.Expired += n.expired
		st.Flushed += n.flushed
		st.Evicted.Memory += n.evicted.Memory
		st.Evicted.Sessions += n.evicted.Sessions
		st.DataBytes += n.dataBytes
		st.Sizes.Sum += n.sizeSum
		for b, count := range n.sizes {
			st.Sizes.Buckets[b].Count += count
		}
		st.Idle.Sum += float64(n.idleSum) / 1000
		for b, count := range n.idle[:idleBuckets] {
			st.Idle.Buckets[b].Count += count
		}
		st.Idle.Count += n.idle[idleBuckets]
	}
	for b := range st.Sizes.Buckets {
		bucket := &st.Sizes.Buckets[b]
		bucket.UpperBound = 1 << (firstBoundBits + b)
		st.Sizes.Count += bucket.Count
		bucket.Count = st.Sizes.Count
	}
	within := uint64(0)
	for b := range st.Idle.Buckets {
		bucket := &st.Idle.Buckets[b]
		bucket.UpperBound = 1 << b
		within += bucket.Count
		bucket.Count = within
	}
	st.Idle.Count += within
	return st
}
