package cache

import (
	"hash/maphash"
	"math"
	"math/rand/v2"
	"sync"
	"unsafe"
)

// shard holds the sessions whose IDs hash to it, in memory of its own that is
// divided between index, sketch and arena.
//
// The arena is two rings. A session is written into the window, a hundredth of
// the arena. What comes to the end of the window moves on to the main ring when
// there is room there, or when it is asked for more often than what it would
// push out; else it is evicted. What comes to the end of the main ring and was
// read meanwhile goes round once more. So what passes through once has little
// to pass through. docs/design/cache.md says why.
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

	used         int // slots, as many as sessions
	liveWords    int // of all records that have not ended
	moves        int // words of records of the main ring that may move yet, see victim
	window, main ring
	sketch       sketch
	wheel        wheel
	n            counters
}

// half is the upper half of an ID's hash. The lower half chose the shard.
func (s *shard) half(id []byte) uint32 { return uint32(maphash.Bytes(s.seed, id) >> 32) }

// divide makes index, sketch and arena of the shard's memory, for records of up
// to largest words.
func (s *shard) divide(b []byte, largest int) {
	s.homes = len(b) / slotMemory / lineSlots * lineSlots
	take := func(words int) []byte {
		var part []byte
		part, b = b[:words*wordSize], b[words*wordSize:]
		return part
	}
	s.index = wordsOf[slot](take(s.homes + spareSlots))
	s.sketch = sketch{
		words: wordsOf[uint64](take((s.homes/sketchSlots/blockWords + 1) * blockWords)),
		limit: addsPerSlot * s.homes,
	}
	s.bytes, s.words = b, wordsOf[uint64](b)
	arena := ref(len(s.words))
	middle := 1 + max(arena/windowShare, ref(largest))
	s.window, s.main = newRing(1, middle), newRing(middle, arena)
}

func (s *shard) lock() {
	if !s.mu.TryLock() {
		s.lockContended()
	}
}

// lockTries is about as long as a call holds a lock.
const lockTries = 128

// lockContended waits for the lock. Whoever holds it is most often about to let
// it go: to try again at once takes a fraction of the time of the mutex's own
// wait, which pauses the processor before it looks.
func (s *shard) lockContended() {
	for range lockTries {
		if s.mu.TryLock() {
			s.contended++
			return
		}
	}
	s.mu.Lock()
	s.contended++
}

// use notes that a session was asked for. The sketch is told later, when the
// record moves or goes: a read does not wait for one more place in memory.
func (s *shard) use(r ref) {
	if s.uses(r) < maxUses {
		s.words[r+1] += flagUse
	}
}

// worth is how often a session was asked for lately, about.
func (s *shard) worth(r ref) uint64 { return s.sketch.count(s.half(s.id(r))) + s.uses(r) }

