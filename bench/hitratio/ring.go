package main

// ring is a log in a fixed space: entries are appended at the head, and space
// is freed at the tail only. Places count up for ever.
type ring struct {
	keys       []uint32
	tail, head int
}

func newRing(size int) *ring { return &ring{keys: make([]uint32, size)} }

func (r *ring) len() int { return r.head - r.tail }

func (r *ring) push(key uint32) (at int) {
	r.keys[r.head%len(r.keys)] = key
	r.head++
	return r.head - 1
}

func (r *ring) pop() { r.tail++ }

// entry is what a policy knows of a key.
type entry struct {
	in      *ring // nil when the key is not resident
	at      int   // its place there
	used    int   // hits, up to a maximum
	expires int
}

// entries are the entries of all keys.
type entries struct {
	of  []entry
	ttl int
}

func newEntries(l *load) entries { return entries{make([]entry, l.keys), l.ttl} }

// live returns the entry of a resident key, or nil. An entry that has expired
// is dropped; its space stays taken until the tail of its ring gets there.
func (e *entries) live(key uint32, now int) *entry {
	found := &e.of[key]
	if found.in != nil && e.ttl > 0 && now >= found.expires {
		found.in = nil
	}
	if found.in == nil {
		return nil
	}
	return found
}

// insert appends a new entry to r.
func (e *entries) insert(r *ring, key uint32, now int) {
	e.of[key] = entry{expires: now + e.ttl}
	e.move(r, key)
}

// move appends a resident entry to r.
func (e *entries) move(r *ring, key uint32) {
	e.of[key].in, e.of[key].at = r, r.push(key)
}

// oldest returns the entry at the tail of r, or nil when that space is dead.
func (e *entries) oldest(r *ring, now int) (key uint32, found *entry) {
	key = r.keys[r.tail%len(r.keys)]
	found = e.live(key, now)
	if found == nil || found.in != r || found.at != r.tail {
		return key, nil
	}
	return key, found
}

// fifo evicts what was stored first.
type fifo struct {
	entries
	ring *ring
}

func newFIFO(l *load, capacity int) policy {
	return &fifo{newEntries(l), newRing(capacity)}
}

func (p *fifo) get(key uint32, now int) bool { return p.live(key, now) != nil }

func (p *fifo) put(key uint32, now int) {
	if p.ring.len() == len(p.ring.keys) {
		if _, victim := p.oldest(p.ring, now); victim != nil {
			victim.in = nil
		}
		p.ring.pop()
	}
	p.insert(p.ring, key, now)
}

// s3fifo is S3-FIFO: a small queue, a main queue, and a ghost queue of the keys
// that the small one evicted (Yang et al., FIFO Queues are All You Need for
// Cache Eviction, SOSP 2023, algorithm 1).
type s3fifo struct {
	entries
	capacity           int
	small, main, ghost *ring
	ghostAt            []int // place in the ghost queue plus one, by key
	sketch             *sketch
}

func newS3FIFO(l *load, capacity int) policy {
	return &s3fifo{
		newEntries(l), capacity,
		newRing(capacity), newRing(capacity), newRing(capacity - capacity/10),
		make([]int, l.keys), nil,
	}
}

// newS3Sketch returns S3-FIFO with a sketch in place of the ghost queue: a key
// that was seen twice before goes to the main queue.
func newS3Sketch(l *load, capacity int) policy {
	p := newS3FIFO(l, capacity).(*s3fifo)
	p.sketch = newSketch(capacity)
	return p
}

func (p *s3fifo) get(key uint32, now int) bool {
	e := p.live(key, now)
	if e == nil {
		return false
	}
	e.used = min(e.used+1, 3)
	if p.sketch != nil {
		p.sketch.add(key)
	}
	return true
}

func (p *s3fifo) put(key uint32, now int) {
	known := p.ghostAt[key] > p.ghost.tail
	if p.sketch != nil {
		known = p.sketch.frequency(key) >= 2
		p.sketch.add(key)
	}
	for p.small.len()+p.main.len() >= p.capacity {
		if p.small.len() >= p.capacity/10 {
			p.evictSmall(now)
		} else {
			p.evictMain(now)
		}
	}
	if known {
		p.insert(p.main, key, now)
	} else {
		p.insert(p.small, key, now)
	}
}

func (p *s3fifo) evictSmall(now int) {
	key, e := p.oldest(p.small, now)
	p.small.pop()
	switch {
	case e == nil:
	case e.used > 1:
		e.used = 0
		p.move(p.main, key)
	default:
		e.in = nil
		if p.ghost.len() == len(p.ghost.keys) {
			p.ghost.pop()
		}
		p.ghostAt[key] = p.ghost.push(key) + 1
	}
}

func (p *s3fifo) evictMain(now int) {
	for {
		key, e := p.oldest(p.main, now)
		p.main.pop()
		if e == nil {
			return
		}
		if e.used == 0 {
			e.in = nil
			return
		}
		e.used--
		p.move(p.main, key)
	}
}
