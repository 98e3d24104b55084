// Package cache keeps TLS sessions by session ID, in memory, for any number of
// goroutines at once.
//
// What it promises:
//   - A session is returned whole, as it was stored last under its ID, or not
//     at all. From its end on it is not returned.
//   - Bytes are copied in and copied out: no memory is shared with callers.
//   - Index and data together never take more than Config.Memory, not even for
//     an instant, and sessions are never more than Config.MaxSessions. The
//     bounds are of the whole cache: nothing is evicted while there is room,
//     wherever the hash puts it. What the garbage collector has yet to free
//     comes on top; GOMEMLIMIT and GOGC govern that.
//   - When room is needed, sessions that were not used for long go first. With
//     up to 16 shards that is exactly the one least recently used, else the
//     oldest of 16 shards picked at random.
//   - The bytes of a session that was removed, replaced, evicted or flushed are
//     zeroed in that very call, those of an expired one at most a second after
//     its end.
//   - No call is skipped for a lock that is taken: it waits, and is counted.
//     A lock is held for one copy or hash of a session, and by List and Flush
//     for a walk of one shard, whose size does not grow with the cache.
//   - The shard and the place in it come from a hash with a seed of the
//     process, so that chosen IDs do not gather in one place.
package cache

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// The bounds of Config.
const (
	MinMemory = 1 << 20  // smallest Config.Memory, bytes
	MaxMemory = 1 << 40  // largest Config.Memory, bytes
	MaxSize   = 64 << 10 // largest Config.MaxSessionBytes
)

// MaxPage is the largest page that List returns.
const MaxPage = 1000

// Why a call did nothing.
var (
	ErrNotFound     = errors.New("cache: no such session")
	ErrPrecondition = errors.New("cache: the condition does not hold")
	ErrEmpty        = errors.New("cache: the session is empty")
	ErrTooLarge     = errors.New("cache: the session is too large")
	ErrExpired      = errors.New("cache: the session has expired")
	ErrClosed       = errors.New("cache: closed")
)

// Config says how much a cache holds.
type Config struct {
	// Memory is the hard bound of index and data together in bytes, from
	// MinMemory to MaxMemory.
	Memory int64

	// MaxSessions bounds the number of sessions too; 0 is no bound.
	MaxSessions int

	// MaxSessionBytes is the size of the largest session taken, from 1 to
	// MaxSize. A session of that size always fits, when need be in place of
	// others.
	MaxSessionBytes int

	// Now is the clock; nil is time.Now. It may be called by several
	// goroutines at once. The cache goes by its wall time.
	Now func() time.Time
}

// Entry describes a session.
type Entry struct {
	ID        ID
	Size      int       // in bytes
	StoredAt  time.Time // UTC
	ExpiresAt time.Time // UTC; from then on the session is gone
	Mark      uint8     // as given to Put
}

// Condition decides whether a write goes ahead. It gets the tag of the session
// that is there, or false when there is none. It is called with a lock held, in
// one step with the write, and must not call the cache. A Put that has to make
// room first calls it again.
type Condition func(current Tag, exists bool) bool

// PutOptions say how Put stores a session.
type PutOptions struct {
	// ExpiresAt is the end of the session. It is kept to the nanosecond; an
	// end after 2262-04-11T23:47:16Z is kept as that.
	ExpiresAt time.Time

	// Mark is the caller's own, and returned as it is.
	Mark uint8

	// If must hold for the session to be stored; nil always does. The tag of
	// the session that is there is computed only for it.
	If Condition
}

// Cache holds sessions. Make it with New. All methods are safe for concurrent
// use, also after Close.
type Cache struct {
	cfg      Config
	now      func() time.Time
	seed     maphash.Seed
	shards   []shard // a power of two
	memory   budget
	sessions budget
	rejected rejections

	close   sync.Once
	closing chan struct{}
	sweeper sync.WaitGroup
}

// budget is a bound shared by all shards.
type budget struct {
	used  atomic.Int64
	limit int64
}

