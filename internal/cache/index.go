package cache

import "bytes"

// The index of a shard finds records by the hash of their ID. It is a hash
// table with linear probing whose slots are sorted by hash: the place where a
// hash would be by itself rises with the hash, and whoever is pushed along by
// others keeps the order. So a search ends at the first higher hash, a removal
// closes its gap, and a walk from slot to slot is in an order that no write of
// others changes, which is what a listing needs.
//
// A slot is the upper half of the hash and the ref of the record; 0 is an empty
// one. Records of one half hash, which are rare, are sorted by their ID.
type slot uint64

func newSlot(half uint32, r ref) slot { return slot(half)<<32 | slot(r) }

func (s slot) half() uint32 { return uint32(s >> 32) }
func (s slot) ref() ref     { return ref(uint32(s)) }

// spareSlots follow the slots that hashes have a place of their own in, for
// those that are pushed behind the last.
const spareSlots = 512

// maxLoad is how full the index may be: beyond that the searches get long.
func maxLoad(homes int) int { return homes * 15 / 16 }

// lineSlots is how many slots a cache line has. All hashes that have their place
// in one have it at its start, so that most searches see no other line.
const lineSlots = 8

// home is the place of a half hash.
func (s *shard) home(half uint32) int {
	return int(uint64(half)*uint64(s.homes/lineSlots)>>32) * lineSlots
}

// search returns the slot of the ID, or the one that it would have to have.
func (s *shard) search(half uint32, id *ID) (at int, found bool) {
	for at = s.home(half); at < len(s.index); at++ {
		e := s.index[at]
		if e != 0 && e.half() < half {
			continue
		}
		if e == 0 || e.half() > half {
			return at, false
		}
		other := s.id(e.ref())
		if bytes.Equal(id.b[:id.n], other) {
			return at, true
		}
		if bytes.Compare(id.b[:id.n], other) < 0 {
			return at, false
		}
	}
	return at, false
}

// slotOf returns the slot of a record.
func (s *shard) slotOf(half uint32, r ref) int {
	want := newSlot(half, r)
	at := s.home(half)
	for s.index[at] != want {
		at++
	}
	return at
}

// insert puts a record into the slot that a search returned, and pushes those
// that are there on to the next empty one. It returns false when there is none.
func (s *shard) insert(at int, e slot) bool {
	gap := at
	for gap < len(s.index) && s.index[gap] != 0 {
		gap++
	}
	if gap == len(s.index) {
		return false
	}
	copy(s.index[at+1:gap+1], s.index[at:gap])
	s.index[at] = e
	s.sessions++
	return true
}

// deleteSlot takes a slot out and closes the gap with those behind it that are
// not in their own place.
func (s *shard) deleteSlot(at int) {
	end := at + 1
	for end < len(s.index) && s.index[end] != 0 && s.home(s.index[end].half()) != end {
		end++
	}
	copy(s.index[at:end-1], s.index[at+1:end])
	s.index[end-1] = 0
	s.sessions--
}
