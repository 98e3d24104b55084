package main

import (
	"log/slog"

	"golang.org/x/sys/unix"
)

// otherFiles is more than the service has open besides the connections at --listen.
const otherFiles = 64

// warnOfOpenFiles logs a warning when the process may not open a file for each
// connection. Go has raised the limit as far as the system allows.
func warnOfOpenFiles(log *slog.Logger, connections int) {
	var limit unix.Rlimit
	need := uint64(connections + otherFiles)
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur >= need {
		return
	}
	log.Warn("the limit of open files is too low for --max-connections",
		slog.Uint64("limit", limit.Cur), slog.Uint64("need", need), slog.String("advice", "raise it, as LimitNOFILE= of systemd does, or lower --max-connections"))
}
