//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// endGroup makes the command end with all that it has started.
func endGroup(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGTERM) }
}
