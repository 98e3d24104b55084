//go:build unix

package files_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sessapi/sessapi/internal/files"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	attributes := files.Attributes{Mode: 0o660, UID: os.Getuid(), GID: os.Getgid()}
	listen := func() *files.Socket {
		t.Helper()
		s, err := files.Listen(path, attributes)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}

	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if _, err := files.Listen(path, attributes); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a live socket: %v", err)
	}
	_ = left.Close()
	s := listen() // the socket that is left
	if !s.Intact() {
		t.Error("not intact")
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o666); err != nil || s.Intact() {
		t.Errorf("intact with another mode (%v)", err)
	}
	if err := os.Remove(path); err != nil || s.Intact() {
		t.Errorf("intact without a path (%v)", err)
	}
	next := listen()
	if s.Intact() || !next.Intact() {
		t.Error("the path is the next socket")
	}
	if err := s.Close(); err != nil || !next.Intact() {
		t.Errorf("closing a socket removed another (%v)", err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a closed socket is still there: %v", err)
	}

	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := files.Listen(path, attributes); err == nil || err.Error() != path+" exists and is not a socket" {
		t.Errorf("a file: %v", err)
	}
	path = filepath.Join(path, "s")
	if _, err := files.Listen(path, attributes); err == nil {
		t.Error("listens within a file")
	}
}
