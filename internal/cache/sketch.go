package cache

// sketch remembers about how often IDs were asked for or stored lately, whether
// they are in the cache or not. It is what tells a session that clients come
// back to from one that passes through: a count-min sketch of 4-bit counters
// that are halved now and then, as in TinyLFU (Einziger, Friedman and Manes, ACM
// TOS 2017).
//
// An ID has four counters, one in each quarter of a block of 64 bytes, so that
// it costs one access to memory.
type sketch struct {
	words []uint64
	adds  int // since the last halving
	limit int // of them
}

const (
	blockWords = 8
	maxCount   = 15
	// addsPerSlot is how many additions there are between two halvings, for
	// each slot of the index.
	addsPerSlot = 10
)

// wordsPerSession are kept by shrink. That is more than a sketch has that memory
// bounds, for here it costs none that sessions could have.
const wordsPerSession = 4

// shrink fits an empty sketch to a cache of fewer sessions than the index has
// slots: fewer are new between two halvings, and each of those walks all words.
func (k *sketch) shrink(sessions int) {
	k.limit = min(k.limit, addsPerSlot*sessions)
	k.words = k.words[:min(len(k.words), (wordsPerSession*sessions/blockWords+1)*blockWords)]
}

// counter is a place in a sketch.
type counter struct {
	word  *uint64
	shift uint
}

// counters are the places of an ID's counters.
func (k *sketch) counters(half uint32) (at [4]counter) {
	mixed := (uint64(half) + 1) * 0x9e3779b97f4a7c15 // another order than the index's
	mixed ^= mixed >> 29
	block := (mixed >> 32) * uint64(len(k.words)/blockWords) >> 32 * blockWords
	for i := range at {
		bits := uint(mixed) >> (8 * i)
		at[i] = counter{&k.words[block+uint64(2*i)+uint64(bits&1)], bits >> 1 & 0xf * 4}
	}
	return at
}

// count is how often the ID was added, about.
func (k *sketch) count(half uint32) uint64 {
	lowest := uint64(maxCount)
	for _, at := range k.counters(half) {
		lowest = min(lowest, *at.word>>at.shift&maxCount)
	}
	return lowest
}

// add counts the ID once more.
func (k *sketch) add(half uint32) {
	added := false
	for _, at := range k.counters(half) {
		if *at.word>>at.shift&maxCount < maxCount {
			*at.word += 1 << at.shift
			added = true
		}
	}
	if !added {
		return
	}
	if k.adds++; k.adds >= k.limit {
		k.adds /= 2
		for i, word := range k.words {
			k.words[i] = word >> 1 & 0x7777777777777777
		}
	}
}
