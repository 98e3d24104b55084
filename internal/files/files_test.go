package files

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
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

func TestReadAll(t *testing.T) {
	for _, size := range []int{1, 4, 8, 9} {
		r := &remembering{r: iotest.OneByteReader(strings.NewReader("12345678"))}
		data, err := ReadAll(r, size, 8)
		if string(data) != "12345678" || err != nil {
			t.Errorf("%d: %q %v", size, data, err)
		}
		clear(data)
		r.wantWiped(t)
	}
	for _, r := range []io.Reader{
		strings.NewReader("123456789"),
		io.MultiReader(strings.NewReader("1234"), iotest.ErrReader(errors.New("reset"))),
	} {
		r := &remembering{r: r}
		if data, err := ReadAll(r, 2, 8); data != nil || err == nil {
			t.Errorf("%q %v", data, err)
		}
		r.wantWiped(t)
	}
}

// remembering remembers the memory that is read into.
type remembering struct {
	r      io.Reader
	memory [][]byte
}

func (m *remembering) Read(p []byte) (int, error) {
	m.memory = append(m.memory, p)
	return m.r.Read(p)
}

func (m *remembering) wantWiped(t *testing.T) {
	t.Helper()
	for _, p := range m.memory {
		if !bytes.Equal(p, make([]byte, len(p))) {
			t.Errorf("left in memory: %q", p)
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
