package main

import (
	"math/rand/v2"
	"testing"
)

// evicted puts keys 0 to 3 into a cache of four, gets some, puts key 4, and
// returns which of the four is gone.
func evicted(m maker, gets ...uint32) (gone []uint32) {
	p := m(&load{keys: 8}, 4)
	now := 0
	for key := range uint32(4) {
		p.put(key, now)
	}
	for _, key := range gets {
		p.get(key, now)
	}
	p.put(4, now)
	for key := range uint32(4) {
		if !p.get(key, now) {
			gone = append(gone, key)
		}
	}
	return gone
}

func TestVictim(t *testing.T) {
	for _, test := range []struct {
		name string
		make maker
		gets []uint32
		gone uint32
	}{
		{"FIFO ignores hits", newFIFO, []uint32{0}, 0},
		{"LRU", newLRU, []uint32{0, 2}, 1},
		{"SIEVE", newSIEVE, []uint32{0, 1}, 2},
		{"SIEVE, all visited", newSIEVE, []uint32{0, 1, 2, 3}, 0},
		// The window is one entry: key 3 is the candidate, key 0 at the tail.
		{"TinyLFU, a tie keeps the victim", newTinyLFU(chosen), nil, 3},
		{"TinyLFU, a popular candidate", newTinyLFU(chosen), []uint32{3}, 0},
		{"TinyLFU, a used victim is spared", newTinyLFU(chosen), []uint32{0, 3}, 1},
	} {
		if gone := evicted(test.make, test.gets...); len(gone) != 1 || gone[0] != test.gone {
			t.Errorf("%s: %d gone, want %d", test.name, gone, test.gone)
		}
	}
}

// TestBounds holds every policy to its capacity and to the end of entries.
func TestBounds(t *testing.T) {
	const capacity, keys, ttl = 100, 1000, 400
	for _, c := range columns() {
		l := &load{keys: keys, ttl: ttl}
		p := c.make(l, capacity)
		rnd := rand.New(rand.NewPCG(seed, 0))
		stored := make([]int, keys)
		now := 0
		for ; now < 50_000; now++ {
			key := uint32(rnd.ExpFloat64()*capacity) % keys
			if !p.get(key, now) {
				p.put(key, now)
				stored[key] = now
			} else if now-stored[key] >= ttl {
				t.Fatalf("%s: hit %d accesses after it was stored", c.name, now-stored[key])
			}
		}
		resident := 0
		for key := range uint32(keys) {
			if p.get(key, now) {
				resident++
			}
		}
		if resident == 0 || resident > capacity {
			t.Errorf("%s: %d entries resident, capacity %d", c.name, resident, capacity)
		}
		if closer, ok := p.(interface{ close() }); ok {
			closer.close()
		}
	}
}

func TestSketch(t *testing.T) {
	s := newSketch(1000)
	for range 20 {
		s.add(1)
	}
	for range 3 {
		s.add(2)
	}
	if f := s.frequency(1); f != counterMax {
		t.Errorf("frequency %d, want the maximum", f)
	}
	if f := s.frequency(2); f < 3 || f > counterMax {
		t.Errorf("frequency %d, want at least 3", f)
	}
	for key := uint32(3); s.added > 0 && s.frequency(1) == counterMax; key++ {
		s.add(key)
	}
	if f := s.frequency(1); f != counterMax/2 {
		t.Errorf("frequency %d once halved, want %d", f, counterMax/2)
	}
}
