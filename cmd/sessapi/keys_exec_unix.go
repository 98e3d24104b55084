//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// endGroup makes the end of the command end its children, too.
func endGroup(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGTERM) }
}
