package cache

// The arena of a shard holds records and free pieces, contiguous except for one gap.
// New records are written at the front of the gap, the hand. If the gap is too small,
// the tail behind it advances: the record there, which the hand passed longest ago, is
// evicted or moved to the hand. Both go round the arena, so the gap may wrap.
//
// A record that ends leaves a free piece. The next record of its length is written
// there rather than into the gap.

// maxListed bounds the length of the free pieces that are listed by length, in words.
// Longer ones are free only once the tail reaches them.
const maxListed = 512

// room returns the number of contiguous gap words at the hand.
func (s *shard) room() int {
	switch {
	case s.gap == 0:
		return 0
	case s.hand < s.tail:
		return int(s.tail - s.hand)
	}
	return len(s.words) - int(s.hand)
}

// wrap moves the hand to the start of the arena and frees the words that it skips.
func (s *shard) wrap() {
	if n := len(s.words) - int(s.hand); n > 0 {
		s.release(s.advanceHand(n), n)
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

// allocate returns the place for a record of n words. It may evict others for it.
func (s *shard) allocate(c *Cache, n int, now int64) ref {
	if n < maxListed && s.free[n] != 0 {
		r := s.free[n]
		s.unlist(r, n)
		return r
	}
	for s.room() < n {
		if s.gap > 0 && s.tail <= s.hand {
			s.wrap()
		} else {
			s.advanceTail(c, now, &s.n.evicted.Memory)
		}
	}
	return s.advanceHand(n)
}

// advanceHand moves the hand by n words of the gap, and returns where they begin.
func (s *shard) advanceHand(n int) ref {
	r := s.hand
	s.hand += ref(n)
	s.gap -= n
	s.setFirst(r, s.hand)
	return r
}

// release makes a free piece of n words, which hold nothing of a session. Its length
// is in the first word, its neighbours in the list of that length in the second.
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
	// While more than 1/spareShare of the arena are free pieces, records move rather
	// than being evicted, which merges the pieces into the gap.
	spareShare = 16
	// At most moveWords, plus movesPerWord for each word that is stored, move under
	// one lock; the last record may exceed that. With 1/spareShare of the arena free,
	// spareShare words move for each that is stored.
	moveWords    = 4096
	movesPerWord = spareShare
)

// advanceTail adds the piece at the tail to the gap: a free piece, or a record that has
// expired or is evicted for the reason. A record that is to be kept moves to the hand.
func (s *shard) advanceTail(c *Cache, now int64, reason *uint64) {
	r := s.tail
	if int(r) == len(s.words) {
		s.tail = 1
		return
	}
	n := s.length(r)
	spare := len(s.words) - 1 - s.gap - s.liveWords
	switch {
	case s.isFree(r):
	case s.end(r) <= now:
		c.remove(s, r, now, EventExpired, &s.n.expired)
	case s.moves > 0 && (s.words[r]&flagKeep != 0 || spare*spareShare > len(s.words) && reason == &s.n.evicted.Memory):
		s.moves -= n
		s.move(r, n)
		return
	default:
		c.evictRecord(s, r, now, reason)
	}
	s.unlist(r, n)
	s.gap += n
	s.tail += ref(n)
}

// move moves the record at the tail, of n words, to the hand.
func (s *shard) move(from ref, n int) {
	if s.tail <= s.hand && len(s.words)-int(s.hand) < n {
		s.wrap()
	}
	s.gap += n
	s.tail += ref(n)
	to := s.advanceHand(n)
	s.words[from] &^= flagKeep
	if to != from {
		half := s.half(s.id(from))
		s.index[s.slotOf(half, from)] = newSlot(half, to)
		copy(s.words[to:int(to)+n], s.words[from:int(from)+n])
		left := from // what is left of the record at its old place
		if to < from {
			left = max(from, to+ref(n))
		}
		clear(s.words[left : int(from)+n])
	}
	s.noteEnd(to)
}
