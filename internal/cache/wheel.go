package cache

// wheel finds the records of a shard that have come to their end. It is a
// hierarchical timing wheel (Varghese and Lauck, SOSP '87): lists of records by
// the tick of their end, one list a tick for the near ones, one for many ticks
// for later ones. A list of an upper level is spread over the level below when
// its time comes.
type wheel struct {
	tick  int64 // all earlier ones are done
	lists [nearLists + midLists + farLists]ref
}

// A tick is 2^8 ms. The levels, one behind the other in wheel.lists, have lists
// of 1, 2^7 and 2^14 ticks, and so reach 33 s, 70 min and 12 days ahead.
const (
	tickShift = 8
	nearShift = 7
	midShift  = 7
	nearLists = 1 << nearShift
	midLists  = 1 << midShift
	farLists  = 256
)

// list is the list for records that end in the tick. It is never one of an
// upper level whose time has come, for that is being spread.
func (w *wheel) list(tick int64) int {
	tick = max(tick, w.tick)
	mid, midNow := tick>>nearShift, w.tick>>nearShift
	switch far, farNow := mid>>midShift, midNow>>midShift; {
	case tick-w.tick < nearLists:
		return int(tick % nearLists)
	case mid-midNow < midLists:
		return nearLists + int(mid%midLists)
	default: // what ends later than the wheel reaches is put off to its last list
		return nearLists + midLists + int(min(far, farNow+farLists-1)%farLists)
	}
}

// due is the list that has to be empty before the tick is done: those of the
// upper levels whose time comes with it, and then its own.
func (w *wheel) due() int {
	mid := w.tick >> nearShift
	if w.tick%nearLists == 0 {
		if far := nearLists + midLists + int((mid>>midShift)%farLists); mid%midLists == 0 && w.lists[far] != 0 {
			return far
		}
		if list := nearLists + int(mid%midLists); w.lists[list] != 0 {
			return list
		}
	}
	return int(w.tick % nearLists)
}

// The lists are doubly linked through the neighbours that a record has in its
// word 2. For the first of a list prev is the number of the list and firstMark.
const firstMark = 1 << 31

func (s *shard) neighbours(r ref) (prev uint32, next ref) {
	return uint32(s.words[r+2] >> 32), ref(uint32(s.words[r+2]))
}

func (s *shard) setNeighbours(r ref, prev uint32, next ref) {
	s.words[r+2] = uint64(prev)<<32 | uint64(next)
}

// link puts a record into the list of its end.
func (s *shard) link(r ref) {
	list := s.wheel.list(s.end(r) >> tickShift)
	s.setNeighbours(r, firstMark|uint32(list), s.wheel.lists[list])
	s.join(r)
}

// join makes the neighbours that a record has those that have it.
func (s *shard) join(r ref) {
	prev, next := s.neighbours(r)
	s.setBehind(prev, r)
	if next != 0 {
		_, after := s.neighbours(next)
		s.setNeighbours(next, uint32(r), after)
	}
}

// unlink takes a record out of its list.
func (s *shard) unlink(r ref) {
	prev, next := s.neighbours(r)
	s.setBehind(prev, next)
	if next != 0 {
		_, after := s.neighbours(next)
		s.setNeighbours(next, prev, after)
	}
}

// setBehind makes r the one behind prev, a record or a list.
func (s *shard) setBehind(prev uint32, r ref) {
	if prev&firstMark != 0 {
		s.wheel.lists[prev&^firstMark] = r
		return
	}
	before, _ := s.neighbours(ref(prev))
	s.setNeighbours(ref(prev), before, r)
}
