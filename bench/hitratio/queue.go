package main

import (
	"time"

	"github.com/sessapi/sessapi/internal/cache/cachetest"
)

// queue is a log in a fixed space: sessions are appended at the head, and space is
// freed at the tail only. Places count up for ever.
type queue struct {
	ids        []uint32
	tail, head int
}

func newQueue(size int) *queue { return &queue{ids: make([]uint32, size)} }

func (q *queue) len() int { return q.head - q.tail }

func (q *queue) push(id uint32) (at int) {
	q.ids[q.head%len(q.ids)] = id
	q.head++
	return q.head - 1
}

// entry is the place of a session, and what a policy knows of it.
type entry struct {
	in   *queue // nil when the session is not resident
	at   int    // its place there
	uses int    // up to a maximum
}

// entries are the entries of all sessions, by ID.
type entries []entry

func (e entries) append(q *queue, id uint32) { e[id].in, e[id].at = q, q.push(id) }

// pop frees the tail of q, and returns the session that was there, or nil for
// the space of one that was deleted or moved.
func (e entries) pop(q *queue) (id uint32, found *entry) {
	id = q.ids[q.tail%len(q.ids)]
	q.tail++
	if found = &e[id]; found.in == q && found.at == q.tail-1 {
		return id, found
	}
	return id, nil
}

func (e entries) Get(s cachetest.Session, _, _ time.Duration) bool {
	at := &e[s.ID]
	at.uses = min(at.uses+1, 3)
	return at.in != nil
}

// Delete leaves the space of the session taken until it comes to the tail.
func (e entries) Delete(s cachetest.Session, _ time.Duration) { e[s.ID].in = nil }

// clock is FIFO or, with second chances, CLOCK: a session that was used since it
// came to the queue goes round again.
type clock struct {
	entries
	queue        *queue
	secondChance bool
}

func newFIFO(ids, capacity int) cachetest.Policy {
	return &clock{make(entries, ids), newQueue(capacity), false}
}

func newCLOCK(ids, capacity int) cachetest.Policy {
	return &clock{make(entries, ids), newQueue(capacity), true}
}

func (p *clock) Put(s cachetest.Session, _, _ time.Duration) {
	for p.queue.len() == len(p.queue.ids) {
		id, at := p.pop(p.queue)
		switch {
		case at == nil:
		case p.secondChance && at.uses > 0:
			at.uses = 0
			p.append(p.queue, id)
		default:
			at.in = nil
		}
	}
	p.append(p.queue, s.ID)
}

// s3fifo is S3-FIFO: a small queue, a main queue, and a ghost queue of the
// sessions that the small one evicted (Yang et al., FIFO Queues are All You Need
// for Cache Eviction, SOSP 2023, algorithm 1). IDs are never stored twice, so
// that the ghost queue is of no use here and left out.
type s3fifo struct {
	entries
	capacity    int
	small, main *queue
}

func newS3FIFO(ids, capacity int) cachetest.Policy {
	return &s3fifo{make(entries, ids), capacity, newQueue(capacity), newQueue(capacity)}
}

func (p *s3fifo) Put(s cachetest.Session, _, _ time.Duration) {
	for p.small.len()+p.main.len() >= p.capacity {
		if p.small.len() >= p.capacity/10 {
			p.evictSmall()
		} else {
			p.evictMain()
		}
	}
	p.append(p.small, s.ID)
}

func (p *s3fifo) evictSmall() {
	switch id, at := p.pop(p.small); {
	case at == nil:
	case at.uses > 1:
		at.uses = 0
		p.append(p.main, id)
	default:
		at.in = nil
	}
}

func (p *s3fifo) evictMain() {
	for p.main.len() > 0 {
		switch id, at := p.pop(p.main); {
		case at == nil:
			return
		case at.uses == 0:
			at.in = nil
			return
		default:
			at.uses--
			p.append(p.main, id)
		}
	}
}
