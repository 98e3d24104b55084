package cache

// Raw returns the memory itself that holds the bytes of the session, not a
// copy, so that tests see what becomes of it.
func (c *Cache) Raw(id ID) []byte {
	hash := c.hash(id)
	s := c.shard(hash)
	s.lock()
	defer s.unlock()
	if e := *s.slot(id, hash); e != nil {
		return e.data[:cap(e.data)]
	}
	return nil
}
