package cache

import (
	"bytes"
	"container/heap"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// session is an element of a shard's buckets, of its LRU list and of its expiry
// heap. Times are nanoseconds since 1970.
type session struct {
	id        ID
	mark      uint8
	pos       int32 // in the expiry heap
	data      []byte
	storedAt  int64
	expiresAt int64
	usedAt    int64

	chain        *session // next in the bucket
	newer, older *session // in the LRU list
}

// newSession returns a session with a copy of data.
func newSession(id ID, data []byte, o PutOptions, now time.Time) *session {
	e := &session{
		id:        id,
		mark:      o.Mark,
		data:      bytes.Clone(data),
		storedAt:  now.UnixNano(),
		expiresAt: math.MaxInt64,
		usedAt:    now.UnixNano(),
	}
	if o.ExpiresAt.Before(time.Unix(0, math.MaxInt64)) {
		e.expiresAt = o.ExpiresAt.UnixNano()
	}
	return e
}

// The memory that a session takes besides its bytes, and a shard besides its
// buckets.
const (
	// A session has two places in the expiry heap, see expiryHeap.
	sessionCost = int64(unsafe.Sizeof(session{}) + 2*unsafe.Sizeof((*session)(nil)))
	shardCost   = int64(unsafe.Sizeof(shard{}) + minHeap*unsafe.Sizeof((*session)(nil)))
)

// cost returns the memory that the session takes, in bytes. The runtime makes
// the capacity of a clone that of the allocator's size class: it is what the
// heap really spends.
func (e *session) cost() int64 { return sessionCost + int64(cap(e.data)) }

func (e *session) expired(now int64) bool { return now >= e.expiresAt }

// satisfies asks the condition about the session, nil for none.
func (e *session) satisfies(cond Condition) bool {
	switch {
	case cond == nil:
		return true
	case e == nil:
		return cond(Tag{}, false)
	}
	return cond(TagOf(e.data), true)
}

func (e *session) entry() Entry {
	return Entry{
		ID:        e.id,
		Size:      len(e.data),
		StoredAt:  time.Unix(0, e.storedAt).UTC(),
		ExpiresAt: time.Unix(0, e.expiresAt).UTC(),
		Mark:      e.mark,
	}
}

// never is the oldest of a shard that has no session.
const never = math.MaxInt64

// shard holds the sessions whose IDs hash to it.
type shard struct {
	mu      sync.Mutex // guards all of it; oldest is written under it
	closed  bool
	buckets []*session // chains; a power of two
	lru     list
	expiry  expiryHeap
	n       counters

	// oldest is when the least recently used session was used, for eviction
	// to choose a shard without locking it.
	oldest atomic.Int64
}

func (s *shard) lock() {
	if !s.mu.TryLock() {
		s.mu.Lock()
		s.n.contended++
	}
}

func (s *shard) unlock() {
	oldest := int64(never)
	if s.lru.last != nil {
		oldest = s.lru.last.usedAt
	}
	if s.oldest.Load() != oldest { // a load is far cheaper than a store
		s.oldest.Store(oldest)
	}
	s.mu.Unlock()
}

// slot returns the link to the session, or the end of the chain that it would
// be in.
func (s *shard) slot(id ID, hash uint64) **session {
	p := &s.buckets[int(hash>>32)&(len(s.buckets)-1)]
	for *p != nil && (*p).id != id {
		p = &(*p).chain
	}
	return p
}

// add takes in a session whose ID is not there.
func (s *shard) add(e *session, hash uint64) {
	*s.slot(e.id, hash) = e
	s.lru.push(e)
	heap.Push(&s.expiry, e)
	s.n.stored++
	s.n.sizes[sizeBucket(len(e.data))]++
	s.n.sizeSum += uint64(len(e.data))
	s.n.dataBytes += int64(len(e.data))
}

// drop takes the session out and wipes it.
func (s *shard) drop(e *session, hash uint64) {
	*s.slot(e.id, hash) = e.chain
	s.lru.remove(e)
	heap.Remove(&s.expiry, int(e.pos))
	s.n.dataBytes -= int64(len(e.data))
	clear(e.data)
	*e = session{}
}

// use makes e the most recently used session.
func (s *shard) use(e *session, now int64) {
	e.usedAt = now
	s.lru.remove(e)
	s.lru.push(e)
}

// smallest returns the up to n sessions of the lowest IDs after the given one,
// in order. It locks the shard.
func (s *shard) smallest(after ID, n int, now int64) []Entry {
	var found []Entry
	var last ID // once n were found, of the n lowest so far
	s.lock()
	for e := s.lru.last; e != nil; e = e.newer {
		if e.expired(now) || e.id.compare(after) <= 0 || last != (ID{}) && e.id.compare(last) > 0 {
			continue
		}
		found = append(found, e.entry())
		if len(found) == 2*n {
			sortByID(found)
			found = found[:n]
			last = found[n-1].ID
		}
	}
	s.unlock()
	sortByID(found)
	return found[:min(n, len(found))]
}

func sortByID(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int { return a.ID.compare(b.ID) })
}

// list is a list of sessions by their last use.
type list struct{ first, last *session }

// push puts e at the front.
func (l *list) push(e *session) {
	e.older, e.newer = l.first, nil
	if l.first == nil {
		l.last = e
	} else {
		l.first.newer = e
	}
	l.first = e
}

func (l *list) remove(e *session) {
	if e.newer == nil {
		l.first = e.older
	} else {
		e.newer.older = e.older
	}
	if e.older == nil {
		l.last = e.newer
	} else {
		e.older.newer = e.newer
	}
}

// expiryHeap is a container/heap of sessions, the first to expire on top.
//
// It has room for at most twice the sessions in it, or for minHeap. Growing
// keeps that by itself; shrinking is up to Pop, or a heap that once held many
// small sessions would keep memory that is accounted to none.
type expiryHeap []*session

const minHeap = 32

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].expiresAt < h[j].expiresAt }

func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = int32(i), int32(j)
}

// Push is part of heap.Interface.
func (h *expiryHeap) Push(x any) {
	e := x.(*session)
	e.pos = int32(len(*h))
	*h = append(*h, e)
}

// Pop is part of heap.Interface.
func (h *expiryHeap) Pop() any {
	n := len(*h) - 1
	e := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	if cap(*h) > minHeap && cap(*h) > 2*n {
		*h = append(make(expiryHeap, 0, max(n+n/4, minHeap)), *h...)
	}
	return e
}
