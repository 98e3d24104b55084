package main

// list holds keys in a doubly linked list, for the policies that need to take
// them out of the middle.
type list struct {
	nodes    []node // by key; the last one is the root, before and after all
	n        int
	capacity int
	ttl      int
}

type node struct {
	newer, older      uint32
	resident, visited bool
	expires           int
}

func newList(l *load, capacity int) list {
	nodes := make([]node, l.keys+1)
	root := uint32(l.keys)
	nodes[root] = node{newer: root, older: root}
	return list{nodes: nodes, capacity: capacity, ttl: l.ttl}
}

func (l *list) root() uint32 { return uint32(len(l.nodes) - 1) }

// oldest returns the root when the list is empty.
func (l *list) oldest() uint32 { return l.nodes[l.root()].newer }

// push makes key the newest.
func (l *list) push(key uint32, expires int) {
	root := l.root()
	newest := l.nodes[root].older
	l.nodes[key] = node{newer: root, older: newest, resident: true, expires: expires}
	l.nodes[newest].newer = key
	l.nodes[root].older = key
	l.n++
}

func (l *list) remove(key uint32) {
	at := &l.nodes[key]
	l.nodes[at.newer].older = at.older
	l.nodes[at.older].newer = at.newer
	at.resident = false
	l.n--
}

// find returns the node of a resident key and whether it is live, or nil.
func (l *list) find(key uint32, now int) (found *node, live bool) {
	found = &l.nodes[key]
	if !found.resident {
		return nil, false
	}
	return found, l.ttl == 0 || now < found.expires
}

// lru evicts what was not used for longest.
type lru struct{ list }

func newLRU(l *load, capacity int) policy { return &lru{newList(l, capacity)} }

func (p *lru) get(key uint32, now int) bool {
	found, live := p.find(key, now)
	if found == nil {
		return false
	}
	p.remove(key)
	if live {
		p.push(key, found.expires)
	}
	return live
}

func (p *lru) put(key uint32, now int) {
	if p.n == p.capacity {
		p.remove(p.oldest())
	}
	p.push(key, now+p.ttl)
}

// sieve is SIEVE: a queue that is never reordered, and a hand that evicts the
// first key it finds unvisited (Zhang et al., SIEVE is Simpler than LRU, NSDI
// 2024, algorithm 1).
type sieve struct {
	list
	hand uint32
}

func newSIEVE(l *load, capacity int) policy {
	p := &sieve{list: newList(l, capacity)}
	p.hand = p.root()
	return p
}

func (p *sieve) get(key uint32, now int) bool {
	found, live := p.find(key, now)
	if found == nil {
		return false
	}
	if !live {
		p.drop(key)
		return false
	}
	found.visited = true
	return true
}

func (p *sieve) put(key uint32, now int) {
	if p.n == p.capacity {
		p.drop(p.victim())
	}
	p.push(key, now+p.ttl)
}

// victim moves the hand, from the newest on to the oldest, to the key to evict.
func (p *sieve) victim() uint32 {
	for {
		if p.hand == p.root() {
			p.hand = p.oldest()
		}
		at := &p.nodes[p.hand]
		if !at.visited {
			return p.hand
		}
		at.visited = false
		p.hand = at.newer
	}
}

func (p *sieve) drop(key uint32) {
	if p.hand == key {
		p.hand = p.nodes[key].newer
	}
	p.remove(key)
}
