package cache

import "fmt"

// Shrink leaves so many words of the arena of each shard, or what the largest record
// needs, so that hand and tail go round often. The cache must be empty.
func (c *Cache) Shrink(words int) {
	words = max(words, recordWords(maxIDLen, c.cfg.MaxSessionBytes)+1)
	for i := range c.shards {
		s := &c.shards[i]
		s.lock()
		if words < len(s.words) {
			s.words, s.bytes = s.words[:words], s.bytes[:words*wordSize]
			s.blocks = s.blocks[:words/blockWords+1]
			s.clear()
		}
		s.mu.Unlock()
	}
}

// CheckMemory walks the memory of the cache and compares what it finds with what the shards
// have noted.
func (c *Cache) CheckMemory() error {
	for i := range c.shards {
		s := &c.shards[i]
		s.lock()
		err := s.check()
		s.mu.Unlock()
		if err != nil {
			return fmt.Errorf("shard %d, hand %d, tail %d, gap of %d: %w", i, s.hand, s.tail, s.gap, err)
		}
	}
	return nil
}

func (s *shard) check() error {
	end := ref(len(s.words))
	live, sessions, gap := 0, 0, 0
	pieces := map[ref]int{} // lengths
	listed := map[ref]int{} // of free pieces
	firstEnd := make([]int64, len(s.blocks))
	for r := ref(1); r < end; {
		if to := s.skipGap(r); to != r {
			gap += int(to - r)
			r = to
			continue
		}
		n := s.length(r)
		if n < 1 || int(r)+n > len(s.words) {
			return fmt.Errorf("a piece of %d words at %d", n, r)
		}
		for w := r; w < r+ref(n); w++ {
			if s.skipGap(w) != w {
				return fmt.Errorf("the piece of %d words at %d reaches into the gap", n, r)
			}
		}
		pieces[r] = n
		switch block := r / blockWords; {
		case !s.isFree(r):
			live, sessions = live+n, sessions+1
			s.slotOf(s.half(s.id(r)), r) // panics if it is not in the index
			if at := firstEnd[block]; at == 0 || s.end(r) < at {
				firstEnd[block] = s.end(r)
			}
		case n > 1 && n < maxListed:
			listed[r] = n
		}
		r += ref(n)
	}
	if live != s.liveWords || sessions != s.sessions || gap != s.gap {
		return fmt.Errorf("%d words of records, %d sessions, gap of %d; noted are %d, %d, %d",
			live, sessions, gap, s.liveWords, s.sessions, s.gap)
	}
	for n, r := range s.free {
		for prev := ref(0); r != 0; prev, r = r, ref(uint32(s.words[r+1])) {
			if listed[r] != n || ref(s.words[r+1]>>32) != prev {
				return fmt.Errorf("in the list of %d words, %d has %d and comes after %d", n, r, listed[r], s.words[r+1]>>32)
			}
			delete(listed, r)
		}
	}
	if len(listed) > 0 {
		return fmt.Errorf("free pieces in no list: %v", listed)
	}
	for i, b := range s.blocks {
		if at := firstEnd[i]; at != 0 && (b.due() == 0 || b.due() > at) {
			return fmt.Errorf("block %d is due at %d, a record in it ends at %d", i, b.due(), at)
		}
		limit := min(ref(i+1)*blockWords, end)
		first := ref(i) * blockWords
		for first < limit && pieces[first] == 0 {
			first++
		}
		if r := max(ref(i)*blockWords+ref(b&firstMask), 1); first < limit && min(s.skipGap(r), limit) != first {
			return fmt.Errorf("block %d begins at %d, its first piece at %d", i, r, first)
		}
	}
	return nil
}
