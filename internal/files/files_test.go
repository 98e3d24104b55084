package files

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
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
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o620: false, 0o640: true, 0o604: true} {
		var log bytes.Buffer
		WarnLoose(slog.New(slog.NewTextHandler(&log, nil)), "TLS key", "key.pem", mode)
		if got := strings.Contains(log.String(), "level=WARN"); got != want {
			t.Errorf("%v: %s", mode, &log)
		}
	}
}

// Files in several directories are followed, and one that comes back.
func TestWatch(t *testing.T) {
	root := t.TempDir()
	one, two := filepath.Join(root, "one", "file"), filepath.Join(root, "two", "file")
	for _, path := range []string{one, two} {
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	content := func(path string) string { data, _ := os.ReadFile(path); return string(data) }
	var seen atomic.Value
	check := func() bool { seen.Store(content(one) + content(two)); return true }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { Watch(ctx, slog.New(slog.DiscardHandler), "test", check, one, two); close(ended) }()
	await := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); seen.Load() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("seen %q, want %q", seen.Load(), want)
			}
		}
	}
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(one, "a")
	await("a")
	write(two, "b")
	await("ab")
	if err := os.RemoveAll(filepath.Dir(two)); err != nil {
		t.Fatal(err)
	}
	await("a")
	write(two, "c")
	await("ac")
	write(two, "d")
	await("ad")
	cancel()
	<-ended
}

// follower runs follow inside a bubble of synctest, with events from the test.
type follower struct {
	failing  atomic.Int64 // checks that fail from the first on
	events   chan fsnotify.Event
	failures chan error
	result   chan error
	checks   atomic.Int64
}

func TestFollow(t *testing.T) {
	event := fsnotify.Event{Name: "/dir/other", Op: fsnotify.Create}
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		run  func(t *testing.T, w *follower)
		want int64 // checks, beside that at the start
	}{
		{"a burst is one check", func(t *testing.T, w *follower) {
			w.events <- event
			time.Sleep(settle / 2)
			w.events <- event
			synctest.Wait()
			if got := w.checks.Load(); got != 1 {
				t.Errorf("checked before it has settled: %d", got)
			}
			time.Sleep(time.Hour)
		}, 1},
		{"events that never end", func(_ *testing.T, w *follower) {
			for range 30 {
				w.events <- event
				time.Sleep(settle / 10)
			}
			time.Sleep(settle)
		}, 3},
		{"lost events", func(_ *testing.T, w *follower) {
			w.failures <- fsnotify.ErrEventOverflow
			time.Sleep(2 * settle)
		}, 1},
		{"watcher breaks", func(t *testing.T, w *follower) {
			w.failures <- broken
			if err := <-w.result; !errors.Is(err, broken) {
				t.Errorf("returned %v", err)
			}
		}, 0},
		{"checks that fail", func(_ *testing.T, w *follower) {
			w.failing.Store(4)
			w.events <- fsnotify.Event{Name: "/dir/file", Op: fsnotify.Write}
			time.Sleep(settle + 10*retry)
		}, 4},
		{"directory goes", func(t *testing.T, w *follower) {
			w.events <- fsnotify.Event{Name: "/dir", Op: fsnotify.Remove}
			if err := <-w.result; err == nil {
				t.Error("returned nil")
			}
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w := &follower{events: make(chan fsnotify.Event), failures: make(chan error), result: make(chan error, 1)}
				go func() {
					w.result <- follow(ctx, func() bool { return w.checks.Add(1) > w.failing.Load() }, []string{"/dir/file"}, w.events, w.failures)
				}()
				synctest.Wait()
				test.run(t, w)
				if got := w.checks.Load() - 1; got != test.want {
					t.Errorf("checked %d times, want %d", got, test.want)
				}
			})
		})
	}
}
