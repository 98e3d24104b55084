package cache

import "unsafe"

// memory is what index and data of a cache are in.
type memory struct {
	bytes    []byte
	locked   bool // kept out of swap
	undumped bool // kept out of core dumps
}

const wordSize = 8

// wordsOf is the words of b, which is aligned to them and a multiple of them.
func wordsOf[T ~uint64](b []byte) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/wordSize)
}
