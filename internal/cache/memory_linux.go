package cache

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// allocate takes size bytes of zeros from the system, which spends memory on
// them only where they are written to. They are outside the Go heap: the
// garbage collector neither reads nor moves them. They stay out of core dumps
// and, where the limit of locked memory allows it (RLIMIT_MEMLOCK), out of swap.
func allocate(size int) (m memory, err error) {
	m.bytes, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return memory{}, err
	}
	// A hint: reads are all over the place, and a large page saves most of them
	// a walk of the page table.
	_ = unix.Madvise(m.bytes, unix.MADV_HUGEPAGE)
	m.undumped = unix.Madvise(m.bytes, unix.MADV_DONTDUMP) == nil
	// mlock(2) would have all of it at once; this locks what comes to be used.
	_, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(unsafe.SliceData(m.bytes))), uintptr(size), unix.MLOCK_ONFAULT)
	m.locked = errno == 0
	return m, nil
}

// free gives the memory back.
func (m memory) free() error { return unix.Munmap(m.bytes) }
