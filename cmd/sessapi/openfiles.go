//go:build unix

package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// otherFiles is more than the service has open besides the connections at --listen.
const otherFiles = 64

// fewOpenFiles is a warning when the process may not open a file for each connection,
// else nil. Go has raised the limit as far as the system allows.
func fewOpenFiles(connections int) error {
	var limit unix.Rlimit
	need := uint64(connections + otherFiles)
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && uint64(limit.Cur) < need { //nolint:unconvert // signed on FreeBSD
		return fmt.Errorf("--max-connections=%d needs %d open files, but the limit is %d: raise it (systemd: LimitNOFILE=), or lower --max-connections",
			connections, need, limit.Cur)
	}
	return nil
}
