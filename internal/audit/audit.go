// Package audit records who changed or exported ticket keys, and which requests were
// denied: one line of JSON per event, in a log of its own.
//
// An event is recorded before the change or export that it describes. If recording
// fails, the caller must not make the change. A line holds no secret. Session IDs are
// keyed hashes: lines about the same session have the same hash, and nobody learns the
// ID.
//
// Clients can cause any number of denials and exports. [Log.Deny] and [Log.Export]
// therefore limit the lines that these write, and summarize the rest. Changes have
// reserved space for the case that the disk is full.
//
// If the disk or the reader hangs, recording fails after a few seconds.
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
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sessapi/sessapi/internal/files"
)

// Stderr is the path that stands for the standard error stream.
const Stderr = "stderr"

// patience is how long an event may take to be recorded. A busy disk takes about a
// second.
const patience = 5 * time.Second

var (
	// ErrLocked reports that another process or another [Log] has the file open.
	ErrLocked = errors.New("is in use by another process; give each its own")
	// ErrStuck reports that an event was not recorded in time, or that an earlier one
	// still hangs.
	ErrStuck = errors.New("audit: writing to the log hangs")
)

// Outcome is the result of an operation.
type Outcome string

// The outcomes.
const (
	Applied  Outcome = "applied"  // the change is about to be made
	Exported Outcome = "exported" // the keys are about to be sent
	Denied   Outcome = "denied"   // the request was refused
	Failed   Outcome = "failed"   // the operation that an earlier line, or part of one, announced was not done
)

// Event is one line. Members that are zero are left out.
type Event struct {
	Time      Time    `json:"time"` // when it was recorded; Record sets it
	Operation string  `json:"operation"`
	Outcome   Outcome `json:"outcome"`
	Identity  string  `json:"identity,omitempty"`
	Source    string  `json:"source,omitempty"` // address of the client, or the part of the service that acts
	RequestID string  `json:"request_id,omitempty"`
	Code      string  `json:"code,omitempty"`    // of the problem document of a denial
	Reason    string  `json:"reason,omitempty"`  // why the credentials of a denial were refused
	Format    string  `json:"format,omitempty"`  // of exported keys
	Session   string  `json:"session,omitempty"` // see [Log.Session]
	Detail    string  `json:"detail,omitempty"`

	// Only in a line that summarizes denials or exports: how many there were, and the
	// times of the first and the last one.
	Count uint64 `json:"count,omitempty"`
	First Time   `json:"first,omitzero"`
	Last  Time   `json:"last,omitzero"`

	Before *Keys `json:"before,omitempty"`
	After  *Keys `json:"after,omitempty"`
}

// TimeFormat is RFC 3339 in milliseconds, the precision of all times that the
// service tells.
const TimeFormat = "2006-01-02T15:04:05.000Z07:00"

// Time is written in [TimeFormat], in UTC.
type Time struct{ time.Time }

func now() Time { return Time{time.Now()} }

// MarshalJSON implements [json.Marshaler].
func (t Time) MarshalJSON() ([]byte, error) {
	return t.UTC().AppendFormat(nil, `"`+TimeFormat+`"`), nil
}

// Keys is a set of ticket keys without its secrets.
type Keys struct {
	Generation   uint64   `json:"generation"`
	Fingerprints []string `json:"fingerprints"` // current, next, previous from the newest on
}

// Log writes events. All methods are safe for concurrent use. None blocks for longer
// than a few seconds.
type Log struct {
	path    string
	idKey   [sha256.Size]byte // of Session; fresh in each process
	failed  atomic.Uint64
	events  atomic.Uint64
	failing atomic.Bool
	denials repeats
	exports repeats

	turn  chan struct{} // has room for who may use what follows
	stuck atomic.Bool   // who has the turn has it for too long
	file  *os.File      // nil when closed
	info  os.FileInfo   // of file; nil for stderr
	torn  bool          // the last line may have been written in part
	end   int64         // of the file when it was last written to
	room  int64         // up to where it is allocated on the disk, as far as is known
}

// Open opens the file for appending, or creates it with mode 0600. The path [Stderr] is
// the standard error stream. A named pipe must have a reader. If another Log has the
// file open, the error is [ErrLocked]. The caller must call Close.
func Open(path string) (*Log, error) {
	l := &Log{path: path, turn: make(chan struct{}, 1)}
	_, _ = rand.Read(l.idKey[:]) // it never fails
	if path == Stderr {
		l.file = os.Stderr
		return l, nil
	}
	var err error
	if l.file, l.info, err = open(path); err != nil {
		return nil, err
	}
	l.takeReserve()
	return l, nil
}

