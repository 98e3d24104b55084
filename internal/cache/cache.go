// Package cache keeps TLS sessions by session ID, in memory, for any number of
// goroutines at once.
//
// What it promises:
//   - A session is returned whole, as last stored under its ID, or not at all. An expired
//     session is never returned.
//   - Bytes are copied in and out: no memory is shared with callers.
//   - Index and data together never exceed Config.Memory, not even for an instant, and the
//     number of sessions never exceeds Config.MaxSessions. The memory is reserved once,
//     outside the Go heap, and becomes resident when it is first written to. It stays out
//     of core dumps and, if the limits of the process allow it, out of swap.
//   - A full cache evicts the least recently used sessions, nearly as LRU does. It first
//     reuses the space of sessions that were removed, replaced or expired. See
//     docs/design/cache.md.
//   - The bytes of a removed, replaced, evicted or flushed session are zeroed in that very
//     call, those of an expired one within a second of its expiry.
//   - No call fails because a lock is taken: it waits, and the wait is counted. A lock is
//     held while one session is copied or hashed; by the sweep and List for a bounded
//     number of sessions; by Flush while one shard is wiped.
//   - The hash of an ID has a seed per process, so clients cannot choose IDs that collide.
package cache

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"math/rand/v2"
	"runtime"
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

// Reasons why a call changed nothing.
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

	// MaxSessions limits the number of sessions; 0 is no limit.
	MaxSessions int

	// MaxSessionBytes is the size of the largest session accepted, from 1 to MaxSize. A
	// session of that size always fits; others are evicted if necessary.
	MaxSessionBytes int

	// Now is the clock, of which the cache uses the wall time; nil is the system's,
	// also in a synctest bubble. It is called concurrently and with a lock held, so it
	// must not call the cache.
	Now func() time.Time

	// Observer is told what happens to sessions; nil for none.
	Observer Observer
}

// Entry describes a session. It is small enough to be returned in registers.
type Entry struct {
	Size      int // in bytes
	StoredAt  Time
	ExpiresAt Time  // from then on the session is gone
	Mark      uint8 // as given to Put
	Tag       Tag   // of the session, where it is known: of large ones; else zero
}

// TagOf returns TagOf(data), where data is the session that e describes.
func (e Entry) TagOf(data []byte) Tag {
	if e.Tag != (Tag{}) {
		return e.Tag
	}
	return TagOf(data)
}

// Listed is a session of a listing.
type Listed struct {
	ID ID
	Entry
}

// Time is a wall time in milliseconds since 1970.
type Time int64

// UTC returns the time as a time.Time.
func (t Time) UTC() time.Time { return time.UnixMilli(int64(t)).UTC() }

// Condition decides whether a write is made. It gets the tag of the current session, or
// exists is false. It is called with a lock held, in one step with the write, so it
// must not call the cache. A Put that has to make room calls it again.
type Condition func(current Tag, exists bool) bool

// PutOptions say how Put stores a session.
type PutOptions struct {
	// ExpiresAt is the expiry of the session, rounded down to the millisecond. It is
	// capped in the year 2526.
	ExpiresAt time.Time

	// StoredAt is when the session was first stored, for one that is restored; zero, or
	// a later time than now, is now. It is rounded like ExpiresAt.
	StoredAt time.Time

	// Mark is a value of the caller, returned unchanged.
	Mark uint8

	// Tag is TagOf of the session, if the caller knows it; with the zero Tag, Put
	// computes it if necessary.
	Tag Tag

	// If must hold for the session to be stored; nil always does. Only then the tag of
	// the current session is computed.
	If Condition
}

// Cache holds sessions. Make it with New. All methods are safe for concurrent
// use, also after Close.
type Cache struct {
	cfg      Config
	now      func() int64 // in milliseconds, as records have it
	observer Observer
	seed     maphash.Seed
	memory   memory
	shards   []shard // a power of two
	sessions budget
	rejected rejections

	close    sync.Once
	closing  chan struct{}
	sweepers sync.WaitGroup
}

// budget is a bound shared by all shards.
type budget struct {
	used  atomic.Int64
	limit int64
}

// take uses up one, unless that exceeds the limit, which it never does, not
// even for an instant.
func (b *budget) take() bool {
	for {
		used := b.used.Load()
		if used >= b.limit {
			return false
		}
		if b.used.CompareAndSwap(used, used+1) {
			return true
		}
	}
}

