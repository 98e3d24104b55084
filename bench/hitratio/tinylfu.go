package main

import "math/rand/v2"

// tinyLFU is W-TinyLFU on two rings. A new entry goes to the window. What falls
// out of it is a candidate for the main ring, where it competes with the entry
// at the tail: the one that the sketch says is less popular goes. An entry at
// the tail that was used is first spared, at the price of one use: it is moved
// to the head, as by a CLOCK with a counter.
type tinyLFU struct {
	entries
	tinyLFUConfig
	window, main *ring
	sketch       *sketch
	random       *rand.Rand
}

type tinyLFUConfig struct {
	window    int  // percent of the capacity
	usedMax   int  // uses that are remembered of an entry
	sparedMax int  // entries moved to the head for one candidate
	countAll  bool // add hits to the sketch also when usedMax is reached
}

// chosen is what the session cache uses.
var chosen = tinyLFUConfig{window: 1, usedMax: 7, sparedMax: 8, countAll: true}

// A candidate that lost is admitted all the same one time in luckOf, if its
// frequency is luckFrom or more. Otherwise an entry at the tail that nobody
// uses any more, but whose frequency was driven up, shuts out all others until
// the counters are halved. The figures are otter's.
const (
	luckFrom = 6
	luckOf   = 128
)

func newTinyLFU(cfg tinyLFUConfig) maker {
	return func(l *load, capacity int) policy {
		window := max(1, capacity*cfg.window/100)
		return &tinyLFU{
			newEntries(l), cfg,
			newRing(window), newRing(capacity - window), newSketch(capacity),
			rand.New(rand.NewPCG(seed, 2)),
		}
	}
}

func (p *tinyLFU) get(key uint32, now int) bool {
	e := p.live(key, now)
	if e == nil {
		return false
	}
	if p.countAll || e.used < p.usedMax {
		p.sketch.add(key)
	}
	e.used = min(e.used+1, p.usedMax)
	return true
}

func (p *tinyLFU) put(key uint32, now int) {
	p.sketch.add(key)
	if p.window.len() == len(p.window.keys) {
		candidate, e := p.oldest(p.window, now)
		p.window.pop()
		if e != nil {
			p.offer(candidate, now)
		}
	}
	p.insert(p.window, key, now)
}

// offer moves the candidate to the main ring or drops it.
func (p *tinyLFU) offer(candidate uint32, now int) {
	if p.main.len() == len(p.main.keys) && !p.makeRoom(candidate, now) {
		p.of[candidate].in = nil
		return
	}
	p.of[candidate].used = 0
	p.move(p.main, candidate)
}

// makeRoom frees the tail of the main ring unless what is there is to be kept
// rather than the candidate.
func (p *tinyLFU) makeRoom(candidate uint32, now int) bool {
	for spared := 0; ; spared++ {
		key, victim := p.oldest(p.main, now)
		switch {
		case victim == nil:
		case victim.used > 0 && spared < p.sparedMax:
			victim.used--
			p.main.pop()
			p.move(p.main, key)
			continue
		case p.wins(candidate, key):
			victim.in = nil
		default:
			return false
		}
		p.main.pop()
		return true
	}
}

func (p *tinyLFU) wins(candidate, victim uint32) bool {
	frequency := p.sketch.frequency(candidate)
	return frequency > p.sketch.frequency(victim) ||
		frequency >= luckFrom && p.random.IntN(luckOf) == 0
}

// sharded divides the capacity among parts that know nothing of each other.
type sharded struct{ parts []policy }

func newSharded(parts int, part maker) maker {
	return func(l *load, capacity int) policy {
		p := &sharded{}
		for i := range parts {
			p.parts = append(p.parts, part(l, (capacity+i)/parts))
		}
		return p
	}
}

// of returns the part of a key, by a hash unrelated to that of the sketch.
func (p *sharded) of(key uint32) policy { return p.parts[mix(^key)%uint64(len(p.parts))] }

func (p *sharded) get(key uint32, now int) bool { return p.of(key).get(key, now) }
func (p *sharded) put(key uint32, now int)      { p.of(key).put(key, now) }
