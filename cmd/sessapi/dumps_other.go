//go:build unix && !linux

package main

import "syscall"

// preventDumps keeps the memory of this process from core dumps. There is no
// call here that keeps the processes of the same user away.
func preventDumps() error { return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
