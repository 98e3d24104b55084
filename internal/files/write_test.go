package files

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// names are those of the files in a directory.
func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "keys"), filepath.Join(dir, "link")
	for _, content := range []string{"one", "another", ""} {
		if err := Replace(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if data, mode, err := Read(path, 10); string(data) != content || mode != 0o600 || err != nil {
			t.Errorf("%q %v %v", data, mode, err)
		}
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	// What is in the way of the temporary file is removed, and never written to.
	if err := os.Symlink(path, Temporary(link)); err != nil {
		t.Fatal(err)
	}
	if err := Replace(link, []byte("in place of the link")); err != nil {
		t.Fatal(err)
	}
	if data, _, err := Read(path, 10); len(data) != 0 || err != nil {
		t.Errorf("what the link led to has %q, %v", data, err)
	}
	for _, bad := range []string{dir, filepath.Join(dir, "missing", "keys"), os.DevNull} {
		if Replace(bad, []byte("x")) == nil {
			t.Errorf("%s was replaced", bad)
		}
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("left behind: %q", got)
	}
}

func TestMake(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := Make(path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := Make(path, []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made where a file is: %v", err)
	}
	if data, mode, err := Read(path, 10); string(data) != "one" || mode != 0o600 || err != nil {
		t.Errorf("%q %v %v", data, mode, err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %q", got)
	}
}

// skipUnnamed skips a test on a file system without O_TMPFILE, but not in CI.
func skipUnnamed(t *testing.T) {
	t.Helper()
	const reason = "the file system has no files without a name (O_TMPFILE)"
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// Where files can be without a name, a new one has no other before its own.
func TestMakeNeedsNoOtherName(t *testing.T) {
	dir := t.TempDir()
	file := openUnnamed(dir)
	if file == nil {
		skipUnnamed(t)
	}
	_ = file.Close()
	path := filepath.Join(dir, "key")
	if err := os.MkdirAll(filepath.Join(Temporary(path), "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Make(path, []byte("one")); err != nil {
		t.Error(err)
	}
}

// A file that was not finished has no name.
func TestUnfinished(t *testing.T) {
	dir := t.TempDir()
	file, err := Create(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if !file.unnamed {
		skipUnnamed(t)
	}
	if _, err := file.WriteString("secret"); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left behind: %q", got)
	}
}

const writerVariable = "SESSAPI_TEST_WRITER"

// TestWriterProcess is the process that [TestKilled] kills: it replaces a file over
// and over.
func TestWriterProcess(t *testing.T) {
	path := os.Getenv(writerVariable)
	if path == "" {
		t.Skip("is run by TestKilled")
	}
	contents := [][]byte{bytes.Repeat([]byte("a"), 64<<10), bytes.Repeat([]byte("b"), 64<<10)}
	for i := 0; ; i++ {
		if err := Replace(path, contents[i%2]); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			_, _ = os.Stdout.WriteString("written\n")
		}
	}
}

// Whenever a writer is killed, the file is whole, and no more is left behind than
// one file, which goes at the next start.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys")
	for range 20 {
		writer := exec.Command(os.Args[0], "-test.run=^TestWriterProcess$")
		writer.Env = append(os.Environ(), writerVariable+"="+path)
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		_, readErr := out.Read(make([]byte, 64)) // it writes from here on
		if err := writer.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = writer.Wait() // killed
		if readErr != nil {
			t.Fatal(readErr)
		}
		data, _, err := Read(path, 64<<10)
		if err != nil || len(data) != 64<<10 || bytes.Count(data, data[:1]) != len(data) {
			t.Errorf("the file has %d bytes, %v", len(data), err)
		}
		if got := names(t, dir); len(got) > 2 {
			t.Fatalf("left behind: %q", got)
		}
	}
	if err := RemoveTemporary(path); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind after the next start: %q", got)
	}
}

// Where no file can be, there is none to remove, and the error of making one names the
// folder.
func TestReplaceWithoutFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{filepath.Join(dir, "missing"), file} {
		path := filepath.Join(folder, "keys")
		if err := RemoveTemporary(path); err != nil {
			t.Errorf("%s: %v", folder, err)
		}
		if err := Replace(path, []byte("x")); err == nil || !strings.HasPrefix(err.Error(), "create a file in "+folder+": ") {
			t.Errorf("%s: %v", folder, err)
		}
	}
}

// Servers that look at times in whole seconds see every change, however fast they follow.
func TestReplaceMovesTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	last := time.Now().Truncate(time.Second)
	for i := range 5 {
		if err := Replace(path, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.ModTime().Truncate(time.Second); !got.After(last) {
			t.Errorf("change %d has the time %v after %v", i, got, last)
		} else {
			last = got
		}
	}
}
