//go:build unix

package agent

import (
	"os/exec"
	"syscall"
)

// signals are those that servers reload at.
var signals = map[string]syscall.Signal{"HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2}

func sendSignal(pid int, signal syscall.Signal) error { return syscall.Kill(pid, signal) }

// endGroup has a command end together with all that it has started.
func endGroup(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
}
