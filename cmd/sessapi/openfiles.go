//go:build unix

package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// otherFiles is more files than the service opens besides the connections at --listen.
const otherFiles = 64

// fewOpenFiles returns a warning if the open file limit is too low for all connections,
// else nil. Go has already raised the limit as far as the system permits.
func fewOpenFiles(connections int) error {
	var limit unix.Rlimit
	need := uint64(connections + otherFiles)
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && uint64(limit.Cur) < need { //nolint:unconvert // signed on FreeBSD
		return fmt.Errorf("--max-connections=%d needs %d open files, but the limit is %d: raise it (systemd: LimitNOFILE=), or lower --max-connections",
			connections, need, limit.Cur)
	}
	return nil
}
