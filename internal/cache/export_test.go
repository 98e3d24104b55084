package cache

import "bytes"

// Holds reports whether the memory of the cache holds the bytes anywhere, in
// its arenas or between them. It locks all shards.
func (c *Cache) Holds(data []byte) bool {
	for i := range c.shards {
		c.shards[i].lock()
		defer c.shards[i].mu.Unlock()
		if c.shards[i].closed {
			return false
		}
	}
	return bytes.Contains(c.memory.bytes, data)
}

// Overdrawn is by how many words the records that moved under one lock lately
// went over what may move, in the worst shard. It locks all shards in turn.
func (c *Cache) Overdrawn() (words int) {
	for i := range c.shards {
		c.shards[i].lock()
		words = max(words, -c.shards[i].moves)
		c.shards[i].mu.Unlock()
	}
	return words
}

// Sweep ends what has ended, and returns how many steps it took under one lock, and
// how many it should take at most.
func (c *Cache) Sweep() (most, bound int) {
	for i := range c.shards {
		s := &c.shards[i]
		for from := 0; from >= 0; {
			s.lock()
			var steps int
			from, steps = s.sweepSome(c, from, c.now())
			s.mu.Unlock()
			most = max(most, steps)
		}
	}
	return most, sweepSteps + blockWords/recordWords(1, 1)*(1+endSteps)
}

// LargestRecord is the length in words of a session of that size.
func LargestRecord(size int) int { return recordWords(maxIDLen, size) }

// WithTag is e as the cache returns it of a session with these bytes.
func WithTag(e Entry, data []byte) Entry {
	if len(data) >= largeSize {
		e.Tag = TagOf(data)
	}
	return e
}
