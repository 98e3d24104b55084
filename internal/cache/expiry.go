package cache

// A block is a part of the arena. The low 16 bits are the offset in words of the first
// piece that begins in the block. The rest is a lower bound of the ends of the records
// that begin there; 0 means that there are none.
type block uint64

// blockWords are 4 KiB: a sweep reads about 19 records to find an expired one, and a
// block takes 2 ‰ of what it describes.
const (
	blockWords = 512
	dueShift   = 16
	firstMask  = 1<<dueShift - 1
)

func (b block) due() int64 { return int64(b >> dueShift) }

// setFirst notes that blocks that begin in (r, next] have their first piece at next.
func (s *shard) setFirst(r, next ref) {
	for i := r/blockWords + 1; i <= next/blockWords; i++ {
		first := min(next-i*blockWords, blockWords)
		s.blocks[i] = s.blocks[i]&^firstMask | block(first)
	}
}

// noteEnd notes the end of the record in its block.
func (s *shard) noteEnd(r ref) {
	b, end := &s.blocks[r/blockWords], s.end(r)
	if due := b.due(); due == 0 || end < due {
		*b = block(end)<<dueShift | *b&firstMask
	}
}

// The bound of the work under one lock. Checking a block or a record costs a step,
// wiping a record endSteps.
const (
	sweepSteps = 4096
	endSteps   = 32
)

// sweep removes expired sessions. It locks the shard and releases it in between.
func (s *shard) sweep(c *Cache, now int64) {
	for from := 0; from >= 0; {
		s.lock()
		from, _ = s.sweepSome(c, from, now)
		s.mu.Unlock()
	}
}

// sweepSome does the part of a sweep that is done under one lock, from the given block
// on. It returns the block to go on with, -1 at the end, and the steps taken.
func (s *shard) sweepSome(c *Cache, from int, now int64) (next, steps int) {
	if s.closed {
		return -1, 0
	}
	for next = from; next < len(s.blocks); next++ {
		if steps >= sweepSteps {
			return next, steps
		}
		steps++
		if due := s.blocks[next].due(); due != 0 && due <= now {
			steps += s.sweepBlock(c, ref(next), now)
		}
	}
	return -1, steps
}

// sweepBlock removes the expired sessions of a block, and returns the steps taken.
func (s *shard) sweepBlock(c *Cache, i ref, now int64) (steps int) {
	due := int64(0)
	r := max(i*blockWords+ref(s.blocks[i]&firstMask), 1) // word 0 is nobody's
	end := min((i+1)*blockWords, ref(len(s.words)))
	for r = s.skipGap(r); r < end; {
		n := s.length(r)
		if !s.isFree(r) {
			if e := s.end(r); e <= now {
				c.remove(s, r, now, EventExpired, &s.n.expired)
				steps += endSteps
			} else if due == 0 || e < due {
				due = e
			}
		}
		steps++
		r = s.skipGap(r + ref(n))
	}
	s.blocks[i] = block(due)<<dueShift | s.blocks[i]&firstMask
	return steps
}
