package files

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("12345"), 0o640); err != nil {
		t.Fatal(err)
	}
	if data, mode, err := Read(path, 5); string(data) != "12345" || mode != 0o640 || err != nil {
		t.Errorf("%q %v %v", data, mode, err)
	}
	if _, _, err := Read(path, 4); !errors.Is(err, ErrTooLarge) {
		t.Errorf("beyond the limit: %v", err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir, filepath.Join(dir, "missing")} {
		if _, _, err := Read(path, 5); err == nil || strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestWarnLoose(t *testing.T) {
	for _, test := range []struct {
		mode            fs.FileMode
		secret, trusted bool
	}{
		{0o600, false, false},
		{0o400, false, false},
		{0o711, false, false},
		{0o640, true, false},
		{0o604, true, false},
		{0o620, true, true},
		{0o602, true, true},
		{0o666, true, true},
	} {
		for permissions, want := range map[fs.FileMode]bool{Secret: test.secret, Trusted: test.trusted} {
			var log bytes.Buffer
			WarnLoose(slog.New(slog.NewTextHandler(&log, nil)), "TLS key", "key.pem", test.mode, permissions)
			if got := strings.Contains(log.String(), "level=WARN"); got != want {
				t.Errorf("%v of %v: %s", permissions, test.mode, &log)
			}
		}
	}
}
