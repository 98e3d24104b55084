package main

import (
	"time"

	"github.com/sessapi/sessapi/internal/cache/cachetest"
)

// list holds sessions in a doubly linked list, for the policies that take them
// out of the middle.
type list struct {
	nodes    []node // by ID; the last one is the root, before and after all
	n        int
	capacity int
}

type node struct {
	newer, older      uint32
	resident, visited bool
}

func newList(ids, capacity int) list {
	nodes := make([]node, ids+1)
	root := uint32(ids)
	nodes[root] = node{newer: root, older: root}
	return list{nodes: nodes, capacity: capacity}
}

func (l *list) root() uint32 { return uint32(len(l.nodes) - 1) }

// oldest returns the root when the list is empty.
func (l *list) oldest() uint32 { return l.nodes[l.root()].newer }

// push makes id the newest.
func (l *list) push(id uint32) {
	root := l.root()
	newest := l.nodes[root].older
	l.nodes[id] = node{newer: root, older: newest, resident: true}
	l.nodes[newest].newer = id
	l.nodes[root].older = id
	l.n++
}

func (l *list) remove(id uint32) {
	at := &l.nodes[id]
	l.nodes[at.newer].older = at.older
	l.nodes[at.older].newer = at.newer
	at.resident = false
	l.n--
}

// sieve is SIEVE: a queue that is never reordered, and a hand that evicts the
// first session it finds unvisited (Zhang et al., SIEVE is Simpler than LRU, NSDI
// 2024, algorithm 1).
type sieve struct {
	list
	hand uint32
}

func newSIEVE(ids, capacity int) cachetest.Policy {
	p := &sieve{list: newList(ids, capacity)}
	p.hand = p.root()
	return p
}

func (p *sieve) Get(s cachetest.Session, _, _ time.Duration) bool {
	at := &p.nodes[s.ID]
	at.visited = at.resident
	return at.resident
}

func (p *sieve) Put(s cachetest.Session, _, _ time.Duration) {
	if p.n == p.capacity {
		p.drop(p.victim())
	}
	p.push(s.ID)
}

func (p *sieve) Delete(s cachetest.Session, _ time.Duration) {
	if p.nodes[s.ID].resident {
		p.drop(s.ID)
	}
}

// victim moves the hand, from the oldest on to the newest, to the session to evict.
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

func (p *sieve) drop(id uint32) {
	if p.hand == id {
		p.hand = p.nodes[id].newer
	}
	p.remove(id)
}