// open opens a log, for this process alone if it is a file: another one would cut
// off what is not its own when a line does not fit.
func open(path string) (file *os.File, info os.FileInfo, err error) {
	// A named pipe that nobody reads is an error then, and not waited for.
	file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = file.Close() // nothing was written
		}
	}()
	if info, err = file.Stat(); err != nil || !info.Mode().IsRegular() {
		return file, info, err
	}
	switch err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, nil, fmt.Errorf("%s: %w", path, ErrLocked)
	case err != nil:
		return nil, nil, fmt.Errorf("lock %s: %w", path, err)
	case info.Size() == 0: // it may have been made right now
		err = files.OS{}.SyncDir(filepath.Dir(path))
	}
	return file, info, err
}

// Reopen closes the file if it was renamed, as log rotation does. The next event would
// do the same.
func (l *Log) Reopen() error { return l.inTurn(l.follow, func() {}) }

// Close writes the summaries of denials and exports that are due, and closes the file.
// Recording an event later fails.
func (l *Log) Close() error {
	l.sumUp(&l.denials)
	l.sumUp(&l.exports)
	return l.inTurn(func() error {
		file := l.file
		l.file = nil
		if file == nil || l.path == Stderr {
			return nil
		}
		giveBack(file, l.info)
		return file.Close()
	}, func() {})
}

// Record writes the event. The event of a change is on the disk when Record returns.
// After an error, such as [ErrStuck], the line may have been written all the same. If
// it was a change or an export, a line with [Failed] follows as soon as the log can be
// written.
func (l *Log) Record(e Event) error {
	e.Time = now()
	spares := e.spares()
	err := l.inTurn(func() error { return l.write(e, spares) }, func() {
		if e.Outcome == Applied || e.Outcome == Exported {
			e.Time, e.Outcome, e.Detail = now(), Failed, "could not be recorded and was not done"
			_ = l.write(e, spares) // the caller has an error already
		}
	})
	l.failing.Store(err != nil)
	if err != nil {
		l.failed.Add(1)
		return err
	}
	l.events.Add(1)
	return nil
}

// Health returns why the log is degraded; "" if it is not.
func (l *Log) Health() string {
	if l.failing.Load() {
		return "cannot be written; changes and exports of ticket keys are refused"
	}
	return ""
}

// inTurn calls do while nobody else uses the file, and returns its error. When it
// fails, or takes so long that nobody waits for it any more, undo is called, in
// the same turn.
func (l *Log) inTurn(do func() error, undo func()) error {
	if l.stuck.Load() {
		return ErrStuck
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case l.turn <- struct{}{}:
	case <-timeout.C:
		return ErrStuck
	}
	done, gone := make(chan error), make(chan struct{})
	go func() {
		defer func() {
			l.stuck.Store(false)
			<-l.turn
		}()
		err := do()
		if err == nil {
			select {
			case done <- nil:
				return
			case <-gone:
			}
		}
		undo()
		select {
		case done <- err:
		case <-gone:
		}
	}()
	select {
	case err := <-done:
		return err
	case <-timeout.C:
		l.stuck.Store(true) // before gone, after which it is taken back
		close(gone)
		return ErrStuck
	}
}

// follow opens the file anew when the path no longer leads to it: lines in a file
// that was removed would be lost. It is the caller's turn.
func (l *Log) follow() error {
	if l.file == nil {
		return os.ErrClosed
	}
	if l.path == Stderr {
		return nil
	}
	if info, err := os.Stat(l.path); err == nil && os.SameFile(info, l.info) {
		return nil
	}
	file, info, err := open(l.path)
	if err != nil {
		return err
	}
	giveBack(l.file, l.info)
	_ = l.file.Close() // what has to be on the disk is
	l.file, l.info, l.torn = file, info, false
	l.takeReserve()
	return nil
}

// write adds a line, and that of a change durably, if there is room for it and for
// what of the reserve it spares. It is the caller's turn.
func (l *Log) write(e Event, spares int64) error {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	line = append(line, '\n')
	if err := l.follow(); err != nil {
		return err
	}
	if l.torn {
		line = append([]byte{'\n'}, line...) // or both would be one line, of neither
	}
	end, _ := l.file.Seek(0, io.SeekEnd) // fails for a pipe, as Truncate does then
	if err := l.allowed(end, int64(len(line)), spares); err != nil {
		return err
	}
	if _, err := l.file.Write(line); err != nil {
		l.torn = l.file.Truncate(end) != nil // as on a full disk: no part of a line stays
		l.takeReserve()                      // which that has freed
		return err
	}
	l.torn = false
	if l.path == Stderr || e.Outcome != Applied && e.Outcome != Failed {
		return nil
	}
	// What cannot be synced, such as a pipe, says so with EINVAL.
	if err := l.file.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// Session returns the keyed hash that stands for a session ID in a line. The key lives
// as long as the process.
func (l *Log) Session(id []byte) string {
	mac := hmac.New(sha256.New, l.idKey[:])
	mac.Write(id)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// Events returns the number of events recorded.
func (l *Log) Events() uint64 { return l.events.Load() }

// Failures returns the number of events that could not be recorded.
func (l *Log) Failures() uint64 { return l.failed.Load() }
