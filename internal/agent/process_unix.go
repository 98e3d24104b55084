//go:build unix

package agent

import (
	"os/exec"
	"syscall"
)

// signals are the signals on which servers reload.
var signals = map[string]syscall.Signal{"HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2}

func sendSignal(pid int, signal syscall.Signal) error { return syscall.Kill(pid, signal) }

// endGroup makes the cancellation of a command kill its process group.
func endGroup(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
}
