package cache

import (
	"hash/maphash"
	"sync"
)

// shard holds the sessions whose IDs hash to it, in memory of its own that is
// divided between index, blocks and arena.
type shard struct {
	// What every call writes is in one cache line, and what it only reads in
	// others: processors that take turns pass on no more than the one.
	mu        sync.Mutex // guards all of it
	hits      uint64
	misses    uint64
	contended uint64
	_         [32]byte

	words  []uint64 // the arena; word 0 is nobody's, so that ref 0 is none
	bytes  []byte   // the same memory
	index  []slot
	homes  int // slots that hashes have a place of their own in
	seed   maphash.Seed
	closed bool
	_      [32]byte

	sessions  int
	liveWords int // of all records
	moves     int // words of records that may move yet, see advanceTail
	hand      ref // where the gap begins
	tail      ref // where it ends
	gap       int // words that it has
	blocks    []block
	free      [maxListed]ref // the first free piece of each length, but for the gap
	n         counters
}

// half is the upper half of an ID's hash. The lower half chose the shard.
func (s *shard) half(id []byte) uint32 { return uint32(maphash.Bytes(s.seed, id) >> 32) }

// divide makes index, blocks and arena of the shard's memory.
func (s *shard) divide(b []byte) {
	s.homes = len(b) / slotMemory / lineSlots * lineSlots
	take := func(words int) []byte {
		var part []byte
		part, b = b[:words*wordSize], b[words*wordSize:]
		return part
	}
	s.index = wordsOf[slot](take(s.homes + spareSlots))
	s.blocks = wordsOf[block](take(len(b)/wordSize/blockWords + 1))
	s.bytes, s.words = b, wordsOf[uint64](b)
	s.clear()
}

// clear makes all of the arena the gap. It writes to none of the shard's memory, which
// would make a large page of it resident.
func (s *shard) clear() {
	s.hand, s.tail, s.gap = 1, 1, len(s.words)-1
	clear(s.free[:])
}

func (s *shard) lock() {
	if !s.mu.TryLock() {
		s.mu.Lock()
		s.contended++
	}
}

// Records in the newest 1/recentShare of the arena are not marked when they are used,
// for they are far from the tail. If they were, a session that is used only just after
// it was stored would stay for two rounds.
const recentShare = 4

// touch notes that a session was stored or read.
func (s *shard) touch(r ref, now int64) {
	s.words[r+2] = uint64(now)
	passed := int(s.hand) - int(r) - s.length(r) // words since the hand was there
	if passed < 0 {
		passed += len(s.words)
	}
	if passed > (len(s.words)-s.gap)/recentShare {
		s.words[r] |= flagKeep
	}
}

// satisfies asks the condition about the session, 0 for none.
func (s *shard) satisfies(cond Condition, r ref) bool {
	switch {
	case cond == nil:
		return true
	case r == 0:
		return cond(Tag{}, false)
	}
	return cond(s.entry(r).TagOf(s.data(r)), true)
}

// drop takes a record out of the index and wipes it. Its place is free.
func (s *shard) drop(r ref) {
	s.deleteSlot(s.slotOf(s.half(s.id(r)), r))
	n := s.length(r)
	s.liveWords -= n
	s.n.dataBytes -= int64(s.size(r))
	clear(s.words[r : int(r)+n])
	s.release(r, n)
}

// add stores a session whose ID is not there, and returns its place.
func (s *shard) add(c *Cache, half uint32, id *ID, x *session, now int64) ref {
	n := recordWords(int(id.n), len(x.data))
	s.moves = moveWords + movesPerWord*n
	for s.sessions >= maxLoad(s.homes) {
		s.evict(c, now, &s.n.evicted.Memory)
	}
	r := s.allocate(c, n, now)
	s.write(r, id, x)
	for at, _ := s.search(half, id); !s.insert(at, newSlot(half, r)); at, _ = s.search(half, id) {
		// All slots from there on to the last are taken.
		c.evictRecord(s, s.index[len(s.index)-1].ref(), now, &s.n.evicted.Memory)
	}
	s.liveWords += n
	s.stored(r, now)
	return r
}

// rewrite stores a session in the place of the one of its ID, whose record is as
// long. Nothing of that is left.
func (s *shard) rewrite(r ref, x *session, now int64) {
	s.n.dataBytes -= int64(s.size(r))
	s.set(r, x)
	// It ends in the same word as the one before.
	end := (int(r)+headerWords)*wordSize + s.idSize(r) + len(x.data)
	clear(s.bytes[end : (end+wordSize-1)/wordSize*wordSize])
	s.stored(r, now)
}

// stored notes that a record was written.
func (s *shard) stored(r ref, now int64) {
	s.noteEnd(r)
	s.touch(r, now)
	size := s.size(r)
	s.n.stored++
	s.n.sizes[sizeBucket(size)]++
	s.n.sizeSum += uint64(size)
	s.n.dataBytes += int64(size)
}

// evict drops one session, and reports whether there was one. One that has
// expired will do.
func (s *shard) evict(c *Cache, now int64, reason *uint64) bool {
	if s.sessions == 0 {
		return false
	}
	for before := s.sessions; s.sessions == before; {
		s.advanceTail(c, now, reason)
	}
	return true
}

// wipeAll ends all records at once and returns how many were live.
func (s *shard) wipeAll(c *Cache, now int64) (live int) {
	for at, e := range s.index {
		if e == 0 {
			continue // not even written to, for that would take up memory
		}
		if s.end(e.ref()) > now {
			live++
			c.observe(EventRemoved, s, e.ref(), now)
		} else {
			c.observe(EventExpired, s, e.ref(), now)
		}
		s.index[at] = 0
	}
	for i, b := range s.blocks {
		if b != 0 {
			s.blocks[i] = 0
		}
	}
	if s.hand < s.tail || s.gap == 0 {
		clear(s.words[:s.hand])
		clear(s.words[s.tail:])
	} else {
		clear(s.words[s.tail:s.hand])
	}
	s.clear()
	s.sessions, s.liveWords, s.n.dataBytes = 0, 0, 0
	return live
}

// listSlots is how many slots a listing looks at under one lock, and then on to
// the next empty one.
const listSlots = 1024

// list appends sessions to the page until it has limit, in the order of the
// index, those after the given ID or, for the zero ID, all. It locks the shard.
func (s *shard) list(page []Listed, after ID, limit int, now int64) []Listed {
	s.lock()
	defer s.mu.Unlock()
	if s.closed || s.sessions == 0 {
		return page
	}
	at := 0
	if after != (ID{}) {
		var found bool
		if at, found = s.search(s.half(after.b[:after.n]), &after); found {
			at++
		}
	}
	for seen := 1; at < len(s.index) && len(page) < limit; seen++ {
		e := s.index[at]
		at++
		if e != 0 && s.end(e.ref()) > now {
			id, _ := MakeID(s.id(e.ref())) // it was valid when it was stored
			page = append(page, Listed{id, s.entry(e.ref())})
		}
		// The place behind an empty slot is good to go on from: what others
		// write moves no session back over it, and those that it moves on over
		// it are of hashes that have their place before it.
		if e == 0 && seen >= listSlots {
			seen = 0
			s.mu.Unlock()
			s.lock()
			if s.closed {
				break
			}
			for from := at; at < len(s.index) && s.index[at] != 0 && s.home(s.index[at].half()) < from; {
				at++
			}
		}
	}
	return page
}
