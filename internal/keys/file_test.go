package keys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// logBuffer collects what is logged, from any goroutine.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) count(level slog.Level) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), "level="+level.String())
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// atsFile returns a key file of these test keys.
func atsFile(numbers ...int) []byte { return written(ATS, testSet(size128, numbers...)) }

// replaceFile renames a new file over path.
func replaceFile(t *testing.T, path string, data []byte) {
	t.Helper()
	writeFile(t, path+".new", data)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func openFile(t *testing.T, path string) (*File, *logBuffer) {
	t.Helper()
	log := new(logBuffer)
	f, err := OpenFile(path, NewRing(clock(), twiceADay), slog.New(slog.NewTextHandler(log, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return f, log
}

// watch runs f.Watch until the test ends.
func watch(t *testing.T, f *File) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Watch(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// eventually waits until f or its ring is in the expected state.
func eventually(t *testing.T, what string, f *File, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen: %s, %+v", what, roster(f.ring.Description()), f.Status())
		}
	}
}

func waitForKeys(t *testing.T, f *File, want string) {
	t.Helper()
	eventually(t, want, f, func() bool { return roster(f.ring.Description()) == want })
}

func push(t *testing.T, r *Ring, numbers ...int) {
	t.Helper()
	if _, err := r.Replace(t.Context(), testSet(size128, numbers...), Update{Source: SourceAPI}); err != nil {
		t.Fatal(err)
	}
}

func TestOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, atsFile(1, 2))
	f, log := openFile(t, path)
	d := f.ring.Description()
	if roster(d) != "c1 p2" || d.Source != SourceFile {
		t.Errorf("%s from %s", roster(d), d.Source)
	}
	s := f.Status()
	if s.Path != path || s.LoadedAt.IsZero() || s.LastError != "" || !s.FailedAt.IsZero() || s.Failures != 0 {
		t.Errorf("status %+v", s)
	}
	if log.count(slog.LevelInfo) != 1 || log.count(slog.LevelError) != 0 {
		t.Errorf("logged %s", log)
	}
}

// A file that other users can read is loaded, with a warning each time.
func TestFileModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	for i, test := range []struct {
		mode fs.FileMode
		warn bool
	}{{0o600, false}, {0o400, false}, {0o640, true}, {0o604, true}, {0o660, true}, {0o620, true}} {
		_ = os.Remove(path)
		writeFile(t, path, atsFile(i))
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		_, log := openFile(t, path)
		if got := log.count(slog.LevelWarn); (got == 1) != test.warn || got > 1 {
			t.Errorf("%v: %d warnings", test.mode, got)
		}
	}
}

// A file is written slowly in place: a part of a key is an error and keeps the set, the
// complete file is then loaded.
func TestHalfWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, atsFile(1))
	f, log := openFile(t, path)
	watch(t, f)
	data := atsFile(2, 3)
	writeFile(t, path, data[:70])
	eventually(t, "the error", f, func() bool { return f.Status().LastError != "" })
	if got := roster(f.ring.Description()); got != "c1" {
		t.Errorf("half a file made %s", got)
	}
	writeFile(t, path, data)
	waitForKeys(t, f, "c2 p3")
	eventually(t, "the end of the error", f, func() bool { return f.Status().LastError == "" })
	if log.count(slog.LevelError) != 1 {
		t.Errorf("logged %s", log)
	}
}

// Two changes within a second, of the same size, both count.
func TestSameSecond(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, atsFile(1))
	f, _ := openFile(t, path)
	watch(t, f)
	now := time.Now().Truncate(time.Second)
	for n := 2; n < 5; n++ {
		writeFile(t, path, atsFile(n))
		if err := os.Chtimes(path, now, now); err != nil {
			t.Fatal(err)
		}
		waitForKeys(t, f, fmt.Sprintf("c%d", n))
	}
}

func TestOpenFileFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys")
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "has no key"},
		{"short", make([]byte, 47), "has 47 of 48 bytes"},
		{"trailing", append(atsFile(1), 0), "has 1 of 48 bytes"},
		{"weak", []byte("mJvOYpyWkYJ8Ov5H0zq3C1cQBmX1S9cApkK/9WBqTn3+aZr8"), "openssl rand 48"},
		{"one byte too many", make([]byte, 64*48+1), "is larger than 3072 bytes, the size of 64 keys"},
		{"large", make([]byte, 1<<20), "is larger than 3072 bytes, the size of 64 keys"},
	} {
		writeFile(t, path, test.data)
		checkOpenFails(t, path, test.want, func(err error) bool { return !errors.Is(err, fs.ErrNotExist) })
	}
	checkOpenFails(t, filepath.Join(dir, "missing"), "no such file", func(err error) bool { return errors.Is(err, fs.ErrNotExist) })
	checkOpenFails(t, dir, "is not a regular file", func(err error) bool { return err != nil })
}

func checkOpenFails(t *testing.T, path, want string, is func(error) bool) {
	t.Helper()
	ring := NewRing(clock(), twiceADay)
	before := ring.Description()
	_, err := OpenFile(path, ring, slog.New(slog.DiscardHandler), nil)
	if err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), path) != 1 || !is(err) {
		t.Errorf("error %v, want %q of %s", err, want, path)
	}
	if !same(ring.Description(), before) {
		t.Errorf("%v changed the ring", err)
	}
}

func TestFileTakes64Keys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	var data []byte
	for n := range 64 {
		data = append(data, atsFile(n)...)
	}
	writeFile(t, path, data)
	f, _ := openFile(t, path)
	if got := len(f.ring.Description().Keys); got != 64 {
		t.Errorf("%d keys", got)
	}
}