const (
	// A shard has so much memory, more when sessions are large or the cache
	// is. More shards keep goroutines apart; fewer have more sessions each, and
	// so differ less in how many.
	shardMemory = 4 << 20
	maxShards   = 1024 // of 1 GiB at most, so that a ref stays within 31 bits
	// maxShardMemory bounds what is done for all of a shard under its lock, also
	// where few sessions are worth few shards.
	maxShardMemory = 64 << 20
	// shardRecords is how many of the largest sessions fit into a shard, at
	// least, when there is more than one.
	shardRecords = 64
	// shardSessions are worth a shard when their number is bounded.
	shardSessions = 4096

	// slotMemory is the memory that there is a slot in the index for. It is a
	// little less than a session of 160 bytes takes with an ID of 32, as
	// servers store them without a client certificate, so that the index is
	// nearly as full as it may be when the arena is.
	slotMemory = 210
)

// New returns an empty cache. Its owner calls Close.
func New(cfg Config) (*Cache, error) {
	if largest := min(int64(MaxMemory), math.MaxInt); cfg.Memory < MinMemory || cfg.Memory > largest {
		return nil, fmt.Errorf("cache: memory of %d bytes, must be %d to %d", cfg.Memory, MinMemory, largest)
	}
	if cfg.MaxSessions < 0 {
		return nil, fmt.Errorf("cache: at most %d sessions, must be 0 for no bound or more", cfg.MaxSessions)
	}
	if cfg.MaxSessionBytes < 1 || cfg.MaxSessionBytes > MaxSize {
		return nil, fmt.Errorf("cache: sessions of up to %d bytes, must be 1 to %d", cfg.MaxSessionBytes, MaxSize)
	}
	c := &Cache{
		cfg:      cfg,
		now:      func() int64 { return milliseconds(time.Now()) },
		observer: nobody{},
		seed:     maphash.MakeSeed(),
		sessions: budget{limit: math.MaxInt64},
		closing:  make(chan struct{}),
	}
	if cfg.Now != nil {
		c.now = func() int64 { return milliseconds(cfg.Now()) }
	}
	if cfg.Observer != nil {
		c.observer = cfg.Observer
	}
	largest := int64(recordWords(maxIDLen, cfg.MaxSessionBytes) * wordSize)
	shards := min(cfg.Memory/shardMemory, maxShards, cfg.Memory/(shardRecords*largest))
	if cfg.MaxSessions > 0 {
		c.sessions.limit = int64(cfg.MaxSessions)
		shards = min(shards, c.sessions.limit/shardSessions)
	}
	shards = max(shards, min(2*cfg.Memory/maxShardMemory, maxShards))
	c.shards = make([]shard, powerOfTwo(shards))
	var err error
	each := (int(cfg.Memory)/len(c.shards) - int(unsafe.Sizeof(shard{}))) &^ (lineSlots*wordSize - 1)
	if c.memory, err = allocate(each * len(c.shards)); err != nil {
		return nil, fmt.Errorf("cache: cannot take %d bytes: %w", each*len(c.shards), err)
	}
	for i := range c.shards {
		s := &c.shards[i]
		s.seed = c.seed
		s.divide(c.memory.bytes[i*each : (i+1)*each])
	}
	sweepers := min(runtime.GOMAXPROCS(0), len(c.shards))
	for i := range sweepers {
		c.sweepers.Go(func() { c.sweep(i, sweepers) })
	}
	return c, nil
}

// powerOfTwo returns the largest power of two up to n, or 1.
func powerOfTwo(n int64) int64 { return 1 << (bits.Len64(uint64(max(n, 1))) - 1) }

// Close stops the sweep, wipes all sessions and releases the memory. Afterwards the
// cache is empty, and Put fails with ErrClosed.
func (c *Cache) Close() {
	c.close.Do(func() {
		close(c.closing)
		c.sweepers.Wait()
		c.flush(true)
		// Nothing refers to it any more: every shard is closed.
		if err := c.memory.free(); err != nil {
			panic(err) // it is ours, as a whole
		}
	})
}

// Locked reports whether the memory of the cache stays out of swap. That depends on the
// system and on the limit of the process (RLIMIT_MEMLOCK).
func (c *Cache) Locked() bool { return c.memory.locked }

// Dumpable reports whether a core dump of the process would contain the memory of the
// cache. That depends on the system.
func (c *Cache) Dumpable() bool { return !c.memory.undumped }

// Flush removes and wipes all sessions, and returns how many had not expired. Sessions
// stored meanwhile may stay.
func (c *Cache) Flush() int { return c.flush(false) }

