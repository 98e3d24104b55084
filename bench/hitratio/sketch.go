package main

// sketch is a count-min sketch of 4-bit counters, which estimates how often a
// key was seen lately (Einziger, Friedman and Manes, TinyLFU, ACM TOS 2017).
// The four counters of a key lie in one block of 64 bytes, one in each quarter
// of it, so that an operation touches one cache line.
type sketch struct {
	words    []uint64 // 16 counters each
	added    int
	addedMax int // then all counters are halved
}

const (
	blockWords  = 8
	counterMax  = 15
	countersPer = 16 // per entry of the cache: 8 bytes
	addedPer    = 12 // per entry of the cache, between two halvings
)

func newSketch(capacity int) *sketch {
	blocks := (capacity*countersPer/16 + blockWords - 1) / blockWords
	return &sketch{words: make([]uint64, blocks*blockWords), addedMax: addedPer * capacity}
}

// counter returns the word and the shift of the key's i-th counter. The high
// half of the hash picks the block, five bits of each byte of the low half a
// counter in a quarter of it.
func (s *sketch) counter(hash uint64, i int) (word *uint64, shift uint64) {
	block := hash >> 32 * uint64(len(s.words)/blockWords) >> 32
	bits := hash >> (8 * i)
	return &s.words[block*blockWords+uint64(2*i)+bits&1], bits >> 1 & 15 * 4
}

// frequency returns the estimate for a key, 0 to counterMax.
func (s *sketch) frequency(key uint32) int {
	hash := mix(key)
	lowest := uint64(counterMax)
	for i := range 4 {
		word, shift := s.counter(hash, i)
		lowest = min(lowest, *word>>shift&counterMax)
	}
	return int(lowest)
}

// add counts the key once more.
func (s *sketch) add(key uint32) {
	hash := mix(key)
	added := false
	for i := range 4 {
		word, shift := s.counter(hash, i)
		if *word>>shift&counterMax < counterMax {
			*word += 1 << shift
			added = true
		}
	}
	if !added {
		return
	}
	s.added++
	if s.added == s.addedMax {
		for i, word := range s.words {
			s.words[i] = word >> 1 & 0x7777777777777777
		}
		s.added /= 2
	}
}

// mix spreads a key over 64 bits (the finalizer of SplitMix64).
func mix(key uint32) uint64 {
	h := uint64(key) + 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