func TestWatch(t *testing.T) {
	t.Run("rename", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys")
		writeFile(t, path, atsFile(1))
		f, _ := openFile(t, path)
		watch(t, f)
		for n := 2; n < 5; n++ { // the watch must survive the replacement of its file
			replaceFile(t, path, atsFile(n, n-1))
			waitForKeys(t, f, roster(ringWith(t, testSet(size128, n, n-1)).Description()))
		}
	})
	t.Run("in place", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys")
		writeFile(t, path, atsFile(1))
		f, _ := openFile(t, path)
		watch(t, f)
		writeFile(t, path, atsFile(2, 1))
		waitForKeys(t, f, "c2 p1")
	})
	t.Run("before the watch", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys")
		writeFile(t, path, atsFile(1))
		f, _ := openFile(t, path)
		replaceFile(t, path, atsFile(2))
		watch(t, f)
		waitForKeys(t, f, "c2")
	})
	t.Run("symbolic link", func(t *testing.T) {
		// As Kubernetes mounts secrets: keys is a link to ..data/keys, and
		// ..data one to a directory, which a rename replaces.
		dir := t.TempDir()
		mount := func(version string, data []byte) {
			if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, version, "keys"), data)
			link := filepath.Join(dir, "..data_tmp")
			if err := os.Symlink(version, link); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(link, filepath.Join(dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		mount("..1", atsFile(1))
		path := filepath.Join(dir, "keys")
		if err := os.Symlink("..data/keys", path); err != nil {
			t.Fatal(err)
		}
		f, _ := openFile(t, path)
		watch(t, f)
		mount("..2", atsFile(2, 1))
		waitForKeys(t, f, "c2 p1")
		mount("..3", atsFile(3, 2))
		waitForKeys(t, f, "c3 p2")
	})
	t.Run("symbolic link into another directory", func(t *testing.T) {
		target, path := filepath.Join(t.TempDir(), "keys"), filepath.Join(t.TempDir(), "keys")
		writeFile(t, target, atsFile(1))
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		f, _ := openFile(t, path)
		watch(t, f)
		replaceFile(t, target, atsFile(2))
		waitForKeys(t, f, "c2")
	})
	t.Run("relative path", func(t *testing.T) {
		dir := t.TempDir()
		t.Chdir(dir)
		writeFile(t, "keys", atsFile(1))
		f, _ := openFile(t, "keys")
		t.Chdir(t.TempDir())
		watch(t, f)
		replaceFile(t, filepath.Join(dir, "keys"), atsFile(2))
		waitForKeys(t, f, "c2")
		if got := f.Status().Path; !filepath.IsAbs(got) || filepath.Base(got) != "keys" {
			t.Errorf("path %s", got)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys")
		writeFile(t, path, atsFile(1))
		f, log := openFile(t, path)
		watch(t, f)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a failure", f, func() bool { return f.Status().LastError != "" })
		if d := f.ring.Description(); roster(d) != "c1" {
			t.Errorf("keys %s", roster(d))
		}
		if log.count(slog.LevelError) != 1 {
			t.Errorf("logged %s", log)
		}
		writeFile(t, path, atsFile(2))
		waitForKeys(t, f, "c2")
		eventually(t, "recovery", f, func() bool { return f.Status().LastError == "" })
	})
	t.Run("unreadable", func(t *testing.T) {
		if os.Geteuid() == 0 {
			runAsNobody(t) // root reads every file
			return
		}
		path := filepath.Join(t.TempDir(), "keys")
		writeFile(t, path, atsFile(1))
		f, _ := openFile(t, path)
		watch(t, f)
		if err := os.Chmod(path, 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a failure", f, func() bool { return strings.Contains(f.Status().LastError, "permission denied") })
		push(t, f.ring, 5)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, "recovery", f, func() bool { return f.Status().LastError == "" })
		if d := f.ring.Description(); roster(d) != "c5" {
			t.Errorf("a readable file of old content overrode pushed keys: %s", roster(d))
		}
	})
	t.Run("directory gone and back", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "etc")
		path := filepath.Join(dir, "keys")
		create := func(data []byte) {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, path, data)
		}
		create(atsFile(1))
		f, log := openFile(t, path)
		watch(t, f)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a failure", f, func() bool { return f.Status().LastError != "" })
		create(atsFile(2))
		waitForKeys(t, f, "c2")
		replaceFile(t, path, atsFile(3))
		waitForKeys(t, f, "c3")
		if log.count(slog.LevelError) != 1 {
			t.Errorf("logged %s", log)
		}
	})
}

// runAsNobody runs the calling test again as a user without privileges.
func runAsNobody(t *testing.T) {
	t.Helper()
	// The directories of the test and of its binary are only accessible to root.
	dir, err := os.MkdirTemp("", "sessapi-nobody-") //nolint:usetesting // for the reason above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	const nobody = 65534
	if err := errors.Join(os.Chmod(dir, 0o700), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "keys.test")
	if err := errors.Join(os.WriteFile(program, binary, 0o700), os.Chown(program, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, atsFile(1))
	f, _ := openFile(t, path)
	loaded := f.Status().LoadedAt
	replaceFile(t, path, atsFile(2, 1))
	f.Reload()
	if d := f.ring.Description(); roster(d) != "c2 p1" || d.Source != SourceFile {
		t.Errorf("%s from %s", roster(d), d.Source)
	}
	if got := f.Status().LoadedAt; !got.After(loaded) {
		t.Errorf("loaded at %v, then at %v", loaded, got)
	}
}

// The most recent update wins, from the file or pushed.
func TestMostRecentUpdateWins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, atsFile(1))
	f, _ := openFile(t, path)
	watch(t, f)
	for n := 2; n < 6; n += 2 {
		push(t, f.ring, n)
		if d := f.ring.Description(); roster(d) != roster(ringWith(t, testSet(size128, n)).Description()) || d.Source != SourceAPI {
			t.Errorf("file, then push of %d: %s from %s", n, roster(d), d.Source)
		}
		replaceFile(t, path, atsFile(n+1))
		waitForKeys(t, f, roster(ringWith(t, testSet(size128, n+1)).Description()))
		if d := f.ring.Description(); d.Source != SourceFile {
			t.Errorf("push, then file: from %s", d.Source)
		}
	}
}

