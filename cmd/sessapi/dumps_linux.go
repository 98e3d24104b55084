package main

import (
	"errors"

	"golang.org/x/sys/unix"
)

// preventDumps protects the memory of this process from core dumps and from processes
// of the same user: only root can then attach to it or read its /proc/PID (prctl(2),
// PR_SET_DUMPABLE).
func preventDumps() error {
	return errors.Join(
		unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0),
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}),
	)
}
