// Package audit records who changed or fetched ticket keys, and who was refused
// what: one line of JSON an event, on a stream of its own.
//
// An event is recorded before what it tells of is done. Where that fails, it must
// not be done: nothing passes unrecorded. A line holds no secret. Session IDs
// are in it as a keyed hash, so that lines about one session can be told to be
// that, and nobody is followed around by them.
//
//	log, err := audit.Open("/var/log/sessapi/audit.log")
//	…
//	err = log.Record(audit.Event{Operation: "POST /ticket-keys", Outcome: audit.Applied, Identity: "ops"})
package audit

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Stderr is the path that stands for the standard error stream.
const Stderr = "stderr"

// Outcome is what came of an operation.
type Outcome string

// The outcomes.
const (
	Applied  Outcome = "applied"  // the change is about to be made
	Exported Outcome = "exported" // the keys are about to be sent
	Denied   Outcome = "denied"   // the request was refused
	Failed   Outcome = "failed"   // the change that the line before tells of was not made
)

// Event is one line. Members that are zero are left out.
type Event struct {
	Time      time.Time `json:"time"` // when it was recorded; Record sets it
	Operation string    `json:"operation"`
	Outcome   Outcome   `json:"outcome"`
	Identity  string    `json:"identity,omitempty"`
	Source    string    `json:"source,omitempty"` // address of the client, or what else acts
	RequestID string    `json:"request_id,omitempty"`
	Code      string    `json:"code,omitempty"`    // of the problem that a denial was answered with
	Format    string    `json:"format,omitempty"`  // that keys were exported in
	Session   string    `json:"session,omitempty"` // see [Log.Session]
	Detail    string    `json:"detail,omitempty"`

	Before *Keys `json:"before,omitempty"`
	After  *Keys `json:"after,omitempty"`
}

// Keys is a set of ticket keys without its secrets.
type Keys struct {
	Generation   uint64   `json:"generation"`
	Fingerprints []string `json:"fingerprints"` // current, next, previous from the newest on
}

// Log writes events. All methods are safe for concurrent use.
type Log struct {
	path   string
	idKey  [sha256.Size]byte // of Session; fresh in each process
	failed atomic.Uint64
	events atomic.Uint64

	mu      sync.Mutex // guards what follows, and keeps lines apart
	file    *os.File
	torn    bool // the last line may have been written in part
	failing bool // the last event could not be recorded
}

// Open opens the file, of mode 0600 if it has to be made, to add to it; [Stderr]
// is the standard error stream. Its owner calls Close.
func Open(path string) (*Log, error) {
	l := &Log{path: path}
	_, _ = rand.Read(l.idKey[:]) // it never fails
	if path == Stderr {
		l.file = os.Stderr
		return l, nil
	}
	var err error
	l.file, err = open(path)
	return l, err
}

func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// Reopen opens the file anew, for who rotates logs has renamed it. When that
// fails, the log goes on in the old one.
func (l *Log) Reopen() error {
	if l.path == Stderr {
		return nil
	}
	file, err := open(l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.file
	l.file, l.torn = file, false
	return old.Close()
}

// Close closes the file. An event that is recorded later fails.
func (l *Log) Close() error {
	if l.path == Stderr {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}

// Record writes the event. That of a change is on the disk when it returns.
func (l *Log) Record(e Event) error {
	e.Time = time.Now().UTC()
	line, err := json.Marshal(e)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	line = append(line, '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	err = l.write(line, e.Outcome == Applied)
	l.failing = err != nil
	if err != nil {
		l.failed.Add(1)
		return err
	}
	l.events.Add(1)
	return nil
}

// Failing reports whether the last event could not be recorded.
func (l *Log) Failing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failing
}

func (l *Log) write(line []byte, durably bool) error {
	if l.torn {
		line = append([]byte{'\n'}, line...) // or both would be one line, of neither
	}
	end, _ := l.file.Seek(0, io.SeekEnd) // fails for a pipe, as Truncate does then
	if _, err := l.file.Write(line); err != nil {
		l.torn = l.file.Truncate(end) != nil // as on a full disk: no part of a line stays
		return err
	}
	l.torn = false
	if !durably || l.path == Stderr {
		return nil
	}
	// What cannot be synced, such as a pipe, says so with EINVAL.
	if err := l.file.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// Session is what stands for a session ID in a line: the same for the same ID,
// until the process ends.
func (l *Log) Session(id []byte) string {
	mac := hmac.New(sha256.New, l.idKey[:])
	mac.Write(id)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// Events is how many were recorded.
func (l *Log) Events() uint64 { return l.events.Load() }

// Failures is how many could not be.
func (l *Log) Failures() uint64 { return l.failed.Load() }
