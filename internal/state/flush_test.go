package state

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
)

// put stores a session of some length.
func put(t *testing.T, c *cache.Cache, n int) {
	t.Helper()
	o := cache.PutOptions{ExpiresAt: time.Now().Add(time.Hour)}
	if _, err := c.Put(sessionID(n), make([]byte, cache.MaxSize), o); err != nil {
		t.Fatal(err)
	}
}

// pausingDisk stops once at a step until it is told to go on.
type pausingDisk struct {
	files.OS
	step    string
	after   int // this many times of it that go by
	syncs   int // how many files were synced
	reached chan struct{}
	goOn    chan struct{}
}

func (d *pausingDisk) pause(step string) {
	if d.step != step {
		return
	}
	if d.after > 0 {
		d.after--
		return
	}
	d.step = ""
	close(d.reached)
	<-d.goOn
}

func (d *pausingDisk) Create(name string) (files.DiskFile, error) {
	file, err := d.OS.Create(name)
	return pausingFile{file, d}, err
}

func (d *pausingDisk) Rename(from, to string) error {
	d.pause("rename")
	return d.OS.Rename(from, to)
}

type pausingFile struct {
	files.DiskFile
	disk *pausingDisk
}

func (f pausingFile) Write(p []byte) (int, error) {
	f.disk.pause("write")
	return f.DiskFile.Write(p)
}

func (f pausingFile) Sync() error {
	f.disk.pause("sync")
	f.disk.syncs++
	return f.DiskFile.Sync()
}

// A save that is under way does not bring back what a flush removes, and has what
// came behind it. The flush waits for the replacing of the file alone.
func TestFlushDuringSave(t *testing.T) {
	for _, test := range []struct {
		step  string
		after int
		waits bool
	}{
		{"write", 0, false}, // before any session
		{"write", 2, false}, // between sessions
		{"sync", 0, false},
		{"rename", 0, true},
	} {
		d := &pausingDisk{step: test.step, after: test.after, reached: make(chan struct{}), goOn: make(chan struct{})}
		f := openState(t, filepath.Join(t.TempDir(), "state"), newKeys(t), d)
		c := newCache(t)
		const sessions = 5
		for n := range sessions {
			put(t, c, n)
		}
		saved, flushed := make(chan error, 1), make(chan error, 1)
		go func() { saved <- f.SaveSessions(t.Context(), c) }()
		<-d.reached
		go func() {
			n, err := f.FlushSessions(func() (int, error) { return c.Flush(), nil })
			if n != sessions {
				t.Errorf("%s: %d flushed", test.step, n)
			}
			flushed <- err
		}()
		if test.waits {
			close(d.goOn)
		}
		select {
		case err := <-flushed:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: the flush waits for the save", test.step)
		}
		put(t, c, sessions)
		if !test.waits {
			close(d.goOn)
		}
		if err := <-saved; err != nil {
			t.Error(err)
		}
		if test.step == "write" && d.syncs != 1 {
			t.Errorf("%s after %d: what is out of date was written to its end", test.step, test.after)
		}
		restored := newCache(t)
		n, err := f.RestoreSessions(restored, maxTTL)
		if _, _, ok := restored.Peek(nil, sessionID(sessions)); err != nil || n > 1 || !test.waits && !ok {
			t.Errorf("%s after %d: %d sessions are back, the last one of them: %t: %v", test.step, test.after, n, ok, err)
		}
	}
}

// flushing flushes the file, too.
type flushing struct {
	handlers.Sessions
	file *File
}

func (s flushing) Flush(ctx context.Context) (int, error) {
	return s.file.FlushSessions(func() (int, error) { return s.Sessions.Flush(ctx) })
}

// A flush that is not on the disk is answered 503 and recorded as failed, and the
// sessions stay. It works once the disk does.
func TestFlushFaults(t *testing.T) {
	dir := t.TempDir()
	d := new(faultyDisk)
	f := openState(t, filepath.Join(dir, "state"), newKeys(t), d)
	log, err := audit.Open(filepath.Join(dir, "audit"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	c := newCache(t)
	api := handlers.New(handlers.Config{
		Sessions: flushing{handlers.Local(c), f}, Ring: keys.NewRing(time.Now, keys.Lifecycle{}), Audit: log,
		Checks: []handlers.Check{{Name: "state_file", Degraded: f.Health}},
		Log:    discard, Recorder: noRecorder{}, Metrics: http.NotFoundHandler(),
	}).Handler()
	request := func(method, path string) *httptest.ResponseRecorder {
		answer := httptest.NewRecorder()
		api.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), method, "http://localhost"+path, http.NoBody))
		return answer
	}
	for _, step := range []string{"remove", "sync directory"} {
		d.step = ""
		put(t, c, 1)
		if err := f.SaveSessions(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		d.step, d.err = step, syscall.EIO
		if answer := request(http.MethodDelete, "/sessions"); answer.Code != http.StatusServiceUnavailable ||
			!strings.Contains(answer.Body.String(), `"backend_unavailable"`) {
			t.Errorf("%s: %d %s", step, answer.Code, answer.Body)
		}
		if _, _, ok := c.Peek(nil, sessionID(1)); !ok {
			t.Errorf("%s: the session is gone", step)
		}
		lines, err := os.ReadFile(filepath.Join(dir, "audit"))
		if last := lines[strings.LastIndexByte(strings.TrimSpace(string(lines)), '\n')+1:]; err != nil || !strings.Contains(string(last), `"outcome":"failed"`) {
			t.Errorf("%s: recorded %s: %v", step, last, err)
		}
		if answer := request(http.MethodGet, "/readyz"); answer.Code != http.StatusOK ||
			!strings.Contains(strings.ReplaceAll(answer.Body.String(), " ", ""), `"name":"state_file","status":"degraded"`) {
			t.Errorf("%s: /readyz: %d %s", step, answer.Code, answer.Body)
		}
		d.step = ""
		if answer := request(http.MethodDelete, "/sessions"); answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), "1") {
			t.Errorf("%s: afterwards %d %s", step, answer.Code, answer.Body)
		}
		if _, err := os.Stat(f.path + sessionsSuffix); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the file is still there: %v", step, err)
		}
		if err := f.SaveSessions(t.Context(), c); err != nil || f.Failing() {
			t.Errorf("%s: failing after a save: %v", step, err)
		}
	}
}
