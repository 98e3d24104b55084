//go:build unix

package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// There is a warning only if the connections exceed the limit of open files.
func TestOpenFiles(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	low := before
	low.Cur = 256
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	})
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for connections, want := range map[string]bool{"192": false, "193": true} {
		for _, command := range [][]string{{"check-config"}, {"serve", "--listen=127.0.0.1:0", "--dumpable"}} {
			var stderr bytes.Buffer
			code := run(append(command, "--max-connections="+connections), environment{ctx: stopped, stdout: io.Discard, stderr: &stderr})
			warned := strings.Contains(stderr.String(), "needs 257 open files, but the limit is 256")
			if code != exitOK || warned != want {
				t.Errorf("%s of %s connections: exit code %d, %s", command[0], connections, code, &stderr)
			}
		}
	}
}