// take uses up n, which may be negative, unless that exceeds the limit.
func (b *budget) take(n int64) bool {
	for {
		used := b.used.Load()
		if used+n > b.limit {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

const (
	// A shard has about so many bytes of the memory and so many of the
	// sessions at most, which bounds the work that is done under its lock,
	// whatever the size of the cache.
	shardMemory   = 1 << 20
	shardSessions = 4096
	// minShards keeps writers apart in a small cache.
	minShards = 16

	// bucketMemory is the share of the memory that gets one bucket. With
	// sessions of 160 bytes, as servers store them without a client
	// certificate, a full cache has about two in a bucket.
	bucketMemory = 512
)

// New returns an empty cache. Its owner calls Close.
func New(cfg Config) (*Cache, error) {
	if cfg.Memory < MinMemory || cfg.Memory > MaxMemory {
		return nil, fmt.Errorf("cache: memory of %d bytes, must be %d to %d", cfg.Memory, MinMemory, MaxMemory)
	}
	if cfg.MaxSessions < 0 {
		return nil, fmt.Errorf("cache: at most %d sessions, must be 0 for no bound or more", cfg.MaxSessions)
	}
	if cfg.MaxSessionBytes < 1 || cfg.MaxSessionBytes > MaxSize {
		return nil, fmt.Errorf("cache: sessions of up to %d bytes, must be 1 to %d", cfg.MaxSessionBytes, MaxSize)
	}
	c := &Cache{
		cfg:      cfg,
		now:      cfg.Now,
		seed:     maphash.MakeSeed(),
		memory:   budget{limit: cfg.Memory},
		sessions: budget{limit: math.MaxInt64},
		closing:  make(chan struct{}),
	}
	if c.now == nil {
		c.now = time.Now
	}
	shards := cfg.Memory / shardMemory
	buckets := cfg.Memory / bucketMemory
	if cfg.MaxSessions > 0 {
		c.sessions.limit = int64(cfg.MaxSessions)
		shards = min(shards, c.sessions.limit/shardSessions)
		buckets = min(buckets, c.sessions.limit)
	}
	shards = powerOfTwo(max(shards, minShards))
	buckets = powerOfTwo(max(buckets, shards))
	c.shards = make([]shard, shards)
	index := make([]*session, buckets)
	each := buckets / shards
	for i := range c.shards {
		s := &c.shards[i]
		s.buckets, index = index[:each], index[each:]
		s.oldest.Store(never)
	}
	c.memory.used.Store(buckets*int64(unsafe.Sizeof(index[0])) + shards*shardCost)
	c.sweeper.Go(c.sweep)
	return c, nil
}

// powerOfTwo returns the smallest power of two from n on, which is at least 1.
func powerOfTwo(n int64) int64 { return 1 << bits.Len64(uint64(n-1)) }

// Close stops the sweep, waits for it, and wipes all sessions. From then on the
// cache is empty and Put fails with ErrClosed.
func (c *Cache) Close() {
	c.close.Do(func() {
		close(c.closing)
		c.sweeper.Wait()
		c.flush(true)
	})
}

// Flush removes and wipes the sessions that are there, and returns how many
// of them were live. A session that is stored meanwhile may stay.
func (c *Cache) Flush() int { return c.flush(false) }

// flush empties shard by shard, and closes them if that is asked for.
func (c *Cache) flush(closing bool) int {
	now := c.now().UnixNano()
	live := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.lock()
		s.closed = s.closed || closing
		for s.lru.last != nil {
			e := s.lru.last
			if e.expired(now) {
				c.remove(s, e, &s.n.expired)
			} else {
				c.remove(s, e, &s.n.flushed)
				live++
			}
		}
		s.unlock()
	}
	return live
}

// Get appends the bytes of the session to dst and returns the extended slice,
// which is the caller's, and the description. Without such a session ok is
// false and data is dst. Get does not allocate when dst has the room.
func (c *Cache) Get(dst []byte, id ID) (data []byte, e Entry, ok bool) {
	now := c.now().UnixNano()
	hash := c.hash(id)
	s := c.shard(hash)
	s.lock()
	defer s.unlock()
	found := c.live(s, id, hash, now)
	if found == nil {
		s.n.misses++
		return dst, Entry{}, false
	}
	s.n.hits++
	s.use(found, now)
	return append(dst, found.data...), found.entry(), true
}

// Put stores a copy of data under id, in place of what is there; that is wiped
// first. It reports whether there was a session to replace.
//
// The errors are ErrInvalidID for the zero ID, ErrEmpty, ErrTooLarge for more
// than Config.MaxSessionBytes, ErrExpired when o.ExpiresAt is not in the
// future, ErrPrecondition and ErrClosed. A Put that fails changes nothing and
// evicts nothing, with one exception: when o.If held, others had to make room,
// and another writer of the same ID was faster, they are evicted all the same.
func (c *Cache) Put(id ID, data []byte, o PutOptions) (replaced bool, err error) {
	now := c.now()
	switch {
	case id == ID{}:
		return false, ErrInvalidID
	case len(data) == 0:
		c.rejected.empty.Add(1)
		return false, ErrEmpty
	case len(data) > c.cfg.MaxSessionBytes:
		c.rejected.tooLarge.Add(1)
		return false, ErrTooLarge
	case !o.ExpiresAt.After(now):
		c.rejected.expired.Add(1)
		return false, ErrExpired
	}
	e := newSession(id, data, o, now)
	hash := c.hash(id)
	for {
		replaced, full, err := c.insert(e, hash, o.If)
		if full == nil {
			if err != nil {
				clear(e.data)
			}
			return replaced, err
		}
		c.evict(full, id)
	}
}

// insert puts e in its place, or returns the budget that is used up.
func (c *Cache) insert(e *session, hash uint64, cond Condition) (replaced bool, full *budget, err error) {
	s := c.shard(hash)
	s.lock()
	defer s.unlock()
	if s.closed {
		c.rejected.closed.Add(1)
		return false, nil, ErrClosed
	}
	old := c.live(s, e.id, hash, e.storedAt)
	if !old.satisfies(cond) {
		c.rejected.precondition.Add(1)
		return false, nil, ErrPrecondition
	}
	cost, sessions := e.cost(), int64(1)
	if old != nil {
		cost -= old.cost()
		sessions = 0
	}
	if !c.sessions.take(sessions) {
		return false, &c.sessions, nil
	}
	if !c.memory.take(cost) {
		c.sessions.used.Add(-sessions)
		return false, &c.memory, nil
	}
	if old != nil {
		s.drop(old, c.hash(old.id))
		s.n.replaced++
	}
	s.add(e, hash)
	return old != nil, nil, nil
}

// evictionSample is how many shards are asked for their oldest session.
const evictionSample = 16

// evict drops one session to relieve the full budget, but never keep, which is
// about to be replaced. No lock may be held. When nothing is found, another
// writer has used up the budget and is about to be seen, or has made room; the
// caller tries again.
func (c *Cache) evict(full *budget, keep ID) {
	for {
		s := c.leastRecent()
		if s == nil || c.evictFrom(s, full, keep) {
			return
		}
	}
}

// leastRecent returns the shard with the least recently used session among a
// sample of those that have any, or nil when all are empty.
func (c *Cache) leastRecent() *shard {
	var found *shard
	oldest := int64(never)
	start := rand.IntN(len(c.shards))
	for i := range c.shards {
		if i >= evictionSample && found != nil {
			break
		}
		s := &c.shards[(start+i)%len(c.shards)]
		if used := s.oldest.Load(); used < oldest {
			found, oldest = s, used
		}
	}
	return found
}

// evictFrom drops the least recently used session of the shard but keep, and
// reports whether there was one.
func (c *Cache) evictFrom(s *shard, full *budget, keep ID) bool {
	s.lock()
	e := s.lru.last
	if e != nil && e.id == keep {
		e = e.newer
	}
	if e == nil {
		// Until it is used again, this shard has nothing to offer.
		s.oldest.Store(never)
		s.mu.Unlock()
		return false
	}
	defer s.unlock()
	if full == &c.sessions {
		c.remove(s, e, &s.n.evicted.Sessions)
	} else {
		c.remove(s, e, &s.n.evicted.Memory)
	}
	return true
}

// Delete removes and wipes the session, if cond holds for it; nil always does.
// The errors are ErrNotFound, also for an expired session, and ErrPrecondition.
func (c *Cache) Delete(id ID, cond Condition) error {
	now := c.now().UnixNano()
	hash := c.hash(id)
	s := c.shard(hash)
	s.lock()
	defer s.unlock()
	e := c.live(s, id, hash, now)
	switch {
	case e == nil:
		return ErrNotFound
	case !e.satisfies(cond):
		return ErrPrecondition
	}
	c.remove(s, e, &s.n.removed)
	return nil
}

// List returns up to limit sessions, at most MaxPage, and whether there are
// more. The zero ID starts a listing; it goes on after the last ID of the page
// before, whether that session is still there or not. The order is fixed for
// the life of the cache and otherwise unspecified. A session that is there from
// start to end of a listing is listed exactly once, whatever is written
// meanwhile. Expired sessions are not listed.
func (c *Cache) List(after ID, limit int) (page []Entry, more bool) {
	// The order is by shard, then by ID: a position that follows from the ID
	// alone. One session more than asked for tells whether there is more.
	limit = max(0, min(limit, MaxPage))
	now := c.now().UnixNano()
	first := 0
	if after != (ID{}) {
		first = c.shardIndex(c.hash(after))
	}
	for i := first; i < len(c.shards) && len(page) <= limit; i++ {
		page = append(page, c.shards[i].smallest(after, limit+1-len(page), now)...)
		after = ID{}
	}
	if len(page) > limit {
		return page[:limit], true
	}
	return page, false
}

const (
	sweepEvery = 500 * time.Millisecond
	sweepBatch = 64 // sessions that are wiped under one lock
)

// sweep removes expired sessions until the cache is closed. Half a second
// between rounds leaves the other half of the promised one for the round.
func (c *Cache) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.closing:
			return
		case <-tick.C:
		}
		now := c.now().UnixNano()
		for i := range c.shards {
			for more := true; more; {
				more = c.expire(&c.shards[i], now)
			}
		}
	}
}