// flush empties shard by shard, and closes them if that is asked for.
func (c *Cache) flush(closing bool) int {
	now := c.now()
	live := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.lock()
		if !s.closed && s.sessions > 0 {
			held := s.sessions
			flushed := s.wipeAll(c, now)
			s.n.flushed += uint64(flushed)
			s.n.expired += uint64(held - flushed)
			c.sessions.used.Add(-int64(held))
			live += flushed
		}
		s.closed = s.closed || closing
		s.mu.Unlock()
	}
	return live
}

// Get appends the bytes of the session to dst. It returns the extended slice, which is
// the caller's, and the description. If there is no such session, ok is false and data
// is dst. Get does not allocate if dst has enough capacity.
func (c *Cache) Get(dst []byte, id ID) (data []byte, e Entry, ok bool) {
	s, half := c.place(&id)
	now := c.now()
	s.lock()
	defer s.mu.Unlock()
	r := c.live(s, half, &id, now)
	if r == 0 {
		s.misses++
		return dst, Entry{}, false
	}
	s.hits++
	s.touch(r, now)
	return append(dst, s.data(r)...), s.entry(r), true
}

// Peek is Get for copying the cache: it does not count as a lookup, and does not make
// the session recently used.
func (c *Cache) Peek(dst []byte, id ID) (data []byte, e Entry, ok bool) {
	s, half := c.place(&id)
	now := c.now()
	s.lock()
	defer s.mu.Unlock()
	r := c.live(s, half, &id, now)
	if r == 0 {
		return dst, Entry{}, false
	}
	return append(dst, s.data(r)...), s.entry(r), true
}

// Put stores a copy of data under id. It wipes a session that it replaces, and reports
// whether there was one.
//
// The errors are ErrInvalidID for the zero ID, ErrEmpty, ErrTooLarge for more than
// Config.MaxSessionBytes, ErrExpired when o.ExpiresAt is not in the future,
// ErrPrecondition and ErrClosed. A Put that fails changes and evicts nothing, with one
// exception: if it evicted sessions to make room while o.If held, and then another
// writer of the same ID was faster, these stay evicted.
func (c *Cache) Put(id ID, data []byte, o PutOptions) (replaced bool, err error) {
	s, half := c.place(&id)
	now, end := c.now(), milliseconds(o.ExpiresAt)
	if err := c.check(&id, len(data), end, now); err != nil {
		return false, err
	}
	x := session{data: data, tag: o.Tag, start: now, end: end, mark: o.Mark}
	if !o.StoredAt.IsZero() {
		x.start = min(milliseconds(o.StoredAt), now)
	}
	if len(data) >= largeSize && x.tag == (Tag{}) {
		x.tag = TagOf(data)
	}
	for {
		replaced, full, err := c.insert(s, half, &id, &x, now, o.If)
		if !full {
			return replaced, err
		}
		c.evict(s, now)
	}
}

// Check returns the error with which Put would fail for such a session, whatever the
// cache holds. It counts as a rejection.
func (c *Cache) Check(id ID, size int, expiresAt time.Time) error {
	return c.check(&id, size, milliseconds(expiresAt), c.now())
}

func (c *Cache) check(id *ID, size int, end, now int64) error {
	switch {
	case *id == ID{}:
		return ErrInvalidID
	case size == 0:
		c.rejected.empty.Add(1)
		return ErrEmpty
	case size > c.cfg.MaxSessionBytes:
		c.rejected.tooLarge.Add(1)
		return ErrTooLarge
	case end <= now:
		c.rejected.expired.Add(1)
		return ErrExpired
	}
	return nil
}

// insert stores the session, unless there are as many as there may be.
func (c *Cache) insert(s *shard, half uint32, id *ID, x *session, now int64, cond Condition) (replaced, full bool, err error) {
	s.lock()
	defer s.mu.Unlock()
	if s.closed {
		c.rejected.closed.Add(1)
		return false, false, ErrClosed
	}
	old := c.live(s, half, id, now)
	if !s.satisfies(cond, old) {
		c.rejected.precondition.Add(1)
		return false, false, ErrPrecondition
	}
	switch {
	case old != 0 && s.length(old) == recordWords(int(id.n), len(x.data)):
		s.n.replaced++
		s.rewrite(old, x, now)
		c.observe(EventReplaced, s, old, now)
		return true, false, nil
	case old != 0:
		s.n.replaced++
		s.drop(old)
	case !c.sessions.take():
		return false, true, nil
	}
	r := s.add(c, half, id, x, now)
	if old != 0 {
		c.observe(EventReplaced, s, r, now)
		return true, false, nil
	}
	c.observe(EventStored, s, r, now)
	return false, false, nil
}

