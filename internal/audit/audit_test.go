package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// lines reads the events of a log.
func lines(t *testing.T, path string) (events []Event) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		events = append(events, e)
	}
	return events
}

func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().Truncate(time.Millisecond)
	var wg sync.WaitGroup
	const writers, each = 8, 50
	for range writers {
		wg.Go(func() {
			for range each {
				if err := log.Record(Event{Operation: "POST /ticket-keys", Outcome: Exported, After: &Keys{Generation: 7, Fingerprints: []string{"f"}}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	events := lines(t, path)
	if len(events) != writers*each || log.Events() != writers*each || log.Failures() != 0 {
		t.Errorf("%d lines, %d events, %d failures", len(events), log.Events(), log.Failures())
	}
	for _, e := range events {
		if e.Outcome != Exported || e.After.Generation != 7 || e.Before != nil || e.Time.Before(before) || e.Time.Location() != time.UTC {
			t.Fatalf("%+v", e)
		}
	}
	if data, err := os.ReadFile(path); err != nil || len(regexp.MustCompile(`"time":"[^"]{19}\.[0-9]{3}Z"`).FindAll(data, -1)) != len(events) {
		t.Errorf("not all times are in milliseconds: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if log.Record(Event{}) == nil || log.Failures() != 1 {
		t.Error("an event was recorded in a closed file")
	}
}

// A log that is moved away or removed is made anew, by a reload or by the next
// event, and one that is there is added to. Nothing is recorded in a file that
// nobody finds.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "audit.log")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	record := func() {
		t.Helper()
		if err := log.Record(Event{Outcome: Applied}); err != nil {
			t.Fatal(err)
		}
	}
	record()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := log.Reopen(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("after Reopen: %v", err)
	}
	record()
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	record()
	if first, second, third := len(lines(t, path+".1")), len(lines(t, path+".2")), len(lines(t, path)); first != 2 || second != 1 || third != 1 {
		t.Errorf("%d, %d and %d lines", first, second, third)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	record()
	if got := len(lines(t, path)); got != 1 {
		t.Errorf("%d lines in a log that was removed before", got)
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if log.Reopen() == nil || log.Record(Event{Outcome: Applied}) == nil || log.Health() == "" {
		t.Error("a log goes on without its directory")
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	record()
	if log.Health() != "" {
		t.Error("failing when it is not")
	}
}

// A file is one log's.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("opened twice: %v", err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	other, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Record(Event{Outcome: Applied}); !errors.Is(err, ErrLocked) {
		t.Errorf("recorded in the log of another: %v", err)
	}
	for range 2 { // the second time it is closed already
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := log.Record(Event{Outcome: Applied}); err != nil {
		t.Error(err)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}

// A pipe that nobody reads from takes nothing, and holds nobody up. What is
// written late is taken back.
func TestPipe(t *testing.T) {
	t.Parallel() // it waits for a timeout
	path := filepath.Join(t.TempDir(), "audit.fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, syscall.ENXIO) {
		t.Fatalf("nobody reads: %v", err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	log, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Record(Event{Outcome: Applied}); err != nil {
		t.Errorf("a pipe that is read: %v", err)
	}
	detail := strings.Repeat("x", 1<<20) // more than a pipe takes
	if err := log.Record(Event{Outcome: Applied, RequestID: "late", Detail: detail}); !errors.Is(err, ErrStuck) {
		t.Errorf("a full pipe: %v", err)
	}
	if err := log.Record(Event{Outcome: Denied}); !errors.Is(err, ErrStuck) || log.Health() == "" {
		t.Errorf("after an event that hangs: %v", err)
	}
	if err := log.Reopen(); !errors.Is(err, ErrStuck) {
		t.Errorf("Reopen: %v", err)
	}
	read := json.NewDecoder(reader)
	for i, want := range []Outcome{Applied, Applied, Failed} {
		var e Event
		if err := read.Decode(&e); err != nil || e.Outcome != want || i > 0 && e.RequestID != "late" {
			t.Errorf("line %d: %s %s, %v", i, e.Outcome, e.RequestID, err)
		}
	}
	for deadline := time.Now().Add(time.Minute); log.Record(Event{Outcome: Applied}) != nil; time.Sleep(time.Millisecond) { // until the turn of the late one is over
		if time.Now().After(deadline) {
			t.Fatal("it is stuck for ever")
		}
	}
	if log.Health() != "" {
		t.Error("failing when it is read again")
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}

// Nobody waits for longer than patience, however many there are, and what hung
// and what failed is undone before anybody else has the turn.
func TestInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Log{turn: make(chan struct{}, 1)}
		var did []string
		do := func(name string, err error) (func() error, func()) {
			return func() error { did = append(did, name); return err }, func() { did = append(did, name+" undone") }
		}
		if do, undo := do("failing", os.ErrInvalid); !errors.Is(l.inTurn(do, undo), os.ErrInvalid) {
			t.Error("another error")
		}
		release := make(chan struct{})
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			do, undo := do("slow", nil)
			if err := l.inTurn(func() error { <-release; return do() }, undo); !errors.Is(err, ErrStuck) {
				t.Error(err)
			}
		})
		synctest.Wait()
		for range 100 {
			wg.Go(func() {
				do, undo := do("waiting", nil)
				if err := l.inTurn(do, undo); !errors.Is(err, ErrStuck) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took != patience {
			t.Errorf("they waited %v", took)
		}
		if doAtOnce, undo := do("at once", nil); !errors.Is(l.inTurn(doAtOnce, undo), ErrStuck) || time.Since(start) != patience {
			t.Error("who comes later waits")
		}
		close(release)
		synctest.Wait()
		if do, undo := do("last", nil); l.inTurn(do, undo) != nil {
			t.Error("stuck for good")
		}
		if want := []string{"failing", "failing undone", "slow", "slow undone", "last"}; !slices.Equal(did, want) {
			t.Errorf("did %q", did)
		}
	})
}

// A line that was cut off and stayed does not spoil the one after it.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	file := log.file
	if log.file, err = os.Open(path); err != nil { // which cannot be written to
		t.Fatal(err)
	}
	defer log.file.Close()
	if log.Record(Event{Outcome: Applied}) == nil || log.Failures() != 1 || log.Health() == "" {
		t.Fatal("recorded where nothing can be written")
	}
	log.file = file
	if _, err := file.WriteString(`{"outcome":"app`); err != nil {
		t.Fatal(err)
	}
	if err := log.Record(Event{Outcome: Denied}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(last) != 2 || json.Unmarshal([]byte(last[1]), &Event{}) != nil {
		t.Errorf("%q", data)
	}
}

func TestSession(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	a, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := Open(Stderr)
	if err != nil {
		t.Fatal(err)
	}
	id, other := []byte{1, 2, 3}, []byte{1, 2, 4}
	switch first := a.Session(id); {
	case a.Session(id) != first:
		t.Error("one session has two hashes")
	case a.Session(id) == a.Session(other):
		t.Error("two sessions have one hash")
	case a.Session(id) == b.Session(id):
		t.Error("the hash is not keyed")
	}
}
