//go:build !linux

package cache

import "unsafe"

// allocate takes size bytes of zeros from the Go heap, in one piece and without
// pointers in it.
func allocate(size int) (memory, error) {
	words := make([]uint64, size/wordSize)
	return memory{bytes: unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), size)}, nil
}

// free leaves the memory to the garbage collector.
func (m memory) free() error { return nil }
