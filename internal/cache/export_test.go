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
