package main

import (
	"container/heap"
	"time"

	"github.com/sessapi/sessapi/internal/cache/cachetest"
)

// opt is the best that a cache could do if it knew the future: it evicts the
// session whose client comes back last, or not before the session's end.
type opt struct {
	next     []time.Duration // by ID, when its client comes back; 0 when it is not resident
	order    byNext
	n        int
	capacity int
}

func newOPT(ids, capacity int) cachetest.Policy {
	return &opt{next: make([]time.Duration, ids), capacity: capacity}
}

func (p *opt) Get(s cachetest.Session, _, next time.Duration) bool {
	if p.next[s.ID] == 0 {
		return false
	}
	p.note(s, next)
	return true
}

func (p *opt) Put(s cachetest.Session, _, next time.Duration) {
	p.n++
	p.note(s, next)
	for p.n > p.capacity {
		// An entry is out of date once the session has gone or come back.
		if last := heap.Pop(&p.order).(comeback); p.next[last.id] == last.at {
			p.next[last.id] = 0
			p.n--
		}
	}
}

func (p *opt) Delete(s cachetest.Session, _ time.Duration) {
	if p.next[s.ID] != 0 {
		p.next[s.ID] = 0
		p.n--
	}
}

func (p *opt) note(s cachetest.Session, next time.Duration) {
	if next >= s.End {
		next = cachetest.Never
	}
	p.next[s.ID] = next
	heap.Push(&p.order, comeback{s.ID, next})
}

type comeback struct {
	id uint32
	at time.Duration
}

// byNext is a heap with the client that comes back last at its top.
type byNext []comeback

func (h byNext) Len() int           { return len(h) }
func (h byNext) Less(i, j int) bool { return h[i].at > h[j].at }
func (h byNext) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byNext) Push(x any)        { *h = append(*h, x.(comeback)) }
func (h *byNext) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}
