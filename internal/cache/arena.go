package cache

// The arena of a shard is filled by records and free pieces, one right behind
// another, but for a gap. New records are written at its beginning, the hand. When
// the gap is too small, it grows at the other end, the tail, by the record there,
// which was written longest ago: that is evicted, or moves to the hand. So hand and
// tail go round the arena, and the gap may go beyond its end and on from its start.
//
// Free pieces are where records have ended. They are in lists by their length, and
// records of that length are written there rather than into the gap.

// A free piece has its length in its first word, and its neighbours in the list
// in its second one.
const maxListed = 512 // words; longer pieces are free only once the hand gets there

// room is how many words of the gap follow on the hand in one piece.
func (s *shard) room() int {
	switch {
	case s.gap == 0:
		return 0
	case s.hand < s.tail:
		return int(s.tail - s.hand)
	}
	return len(s.words) - int(s.hand)
}

// wrap takes the hand to the start of the arena. What is left at the end is free.
func (s *shard) wrap() {
	if n := len(s.words) - int(s.hand); n > 0 {
		s.release(s.step(n), n)
	}
	s.hand = 1
}

// skipGap returns the first place from r on that is not in the gap.
func (s *shard) skipGap(r ref) ref {
	switch {
	case s.gap == 0:
	case s.hand < s.tail:
		if r >= s.hand {
			return max(r, s.tail)
		}
	case r >= s.hand:
		return ref(len(s.words))
	case r < s.tail:
		return s.tail
	}
	return r
}

// isFree reports whether there is a free piece at r, rather than a record.
func (s *shard) isFree(r ref) bool { return s.words[r]&flagFree != 0 }

// length returns how many words the record or free piece at r takes.
func (s *shard) length(r ref) int {
	if s.isFree(r) {
		return int(s.words[r] >> freeShift)
	}
	return recordWords(s.idSize(r), s.size(r))
}

// take returns the place for a record of n words. It may evict others for it.
func (s *shard) take(c *Cache, n int, now int64) ref {
	if n < maxListed && s.free[n] != 0 {
		r := s.free[n]
		s.unlist(r, n)
		return r
	}
	for s.room() < n {
		if s.gap > 0 && s.tail <= s.hand {
			s.wrap()
		} else {
			s.pass(c, now, &s.n.evicted.Memory)
		}
	}
	return s.step(n)
}

// step moves the hand on by n words of the gap, and returns where they begin.
func (s *shard) step(n int) ref {
	r := s.hand
	s.hand += ref(n)
	s.gap -= n
	s.setFirst(r, s.hand)
	return r
}

// release makes a free piece of n words that are zero.
func (s *shard) release(r ref, n int) {
	s.words[r] = uint64(n)<<freeShift | flagFree
	if n < maxListed && n > 1 {
		next := s.free[n]
		s.words[r+1] = uint64(next)
		if next != 0 {
			s.words[next+1] |= uint64(r) << 32
		}
		s.free[n] = r
	}
}

// unlist takes a free piece of n words out of its list.
func (s *shard) unlist(r ref, n int) {
	if n >= maxListed || n == 1 {
		return
	}
	prev, next := ref(s.words[r+1]>>32), ref(uint32(s.words[r+1]))
	if prev == 0 {
		s.free[n] = next
	} else {
		s.words[prev+1] = s.words[prev+1]>>32<<32 | uint64(next)
	}
	if next != 0 {
		s.words[next+1] = uint64(prev)<<32 | uint64(uint32(s.words[next+1]))
	}
}

const (
	// While free pieces other than the gap are more than one spareShare of the
	// arena, records move rather than being evicted.
	spareShare = 16
	// All that moves under one lock has so many words at most, and one record
	// beyond. As many for each word that is stored as makes room for that when
	// spareShare is reached.
	moveWords    = 4096
	movesPerWord = spareShare
)

// pass has the gap grow by what is at the tail: a free piece, or a record that has
// ended or is evicted, which counts for the reason. A record that stays moves to the
// hand.
func (s *shard) pass(c *Cache, now int64, reason *uint64) {
	r := s.tail
	if int(r) == len(s.words) {
		s.tail = 1
		return
	}
	n := s.length(r)
	spare := len(s.words) - 1 - s.gap - s.liveWords
	switch {
	case s.isFree(r):
		s.unlist(r, n)
		s.gap += n
		s.tail += ref(n)
	case s.end(r) <= now:
		c.remove(s, r, &s.n.expired)
	case s.moves > 0 && (s.words[r]&flagUsed != 0 || spare*spareShare > len(s.words) && reason == &s.n.evicted.Memory):
		s.moves -= n
		s.move(r, n)
	default:
		s.evicted(r, now)
		c.remove(s, r, reason)
	}
}

// move moves the record at the tail, of n words, to the hand.
func (s *shard) move(from ref, n int) {
	if s.tail <= s.hand && len(s.words)-int(s.hand) < n {
		s.wrap()
	}
	s.gap += n
	s.tail += ref(n)
	to := s.step(n)
	s.words[from] &^= flagUsed
	if to != from {
		half := s.half(s.id(from))
		s.index[s.slotOf(half, from)] = newSlot(half, to)
		copy(s.words[to:int(to)+n], s.words[from:int(from)+n])
		left := from // of the record at its old place
		if to < from {
			left = max(from, to+ref(n))
		}
		clear(s.words[left : int(from)+n])
	}
	s.noteEnd(to)
}