// A file whose content was loaded last never overrides pushed keys.
func TestUnchangedContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, atsFile(1))
	f, log := openFile(t, path)
	push(t, f.ring, 2)
	before := f.ring.Description()
	loaded := f.Status().LoadedAt
	for _, change := range []struct {
		name string
		do   func()
	}{
		{"nothing", func() {}},
		{"written again", func() { writeFile(t, path, atsFile(1)) }},
		{"replaced", func() { replaceFile(t, path, atsFile(1)) }},
		{"touched", func() {
			if err := os.Chtimes(path, time.Now(), time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}},
		{"mode", func() {
			if err := os.Chmod(path, 0o400); err != nil {
				t.Fatal(err)
			}
		}},
		{"broken and restored", func() {
			replaceFile(t, path, []byte("broken"))
			f.Reload()
			if f.Status().LastError == "" {
				t.Error("a broken file is fine")
			}
			replaceFile(t, path, atsFile(1))
		}},
		{"gone and restored", func() {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			f.Reload()
			writeFile(t, path, atsFile(1))
		}},
	} {
		change.do()
		f.Reload()
		if d := f.ring.Description(); !same(d, before) {
			t.Errorf("%s: %v, before %v", change.name, d, before)
		}
		if s := f.Status(); s.LastError != "" || !s.LoadedAt.Equal(loaded) {
			t.Errorf("%s: status %+v", change.name, s)
		}
	}
	if log.count(slog.LevelInfo) != 1+7 { // loaded once, and unchanged at each of the changes
		t.Errorf("logged %s", log)
	}
}

// New file content with the keys that are already active is loaded, and changes
// nothing.
func TestContentThatWasPushed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, atsFile(1))
	f, _ := openFile(t, path)
	push(t, f.ring, 2)
	before := f.ring.Description()
	replaceFile(t, path, atsFile(2))
	f.Reload()
	if d := f.ring.Description(); !same(d, before) {
		t.Errorf("%v, before %v", d, before)
	}
	push(t, f.ring, 3)
	f.Reload()
	if d := f.ring.Description(); roster(d) != "c3" {
		t.Errorf("content taken before overrode pushed keys: %s", roster(d))
	}
}

func TestFileFailures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, atsFile(1))
	f, log := openFile(t, path)
	loaded := f.Status().LoadedAt
	secret := "mJvOYpyWkYJ8Ov5H0zq3C1cQBmX1S9cApkK/9WBqTn3+aZr8"
	for i, data := range [][]byte{nil, make([]byte, 47), make([]byte, 48), make([]byte, 4000), []byte(secret), []byte(secret)} {
		replaceFile(t, path, data)
		f.Reload()
		s := f.Status()
		if s.LastError == "" || strings.Contains(s.LastError, path) || s.FailedAt.IsZero() || !s.LoadedAt.Equal(loaded) || s.Failures != uint64(i+1) {
			t.Errorf("%d bytes: status %+v", len(data), s)
		}
		if got := log.count(slog.LevelError); got != i+1 {
			t.Errorf("%d bytes: %d lines: %s", len(data), got, log)
		}
	}
	if d := f.ring.Description(); roster(d) != "c1" {
		t.Errorf("keys %s", roster(d))
	}
	if strings.Contains(log.String(), secret[16:24]) || strings.Contains(f.Status().LastError, secret[16:24]) {
		t.Errorf("a secret is in the log or the status: %s", log)
	}
	replaceFile(t, path, atsFile(2))
	f.Reload()
	if s := f.Status(); s.LastError != "" || !s.FailedAt.IsZero() || !s.LoadedAt.After(loaded) || s.Failures != 6 {
		t.Errorf("status %+v after recovery", s)
	}
}