// settle tells the sketch of the uses of a record, which are then forgotten.
func (s *shard) settle(r ref) {
	half := s.half(s.id(r))
	for range s.uses(r) {
		s.sketch.add(half)
	}
	s.words[r+1] &^= useMask
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

// drop takes a record out of the index and of its wheel list, and wipes it. Its
// place stays dead until its ring comes around.
func (s *shard) drop(r ref) {
	s.deleteSlot(s.slotOf(s.half(s.id(r)), r))
	s.unlink(r)
	n := s.length(r)
	g := s.ringOf(r)
	g.live--
	g.dead += n
	s.liveWords -= n
	s.n.dataBytes -= int64(s.size(r))
	s.wipe(r)
}

// ringOf is the ring that a record is in.
func (s *shard) ringOf(r ref) *ring {
	if s.flags(r)&flagMain != 0 {
		return &s.main
	}
	return &s.window
}

// add stores a session whose ID is not there.
func (s *shard) add(c *Cache, half uint32, id *ID, x *session, now int64) {
	n := recordWords(int(id.n), len(x.data))
	s.moves = moveWords + movesPerWord*n
	for s.used >= maxLoad(s.homes) {
		s.evict(c, now, &s.n.evicted.Memory)
	}
	r := s.window.reserve(n)
	for r == 0 {
		s.advance(c, now)
		r = s.window.reserve(n)
	}
	s.write(r, id, x)
	s.link(r)
	for at, _ := s.search(half, id); !s.insert(at, newSlot(half, r)); at, _ = s.search(half, id) {
		// All slots from there on to the last are taken.
		c.remove(s, s.index[len(s.index)-1].ref(), &s.n.evicted.Memory)
	}
	s.sketch.add(half)
	s.liveWords += n
	s.count(len(x.data))
	s.balance(c, now)
}

// rewrite stores a session in the place of the one of its ID, whose record is as
// long. Nothing of that is left, but how often it was read: to be stored again counts
// as that, so that it is not evicted for the age of its place.
func (s *shard) rewrite(r ref, x *session) {
	s.n.dataBytes -= int64(s.size(r))
	// The sweep puts a record off that it finds in a list before its time.
	sooner := x.end < s.end(r)
	if sooner {
		s.unlink(r)
	}
	s.set(r, x)
	// It ends in the same word as the one before.
	behind := (int(r)+headerWords)*wordSize + s.idSize(r) + len(x.data)
	clear(s.bytes[behind : (behind+wordSize-1)/wordSize*wordSize])
	if sooner {
		s.link(r)
	}
	s.use(r)
	s.count(len(x.data))
}

// count counts a session of that size as stored.
func (s *shard) count(size int) {
	s.n.stored++
	s.n.sizes[sizeBucket(size)]++
	s.n.sizeSum += uint64(size)
	s.n.dataBytes += int64(size)
}

// windowShare is the part of the sessions, and of the arena, that the window
// has: 1 of so many.
const windowShare = 100

// balance moves the oldest session of a window that has more than its share on,
// while that costs no other its place.
func (s *shard) balance(c *Cache, now int64) {
	g := &s.window
	if g.live*windowShare <= s.used {
		return
	}
	r := g.tail
	n := s.length(r)
	switch {
	case s.flags(r)&flagDead != 0:
	case s.end(r) <= now:
		c.remove(s, r, &s.n.expired)
	default:
		to := s.main.reserve(n)
		if to == 0 {
			return
		}
		s.promote(r, to, n)
	}
	g.dead -= n
	g.pop(n)
}

// promote moves a record from the window to the main ring. The place that it
// had is then dead.
func (s *shard) promote(r, to ref, n int) {
	s.settle(r)
	s.window.live--
	s.window.dead += n
	s.move(r, to, n)
	s.words[to+1] |= flagMain
}

// advance gives up the oldest record of the window: it moves on or is evicted.
func (s *shard) advance(c *Cache, now int64) {
	g := &s.window
	r := g.tail
	n := s.length(r)
	switch {
	case s.flags(r)&flagDead != 0:
	case s.end(r) <= now:
		c.remove(s, r, &s.n.expired)
	default:
		if to := s.admit(c, r, n, now); to != 0 {
			s.promote(r, to, n)
		} else {
			s.settle(r)
			c.remove(s, r, &s.n.evicted.Memory)
		}
	}
	g.dead -= n
	g.pop(n)
}

// A record that loses is admitted all the same, one time in luckOf, when it is
// asked for that often. Without luck what was popular once, at the end of the
// ring, would shut out all others until the sketch forgets it. The figures are
// those of otter and Caffeine.
const (
	luckFrom = 6
	luckOf   = 128
)

// admit makes room in the main ring for a record of the window, or returns 0
// when that would cost one that is asked for as often or more.
func (s *shard) admit(c *Cache, r ref, n int, now int64) (to ref) {
	if to = s.main.reserve(n); to != 0 {
		return to
	}
	for {
		victim := s.victim(c, now, n)
		// Looking for one may have made the room already.
		if to = s.main.reserve(n); to != 0 {
			return to
		}
		if !s.wins(r, victim) {
			return 0
		}
		s.evictMain(c, victim, &s.n.evicted.Memory)
		if to = s.main.reserve(n); to != 0 {
			return to
		}
	}
}

// wins reports whether a record of the window is worth more than one of the main
// ring.
func (s *shard) wins(r, victim ref) bool {
	worth := s.worth(r)
	return worth > s.worth(victim) || worth >= luckFrom && rand.Uint32N(luckOf) == 0
}

const (
	// maxSpared bounds the records that go round again, for having been used,
	// for one that comes in.
	maxSpared = 8
	// While records that ended early take up more than a part of the main ring,
	// 1 of deadShare, others are moved together rather than evicted.
	deadShare = 16
	// All that moves in the main ring under one lock has so many words at most,
	// and one record beyond. As many for each word that is stored as makes room
	// for that when deadShare is reached.
	moveWords    = 4096
	movesPerWord = deadShare
)

// victim is the record of the main ring that is next to be evicted. Those before
// it have gone round again, or had ended. It is 0 when there is none, or when
// there is room for so many words by now.
func (s *shard) victim(c *Cache, now int64, room int) ref {
	g := &s.main
	for spared := 0; g.records > 0 && !g.fits(room); {
		r := g.tail
		n := s.length(r)
		switch {
		case s.flags(r)&flagDead != 0:
			g.dead -= n
			g.pop(n)
			continue
		case s.end(r) <= now:
			c.remove(s, r, &s.n.expired)
			continue
		case s.moves <= 0:
			return r
		case s.uses(r) > 0 && spared < maxSpared:
			spared++
			s.words[r+1] -= flagUse
			s.sketch.add(s.half(s.id(r)))
		case g.dead*deadShare > int(g.limit-g.first):
		default:
			return r
		}
		s.moves -= n
		g.pop(n)
		g.live--
		s.move(r, g.reserve(n), n) // there is room: what it gave up, at least
	}
	return 0
}

// evictMain evicts the oldest record of the main ring.
func (s *shard) evictMain(c *Cache, r ref, reason *uint64) {
	n := s.length(r)
	s.settle(r)
	c.remove(s, r, reason)
	s.main.dead -= n
	s.main.pop(n)
}

// evict drops one session, and reports whether there was one. One that has
// expired will do.
func (s *shard) evict(c *Cache, now int64, reason *uint64) bool {
	used := s.used
	g := &s.window
	for g.records > 0 && s.flags(g.tail)&flagDead != 0 {
		n := s.length(g.tail)
		g.dead -= n
		g.pop(n)
	}
	if g.live > 0 && s.end(g.tail) <= now {
		c.remove(s, g.tail, &s.n.expired)
		return true
	}
	victim := s.victim(c, now, math.MaxInt)
	switch {
	case s.used < used: // looking for one came across some
		return true
	case victim == 0 && g.live == 0:
		return false
	case victim == 0, g.live > 0 && !s.wins(g.tail, victim):
		n := s.length(g.tail)
		s.settle(g.tail)
		c.remove(s, g.tail, reason)
		g.dead -= n
		g.pop(n)
	default:
		s.evictMain(c, victim, reason)
		s.balance(c, now)
	}
	return true
}

// move copies a record of n words to another place, and wipes what is left of
// it at the old one.
func (s *shard) move(from, to ref, n int) {
	if from == to {
		return
	}
	half := s.half(s.id(from))
	at := s.slotOf(half, from)
	copy(s.words[to:int(to)+n], s.words[from:int(from)+n])
	s.index[at] = newSlot(half, to)
	s.join(to)
	left := from
	if to < from && int(to)+n > int(from) {
		left = to + ref(n)
	}
	clear(s.words[left : int(from)+n])
}

// The clock may be so many ticks from the wheel before that is set anew rather
// than turned: behind, for clocks are often corrected by a little, and ahead, for
// each tick is a step.
const (
	clockSlack = 4
	clockLeap  = nearLists * midLists
)

// rewind sets the wheel to another time and puts all records into it anew. Those
// that have ended are due then.
func (s *shard) rewind(now int64) {
	s.wheel = wheel{tick: max(now>>tickShift-1, 0)}
	if s.used == 0 {
		return
	}
	for _, e := range s.index {
		if e != 0 {
			s.link(e.ref())
		}
	}
}

// Work under one lock: a tick without records is a step, a record is several.
const (
	sweepSteps  = 4096
	recordSteps = 32
)

// sweep ends the records whose time has come, and reports whether it left some
// for the lock's next holder.
func (s *shard) sweep(c *Cache, now int64) (more bool) {
	w := &s.wheel
	if ahead := now>>tickShift - w.tick; s.used == 0 || ahead < -clockSlack || ahead > clockLeap {
		s.rewind(now)
	}
	for steps := 0; w.tick < now>>tickShift; {
		if steps >= sweepSteps {
			return true
		}
		r := w.lists[w.due()]
		if r == 0 {
			w.tick++
			steps++
			continue
		}
		s.prefetchBehind(r)
		switch {
		case s.end(r) <= now:
			c.remove(s, r, &s.n.expired)
		default: // from an upper level to one below
			s.unlink(r)
			s.link(r)
		}
		steps += recordSteps
	}
	return false
}

// prefetchBehind fetches what ending the record behind r in its list needs, and
// the record behind that.
func (s *shard) prefetchBehind(r ref) {
	_, next := s.neighbours(r)
	if next == 0 {
		return
	}
	prefetchLine(unsafe.Pointer(&s.index[s.home(s.half(s.id(next)))]))
	if _, next = s.neighbours(next); next != 0 {
		prefetchRecord(unsafe.Pointer(&s.words[next]))
	}
}

// wipeAll ends all records at once and returns how many were live.
func (s *shard) wipeAll(now int64) (live int) {
	for at, e := range s.index {
		if e == 0 {
			continue // not even written to, for that would take up memory
		}
		if s.end(e.ref()) > now {
			live++
		}
		s.index[at] = 0
	}
	for _, g := range []*ring{&s.window, &s.main} {
		if g.wrapped {
			clear(s.words[g.tail:g.wrap])
			clear(s.words[g.first:g.head])
		} else {
			clear(s.words[g.tail:g.head])
		}
		*g = newRing(g.first, g.limit)
	}
	s.used, s.liveWords = 0, 0
	s.wheel.lists = [len(s.wheel.lists)]ref{}
	s.n.dataBytes = 0
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
	if s.closed || s.used == 0 {
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