// expire removes expired sessions, and reports whether it left some for the
// lock's next holder.
func (c *Cache) expire(s *shard, now int64) (more bool) {
	s.lock()
	defer s.unlock()
	for range sweepBatch {
		if len(s.expiry) == 0 || !s.expiry[0].expired(now) {
			return false
		}
		c.remove(s, s.expiry[0], &s.n.expired)
	}
	return true
}

// hash decides the place of an ID: its low half the shard, its high half the
// bucket.
func (c *Cache) hash(id ID) uint64 { return maphash.Bytes(c.seed, id.b[:id.n]) }

func (c *Cache) shardIndex(hash uint64) int { return int(hash) & (len(c.shards) - 1) }

func (c *Cache) shard(hash uint64) *shard { return &c.shards[c.shardIndex(hash)] }

// live returns the session or nil. It removes one that it finds expired. The
// shard is locked.
func (c *Cache) live(s *shard, id ID, hash uint64, now int64) *session {
	e := *s.slot(id, hash)
	if e != nil && e.expired(now) {
		c.remove(s, e, &s.n.expired)
		return nil
	}
	return e
}

// remove drops e, gives back what it used, and counts its end. The shard is
// locked.
func (c *Cache) remove(s *shard, e *session, end *uint64) {
	cost := e.cost()
	s.drop(e, c.hash(e.id))
	*end++
	c.memory.used.Add(-cost)
	c.sessions.used.Add(-1)
}
