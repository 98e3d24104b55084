package main

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// exposed reports whether another process could have read the memory of this one during
// startup: before it made itself non-dumpable, a process of the same user may have
// opened /proc/PID/mem. If the user cannot read the executable, the kernel makes the
// process non-dumpable from its first instruction (execve(2)). If the user has no other
// process, nobody could have read the memory.
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
		if err != nil { // the process has ended
			continue
		}
		// A non-dumpable process appears as root's here, even another sessapi, which is
		// no threat.
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) == os.Geteuid() && filepath.Base(process) != strconv.Itoa(os.Getpid()) {
			return true
		}
	}
	return false
}
