package main

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// exposed reports whether another process could have read the memory of this one
// while it started: before it could make itself non-dumpable, a process of the same
// user may have opened /proc/PID/mem. The kernel makes a process non-dumpable from its
// first instruction on when its user cannot read the executable (execve(2)); and a
// user with no other process has nobody who could.
func exposed() bool {
	executable, err := os.Executable()
	if err != nil || unix.Faccessat(unix.AT_FDCWD, executable, unix.R_OK, unix.AT_EACCESS) != nil {
		return false
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		panic(err) // the pattern is a good one
	}
	for _, process := range processes {
		info, err := os.Stat(process)
		if err != nil { // it has ended
			continue
		}
		// A process that is not dumpable shows as root's here, be it a sessapi, which is
		// no threat.
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) == os.Geteuid() && filepath.Base(process) != strconv.Itoa(os.Getpid()) {
			return true
		}
	}
	return false
}
