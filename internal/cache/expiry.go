package cache

// A block is a part of the arena. It has where the first record or free piece that
// begins in it does (16 bits, in words from its start), and above that a time: no
// record that begins in the block ends before; 0 when there is none.
type block uint64

// blockWords are 4 KiB: about 19 records are looked at to find one that has ended,
// and a block takes 2 ‰ of what it describes.
const (
	blockWords = 512
	dueShift   = 16
	firstMask  = 1<<dueShift - 1
)

func (b block) due() int64 { return int64(b >> dueShift) }

// setFirst notes that from r on, a piece that ends before next, blocks begin with
// what begins at next.
func (s *shard) setFirst(r, next ref) {
	for i := r/blockWords + 1; i <= next/blockWords; i++ {
		first := min(next-i*blockWords, blockWords)
		s.blocks[i] = s.blocks[i]&^firstMask | block(first)
	}
}

// noteEnd notes when the record ends.
func (s *shard) noteEnd(r ref) {
	b, end := &s.blocks[r/blockWords], s.end(r)
	if due := b.due(); due == 0 || end < due {
		*b = block(end)<<dueShift | *b&firstMask
	}
}

// The bound of the work under one lock. A block that has nothing to end is a step, a
// record that is looked at is one, and one that is ended is several.
const (
	sweepSteps = 4096
	endSteps   = 32
)

// sweep ends the records whose time has come. It locks the shard, and lets others
// have the lock in between.
func (s *shard) sweep(c *Cache, now int64) {
	for from := 0; from < len(s.blocks); {
		s.lock()
		from, _ = s.sweepSome(c, from, now)
		s.mu.Unlock()
	}
}

// sweepSome does what there is to do under one lock, from the given block on, and
// returns where to go on and how many steps it took.
func (s *shard) sweepSome(c *Cache, from int, now int64) (next, steps int) {
	if s.closed {
		return len(s.blocks), 0
	}
	for next = from; next < len(s.blocks) && steps < sweepSteps; next++ {
		steps++
		if due := s.blocks[next].due(); due != 0 && due <= now {
			steps += s.sweepBlock(c, ref(next), now)
		}
	}
	return next, steps
}

// sweepBlock ends the records of a block whose time has come, and returns how many
// steps that took.
func (s *shard) sweepBlock(c *Cache, i ref, now int64) (steps int) {
	due := int64(0)
	r := i*blockWords + ref(s.blocks[i]&firstMask)
	behind := min((i+1)*blockWords, ref(len(s.words)))
	for r = s.skipGap(r); r < behind; {
		n := s.length(r)
		if !s.isFree(r) {
			if end := s.end(r); end <= now {
				c.remove(s, r, &s.n.expired)
				steps += endSteps
			} else if due == 0 || end < due {
				due = end
			}
		}
		steps++
		r = s.skipGap(r + ref(n))
	}
	s.blocks[i] = block(due)<<dueShift | s.blocks[i]&firstMask
	return steps
}