// A continuing failure is counted once, whatever happens in the directory. One that
// returns is counted again.
func TestRepeatedFailure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, atsFile(1))
	f, _ := openFile(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		f.Check()
	}
	if got := f.Status().Failures; got != 1 {
		t.Errorf("counted %d times", got)
	}
	writeFile(t, path, nil)
	f.Check()
	if got := f.Status(); got.Failures != 2 || !strings.Contains(got.LastError, "no key") {
		t.Errorf("another failure: %+v", got)
	}
	writeFile(t, path, atsFile(1))
	f.Check()
	writeFile(t, path, nil)
	f.Check()
	if got := f.Status(); got.Failures != 3 || got.LastError == "" {
		t.Errorf("a failure that comes back: %+v", got)
	}
}

// Watch ends with its context, even without a file.
func TestWatchEnds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "keys")
	writeFile(t, path, atsFile(1))
	f, log := openFile(t, path)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		f.Watch(ctx)
		close(ended)
	}()
	eventually(t, "a failure", f, func() bool { return log.count(slog.LevelError) == 1 })
	cancel()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("Watch goes on")
	}
}

// Content that cannot be stored is retried at growing intervals, because each try is
// recorded. Other content is tried at once.
func TestFileIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "ticket.key")
		writeFile(t, path, atsFile(1))
		store := new(memoryStore)
		r, err := OpenRing(time.Now, twiceADay, store)
		if err != nil {
			t.Fatal(err)
		}
		log := new(logBuffer)
		tries := 0
		f, err := OpenFile(path, r, slog.New(slog.NewTextHandler(log, nil)), func(_, _ Description, failure error) error {
			if failure == nil {
				tries++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		follow := func(d time.Duration) (tried int) {
			tries = 0
			for range d / time.Second {
				f.Check()
				time.Sleep(time.Second)
			}
			return tries
		}
		store.failWith(errDisk)
		writeFile(t, path, atsFile(2))
		if got := follow(time.Hour); got < 60 || got > 70 {
			t.Errorf("%d tries in an hour", got)
		}
		if roster(r.Description()) != "c1" || f.Status().Failures != 1 || log.count(slog.LevelError) != 1 {
			t.Errorf("%s: %+v", roster(r.Description()), f.Status())
		}
		writeFile(t, path, atsFile(3))
		if got := follow(2 * time.Second); got != 2 {
			t.Errorf("other content is tried %d times", got)
		}
		store.failWith(nil)
		if follow(lastWait); roster(r.Description()) != "c3" || f.Status().LastError != "" {
			t.Errorf("%s: %+v", roster(r.Description()), f.Status())
		}
	})
}

// Content that changes while the store accepts no updates is postponed, which is not a
// failure, and loaded when the store is settled.
func TestFileWaitsForStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "ticket.key")
		writeFile(t, path, atsFile(1))
		shared := new(sharedState)
		r := newShared(t, shared)
		log := new(logBuffer)
		f, err := JoinFile(path, r, slog.New(slog.NewTextHandler(log, nil)), nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { f.Watch(ctx); close(done) }()
		shared.lose(nil)
		replaceFile(t, path, atsFile(2))
		time.Sleep(6 * time.Second)
		if f.Status().LastError == "" || roster(r.Description()) == "c2" {
			t.Errorf("%s: %+v", roster(r.Description()), f.Status())
		}
		shared.settle()
		time.Sleep(6 * time.Second)
		cancel()
		<-done
		if roster(r.Description()) != "c2" || f.Status().LastError != "" || f.Status().Failures != 0 {
			t.Errorf("%s: %+v", roster(r.Description()), f.Status())
		}
		if log.count(slog.LevelError) != 0 || log.count(slog.LevelWarn) != 1 {
			t.Errorf("logged: %s", log)
		}
	})
}
