//go:build !unix

package agent

import (
	"errors"
	"os/exec"
	"syscall"
)

var signals = map[string]syscall.Signal{}

func sendSignal(int, syscall.Signal) error { return errors.ErrUnsupported }

// endGroup does nothing where there are no process groups.
func endGroup(*exec.Cmd) {}
