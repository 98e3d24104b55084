package cache

import "syscall"

// wallClock is the wall time in milliseconds. time.Now reads a second clock, for
// its monotonic part, which takes as long again; this one needs no system call
// either.
func wallClock() int64 {
	var t syscall.Timeval
	if err := syscall.Gettimeofday(&t); err != nil {
		panic(err) // it fails for a bad pointer alone
	}
	return max(t.Sec*1000+t.Usec/1000, 0)
}
