package files

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestParseMode(t *testing.T) {
	for text, want := range map[string]fs.FileMode{"0600": 0o600, "600": 0o600, "0640": 0o640, "0400": 0o400, "0440": 0o440} {
		if got, err := ParseMode(text); got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "0", "0644", "0660", "0700", "0200", "1600", "0o600", "-600", "u=rw"} {
		if mode, err := ParseMode(bad); err == nil {
			t.Errorf("%q: %v", bad, mode)
		}
	}
}

func TestParseOwner(t *testing.T) {
	for text, want := range map[string][2]int{
		"":        {-1, -1},
		"root":    {0, -1},
		"root:0":  {0, 0},
		":7":      {-1, 7},
		"12:root": {12, 0},
		"12:":     {12, -1},
	} {
		if uid, gid, err := ParseOwner(text); uid != want[0] || gid != want[1] || err != nil {
			t.Errorf("%q: %d, %d, %v", text, uid, gid, err)
		}
	}
	for _, bad := range []string{"no-such-user", ":no-such-group", "-2", "1:2:3", "4294967296"} {
		if uid, gid, err := ParseOwner(bad); err == nil {
			t.Errorf("%q: %d, %d", bad, uid, gid)
		}
	}
}

func TestReplaceAs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	whatever := Attributes{Mode: 0o440, UID: -1, GID: -1}
	a := Attributes{Mode: 0o440, UID: os.Getuid(), GID: os.Getgid()}
	if Is(path, nil, whatever) {
		t.Error("a file is there before it is written")
	}
	if err := ReplaceAs(path, []byte("one"), a); err != nil {
		t.Fatal(err)
	}
	other := a
	other.UID++
	for _, test := range []struct {
		data string
		a    Attributes
		want bool
	}{
		{"one", a, true},
		{"one", whatever, true},
		{"two", whatever, false},
		{"on", whatever, false},
		{"one and more", whatever, false},
		{"one", Attributes{Mode: 0o400, UID: -1, GID: -1}, false},
		{"one", other, false},
	} {
		if got := Is(path, []byte(test.data), test.a); got != test.want {
			t.Errorf("%q with %v: %v", test.data, test.a, got)
		}
	}
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if Is(link, []byte("one"), whatever) {
		t.Error("a link is taken for the file")
	}
	if os.Getuid() != 0 && ReplaceAs(path, []byte("two"), Attributes{Mode: 0o600, UID: 0, GID: -1}) == nil {
		t.Error("anybody can give a file to root")
	}
}

// A file that is a mount of its own, as containers have them, cannot be replaced, and
// the error says what to do.
func TestReplaceMount(t *testing.T) {
	dir := t.TempDir()
	source, path := filepath.Join(dir, "source"), filepath.Join(dir, "keys")
	for _, name := range []string{source, path} {
		if err := os.WriteFile(name, []byte("as it was"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("mount", "--bind", source, path).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v: %s", err, out)
		}
		t.Skipf("mounting needs root: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, 0); err != nil {
			t.Error(err)
		}
	})
	err := Replace(path, []byte("new"))
	if !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "mount the directory "+dir+" instead") {
		t.Errorf("%v", err)
	}
	if data, _, err := Read(path, 100); string(data) != "as it was" || err != nil {
		t.Errorf("the file has %q, %v", data, err)
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("left behind: %q", got)
	}
}
