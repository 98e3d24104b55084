//go:build amd64 || arm64

package cache

import "unsafe"

// Memory is far: a Get waits for the index and then for the record, each as long
// as everything else takes. A prefetch has the processor fetch a line while the
// goroutine goes on, and all lines of a record side by side. It is not an access:
// it needs no lock, and an address that is not mapped is no error.

// prefetchLine fetches the cache line at p.
//
//go:noescape
func prefetchLine(p unsafe.Pointer)

// prefetchRecord fetches the 216 bytes from p on: a record with an ID of 32 bytes
// and a session of 160, as servers store them without a client certificate.
//
//go:noescape
func prefetchRecord(p unsafe.Pointer)
