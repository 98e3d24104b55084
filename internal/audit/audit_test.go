package audit

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
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
	before := time.Now()
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

// A log that is moved away is made anew, and one that is there is added to.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
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
	record()
	if err := log.Reopen(); err != nil {
		t.Fatal(err)
	}
	record()
	if old, fresh := len(lines(t, path+".1")), len(lines(t, path)); old != 3 || fresh != 1 {
		t.Errorf("%d lines in the old file, %d in the new one", old, fresh)
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if log.Reopen() == nil {
		t.Error("a log was opened in a directory that is gone")
	}
	record() // in the file that it has
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
	if log.Record(Event{Outcome: Applied}) == nil || log.Failures() != 1 || !log.Failing() {
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
