package cache

// ring is a part of the arena in which records are written one behind another,
// and given up in the order in which they were written.
type ring struct {
	first, limit ref // the words that it has, [first, limit)
	head         ref // where the next record goes
	tail         ref // the oldest record
	wrapped      bool
	wrap         ref // when wrapped, where the records before the limit end
	records      int // in the ring, those that have ended included
	live         int // those that have not
	dead         int // words of those that have
}

func newRing(first, limit ref) ring {
	return ring{first: first, limit: limit, head: first, tail: first}
}

// reserve returns where a record of n words goes, or 0 when there is no room.
func (g *ring) reserve(n int) ref {
	if g.records == 0 {
		*g = newRing(g.first, g.limit)
	}
	at := g.head
	switch {
	case g.wrapped:
		if int(g.tail-g.head) < n {
			return 0
		}
	case int(g.limit-g.head) < n:
		if int(g.tail-g.first) < n {
			return 0
		}
		g.wrapped, g.wrap = true, g.head
		at = g.first
	}
	g.head = at + ref(n)
	g.records++
	g.live++
	return at
}

// fits reports whether there is room for a record of n words.
func (g *ring) fits(n int) bool {
	switch {
	case g.records == 0:
		return n <= int(g.limit-g.first)
	case g.wrapped:
		return n <= int(g.tail-g.head)
	}
	return n <= int(g.limit-g.head) || n <= int(g.tail-g.first)
}

// pop gives up the oldest record, of n words.
func (g *ring) pop(n int) {
	g.tail += ref(n)
	g.records--
	if g.wrapped && g.tail == g.wrap {
		g.wrapped = false
		g.tail = g.first
	}
}
