package state

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/seal"
)

const maxTTL = 168 * time.Hour

var discard = slog.New(slog.DiscardHandler)

func newKeys(t *testing.T) *seal.Keys {
	t.Helper()
	k, err := seal.ParseKeys(seal.GenerateKey())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newCache(t testing.TB) *cache.Cache {
	t.Helper()
	c, err := cache.New(cache.Config{Memory: 4 << 20, MaxSessionBytes: cache.MaxSize})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func openState(t *testing.T, path string, k *seal.Keys, d files.Disk) *File {
	t.Helper()
	f, err := open(path, k, discard, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func sessionID(n int) cache.ID {
	id, _ := cache.MakeID(bytes.Repeat([]byte{byte(n), byte(n >> 8), 1}, 1+n%10))
	return id
}

func TestSessions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	f := openState(t, path, newKeys(t), files.OS{})
	c := newCache(t)
	if n, err := f.RestoreSessions(c, maxTTL); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	now := time.Now()
	const sessions = 2500
	for i := range sessions {
		data := bytes.Repeat([]byte{byte(i)}, 1+i%700)
		if i == 0 {
			data = make([]byte, cache.MaxSize)
		}
		o := cache.PutOptions{StoredAt: now.Add(-time.Hour), ExpiresAt: now.Add(time.Hour), Mark: uint8(i)}
		if _, err := c.Put(sessionID(i), data, o); err != nil {
			t.Fatal(err)
		}
	}
	ending := cache.PutOptions{ExpiresAt: time.Now().Add(300 * time.Millisecond)}
	last := sessionID(sessions)
	if _, err := c.Put(last, []byte{1}, ending); err != nil {
		t.Fatal(err)
	}
	hits := c.Stats().Hits
	if err := f.SaveSessions(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if s := c.Stats(); s.Hits != hits || s.Misses != 0 {
		t.Error("saving counts as lookups")
	}
	time.Sleep(time.Until(ending.ExpiresAt))
	restored := newCache(t)
	if n, err := f.RestoreSessions(restored, maxTTL); n != sessions || err != nil {
		t.Fatal(n, err)
	}
	for i := range sessions {
		want, wantEntry, _ := c.Peek(nil, sessionID(i))
		got, entry, ok := restored.Peek(nil, sessionID(i))
		if !ok || !bytes.Equal(got, want) || entry != wantEntry {
			t.Fatalf("session %d: %+v, want %+v", i, entry, wantEntry)
		}
	}
	if s := f.Status(); s.Sessions.SavedAt.IsZero() || s.Sessions.Failures != 0 {
		t.Errorf("%+v", s)
	}
}

func TestConsumers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	f := openState(t, path, newKeys(t), files.OS{})
	if state, err := f.LoadConsumers(); state != nil || err != nil { // an earlier version wrote none
		t.Fatal(state, err)
	}
	large := bytes.Repeat([]byte("consumer"), 1<<19)
	for _, want := range [][]byte{[]byte("first"), large, []byte("last")} {
		if err := f.SaveConsumers(want); err != nil {
			t.Fatal(err)
		}
		if got, err := f.LoadConsumers(); !bytes.Equal(got, want) || err != nil {
			t.Errorf("%.20s %v", got, err)
		}
	}
	if s := f.Status(); s.Consumers.SavedAt.IsZero() || s.Consumers.Failures != 0 || f.Failing() {
		t.Errorf("%+v", s)
	}
}

// What does not open is refused with what to do, and left as it is.
func TestUnreadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	sealKeys := newKeys(t)
	f := openState(t, path, sealKeys, files.OS{})
	c := newCache(t)
	if _, err := c.Put(sessionID(1), []byte("session"), cache.PutOptions{ExpiresAt: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Save(t.Context(), []byte("state")), f.SaveSessions(t.Context(), c), f.SaveConsumers([]byte("consumers")), f.Close()); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, path := range []string{path, path + "-missing"} {
		if err := errors.Join(Check(path, sealKeys), CheckSessions(path, sealKeys), CheckConsumers(path, sealKeys)); err != nil {
			t.Error(err)
		}
	}
	whole, sessions, consumers := read(path), read(path+sessionsSuffix), read(path+consumersSuffix)
	flipped := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	for _, test := range []struct {
		name                      string
		keys, sessions, consumers []byte
		with                      *seal.Keys
		want                      error
	}{
		{"wrong key", whole, sessions, consumers, newKeys(t), seal.ErrUnknownKey},
		{"flipped bit", flipped(whole, len(whole)-20), flipped(sessions, len(sessions)-20), flipped(consumers, len(consumers)-20), sealKeys, seal.ErrCorrupt},
		{"cut off", whole[:len(whole)-1], sessions[:len(sessions)-1], consumers[:len(consumers)-1], sealKeys, seal.ErrCorrupt},
		{"empty", nil, nil, nil, sealKeys, seal.ErrCorrupt},
		{"swapped", consumers, whole, sessions, sealKeys, seal.ErrCorrupt},
		{"of the future", append([]byte{2}, whole[1:]...), append([]byte{2}, sessions[1:]...), append([]byte{2}, consumers[1:]...), sealKeys, seal.ErrVersion},
	} {
		for name, data := range map[string][]byte{path: test.keys, path + sessionsSuffix: test.sessions, path + consumersSuffix: test.consumers} {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f := openState(t, path, test.with, files.OS{})
		_, err := keys.OpenRing(time.Now, keys.Lifecycle{}, f)
		_, sessionsErr := f.RestoreSessions(newCache(t), maxTTL)
		_, consumersErr := f.LoadConsumers()
		for _, err := range []error{err, sessionsErr, consumersErr, Check(path, test.with), CheckSessions(path, test.with), CheckConsumers(path, test.with)} {
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move") {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		if !bytes.Equal(read(path), test.keys) || !bytes.Equal(read(path+sessionsSuffix), test.sessions) || !bytes.Equal(read(path+consumersSuffix), test.consumers) {
			t.Errorf("%s: written to", test.name)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	var left []string
	for _, path := range []string{path, path + sessionsSuffix, path + consumersSuffix} {
		left = append(left, files.Temporary(path), path+oldTemporarySuffix)
	}
	for _, name := range left {
		if err := os.WriteFile(name, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := openState(t, path, newKeys(t), files.OS{})
	for _, name := range left {
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what a crash left is still there: %s", name)
		}
	}
	if _, err := Open(path, newKeys(t), discard); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	_ = f.Close()
	openState(t, path, newKeys(t), files.OS{})
}

// faultyDisk fails at one step.
type faultyDisk struct {
	files.OS
	step string
	err  error
	once bool // and then works again
}

func (d *faultyDisk) fails(step string) error {
	if d.step != step {
		return nil
	}
	if d.once {
		d.step = ""
	}
	return d.err
}

func (d *faultyDisk) Create(name string) (files.DiskFile, error) {
	if err := d.fails("create"); err != nil {
		return nil, err
	}
	file, err := d.OS.Create(name)
	return faultyFile{file, d}, err
}

func (d *faultyDisk) Rename(from, to string) error {
	if err := d.fails("rename"); err != nil {
		return err
	}
	return d.OS.Rename(from, to)
}

func (d *faultyDisk) Remove(name string) error {
	if err := d.fails("remove"); err != nil {
		return err
	}
	return d.OS.Remove(name)
}

func (d *faultyDisk) SyncDir(name string) error {
	if err := d.fails("sync directory"); err != nil {
		return err
	}
	return d.OS.SyncDir(name)
}

type faultyFile struct {
	files.DiskFile
	disk *faultyDisk
}

func (f faultyFile) Write(p []byte) (int, error) {
	if err := f.disk.fails("write"); err != nil {
		return 0, err
	}
	if err := f.disk.fails("short write"); err != nil {
		n, _ := f.DiskFile.Write(p[:len(p)/2])
		return n, err
	}
	return f.DiskFile.Write(p)
}

func (f faultyFile) Sync() error  { return errors.Join(f.disk.fails("sync"), f.DiskFile.Sync()) }
func (f faultyFile) Close() error { return errors.Join(f.disk.fails("close"), f.DiskFile.Close()) }

type noRecorder struct{}

func (noRecorder) Request(string, string, int, time.Duration) {}
func (noRecorder) Problem(string)                             {}

// Whatever fails on the disk, an update answers 503, nothing of it stays, and the
// next works once the disk does.
func TestFaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	sealKeys, d := newKeys(t), new(faultyDisk)
	f := openState(t, path, sealKeys, d)
	ring, err := keys.OpenRing(time.Now, keys.Lifecycle{}, f)
	if err != nil {
		t.Fatal(err)
	}
	api := handlers.New(handlers.Config{Ring: ring, Log: discard, Recorder: noRecorder{}, Metrics: http.NotFoundHandler()}).Handler()
	post := func() *httptest.ResponseRecorder {
		set := keys.Generate(128, 1)
		body := keys.ATS.Append(nil, set)
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/ticket-keys", bytes.NewReader(body))
		request.Header.Set("Content-Type", "application/octet-stream")
		answer := httptest.NewRecorder()
		api.ServeHTTP(answer, request)
		return answer
	}
	c := newCache(t)
	if err := f.SaveSessions(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	stored := func() uint64 {
		t.Helper()
		copied := filepath.Join(t.TempDir(), "state")
		for _, suffix := range []string{"", sessionsSuffix} {
			data, err := os.ReadFile(path + suffix)
			if err == nil {
				err = os.WriteFile(copied+suffix, data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		other := openState(t, copied, sealKeys, files.OS{})
		r, err := keys.OpenRing(time.Now, keys.Lifecycle{}, other)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.RestoreSessions(c, maxTTL); err != nil {
			t.Error(err)
		}
		return r.Generation()
	}
	failures := uint64(0)
	for _, step := range []string{"create", "write", "short write", "sync", "close", "rename", "sync directory"} {
		for _, fault := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EIO, io.ErrShortWrite} {
			before := ring.Generation()
			d.step, d.err = step, fault
			answer := post()
			if answer.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Body.String(), `"backend_unavailable"`) {
				t.Errorf("%s: %v: %d %s", step, fault, answer.Code, answer.Body)
			}
			if err := f.SaveSessions(t.Context(), c); !errors.Is(err, fault) {
				t.Errorf("%s: sessions: %v", step, err)
			}
			failures++
			if ring.Generation() != before || stored() != before {
				t.Errorf("%s: %v: %d is active and %d stored, want %d", step, fault, ring.Generation(), stored(), before)
			}
			if _, err := os.Stat(files.Temporary(path)); err == nil {
				t.Errorf("%s: the temporary file stays", step)
			}
			d.step = ""
			if answer := post(); answer.Code != http.StatusOK || stored() != ring.Generation() || ring.Generation() <= before {
				t.Errorf("%s: afterwards %d %s", step, answer.Code, answer.Body)
			}
		}
	}
	if s := f.Status(); s.Keys.Failures != failures || s.Sessions.Failures != failures || s.Keys.NotUndone != 4 {
		t.Errorf("%+v, want %d failures each, and 4 not undone", s, failures)
	}
}

// An update that was refused and cannot be undone for certain is said to be.
func TestNotUndone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	d := &faultyDisk{err: syscall.EIO}
	f := openState(t, path, newKeys(t), d)
	if err := f.Save(t.Context(), []byte("acknowledged")); err != nil {
		t.Fatal(err)
	}
	for _, undone := range []bool{true, false} {
		d.step, d.once = "sync directory", undone
		err := f.Save(t.Context(), []byte("refused"))
		if !errors.Is(err, syscall.EIO) || strings.Contains(err.Error(), "after a crash") == undone {
			t.Errorf("undone: %t: %v", undone, err)
		}
		if s := f.Status().Keys; !s.Failing || !f.Failing() || (s.NotUndone == 0) != undone {
			t.Errorf("undone: %t: %+v", undone, s)
		}
		if state, err := f.Load(t.Context()); err != nil || string(state) != "acknowledged" {
			t.Errorf("%q is in the file: %v", state, err)
		}
	}
	d.step = ""
	if err := f.Save(t.Context(), []byte("next")); err != nil || f.Failing() {
		t.Errorf("failing after a save: %v", err)
	}
}

// A session does not outlive a longest life that was made shorter.
func TestRestoreShortens(t *testing.T) {
	f := openState(t, filepath.Join(t.TempDir(), "state"), newKeys(t), files.OS{})
	c := newCache(t)
	now := time.Now()
	stored := func(n int, ago time.Duration) {
		t.Helper()
		o := cache.PutOptions{StoredAt: now.Add(-ago), ExpiresAt: now.Add(24 * time.Hour)}
		if _, err := c.Put(sessionID(n), []byte{1}, o); err != nil {
			t.Fatal(err)
		}
	}
	stored(1, time.Minute)
	stored(2, 2*time.Hour)
	if err := f.SaveSessions(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	restored := newCache(t)
	if n, err := f.RestoreSessions(restored, time.Hour); n != 1 || err != nil {
		t.Errorf("%d restored: %v", n, err)
	}
	if _, e, ok := restored.Peek(nil, sessionID(1)); !ok || e.ExpiresAt.UTC().Sub(e.StoredAt.UTC()) != time.Hour {
		t.Errorf("%t %+v", ok, e)
	}
}