// evict drops one session because there are as many as there may be: one of the
// shard that needs the room, or of any other when that has none.
func (c *Cache) evict(s *shard, now int64) {
	if c.evictFrom(s, now) {
		return
	}
	start := rand.IntN(len(c.shards))
	for i := range c.shards {
		if c.evictFrom(&c.shards[(start+i)%len(c.shards)], now) {
			return
		}
	}
}

func (c *Cache) evictFrom(s *shard, now int64) bool {
	s.lock()
	defer s.mu.Unlock()
	s.moves = moveWords
	return !s.closed && s.evict(c, now, &s.n.evicted.Sessions)
}

// Delete removes and wipes the session, if cond holds for it; nil always does.
// The errors are ErrNotFound, also for an expired session, and ErrPrecondition.
func (c *Cache) Delete(id ID, cond Condition) error {
	s, half := c.place(&id)
	now := c.now()
	s.lock()
	defer s.mu.Unlock()
	r := c.live(s, half, &id, now)
	switch {
	case r == 0:
		return ErrNotFound
	case !s.satisfies(cond, r):
		return ErrPrecondition
	}
	c.remove(s, r, now, EventRemoved, &s.n.removed)
	return nil
}

// List returns up to limit sessions, at most MaxPage, and whether there are more. The
// zero ID starts a listing. To continue, pass the last ID of the previous page, whether
// or not that session still exists. The order is fixed for the life of the cache, and
// otherwise unspecified. A session that exists during the whole listing is listed
// exactly once, whatever is written meanwhile. Expired sessions are not listed.
func (c *Cache) List(after ID, limit int) (page []Listed, more bool) {
	// The order is by shard, then as in the index: a position that follows
	// from the ID alone. One session more than asked for tells whether there
	// is more.
	limit = max(0, min(limit, MaxPage))
	now := c.now()
	first := 0
	if after != (ID{}) {
		first = c.shardIndex(c.hash(&after))
	}
	for i := first; i < len(c.shards) && len(page) <= limit; i++ {
		page = c.shards[i].list(page, after, limit+1, now)
		after = ID{}
	}
	if len(page) > limit {
		return page[:limit], true
	}
	return page, false
}

// sweepEvery leaves most of the second that an expired session may stay for the
// round itself.
const sweepEvery = 250 * time.Millisecond

// sweep removes expired sessions until the cache is closed, from every step-th
// shard, beginning with the given one.
func (c *Cache) sweep(first, step int) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.closing:
			return
		case <-tick.C:
		}
		now := c.now()
		for i := first; i < len(c.shards); i += step {
			select {
			case <-c.closing:
				return
			default:
				c.shards[i].sweep(c, now)
			}
		}
	}
}

// place returns the shard of an ID, by the lower half of its hash, and the upper
// half, which is for the slot.
func (c *Cache) place(id *ID) (s *shard, half uint32) {
	hash := c.hash(id)
	return &c.shards[c.shardIndex(hash)], uint32(hash >> 32)
}

func (c *Cache) hash(id *ID) uint64 { return maphash.Bytes(c.seed, id.b[:id.n]) }

func (c *Cache) shardIndex(hash uint64) int { return int(uint32(hash)) & (len(c.shards) - 1) }

// live returns the session or 0. It removes one that it finds expired. The
// shard is locked.
func (c *Cache) live(s *shard, half uint32, id *ID, now int64) ref {
	if s.closed {
		return 0
	}
	at, found := s.search(half, id)
	if !found {
		return 0
	}
	r := s.index[at].ref()
	if s.end(r) <= now {
		c.remove(s, r, now, EventExpired, &s.n.expired)
		return 0
	}
	return r
}

// evictRecord evicts a session for the reason. The shard is locked.
func (c *Cache) evictRecord(s *shard, r ref, now int64, reason *uint64) {
	idle := uint64(max(now-s.lastUsed(r), 0))
	s.n.idle[idleBucket(idle)]++
	s.n.idleSum += idle
	c.remove(s, r, now, EventEvicted, reason)
}

// remove ends a session, wipes it, and counts its end. The shard is locked.
func (c *Cache) remove(s *shard, r ref, now int64, kind EventKind, end *uint64) {
	c.observe(kind, s, r, now)
	s.drop(r)
	*end++
	c.sessions.used.Add(-1)
}
