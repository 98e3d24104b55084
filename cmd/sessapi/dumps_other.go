//go:build unix && !linux

package main

import "syscall"

// preventDumps prevents core dumps of this process. No call here protects its memory
// from processes of the same user.
func preventDumps() error { return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
