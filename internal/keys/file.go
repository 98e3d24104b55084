package keys

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/sessapi/sessapi/internal/files"
)

// File is a key file in the [ATS] format that a ring takes its keys from.
//
// The keys are taken when the content of the file changes, and only then: a
// file that is touched, or broken for a while and restored, does not override
// keys that came in by another way since. While the file is missing or broken,
// the active set stays.
//
// The file should be replaced by renaming a new one over it, or by swapping the
// symbolic link it is reached through (as Kubernetes does), if that is in the
// same directory. One that is written in place can be read half-written. All
// methods are safe for concurrent use.
type File struct {
	path string // absolute
	ring *Ring
	log  *slog.Logger

	record Record

	checking sync.Mutex        // held while the file is read and its keys are taken; guards what follows
	taken    [sha256.Size]byte // hash of the content that was last taken
	reported string            // the failure that goes on and has been logged; empty without one

	mu     sync.Mutex // guards status, so that nobody waits for a slow disk to read it
	status FileStatus
}

// FileStatus is how a key file is doing.
type FileStatus struct {
	Path      string    // absolute
	LoadedAt  time.Time // when its keys were last taken, or found at the start to be those taken before
	LastError string    // why its content cannot be taken now; empty when it can
	FailedAt  time.Time // when that was found; zero when LastError is empty
	Failures  uint64    // how often a failure was found or, with Reload, found again
}

// OpenFile reads the file and makes its keys the active ones of the ring, unless
// its content is what a ring that was restored has taken from it already: what
// came in since is more recent. A relative path is one of the working directory
// as it is now. [File.Watch] and [File.Reload] follow the file from then on. record is that of [Update].
func OpenFile(path string, ring *Ring, log *slog.Logger, record Record) (*File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("ticket key file: %w", err)
	}
	f := &File{path: path, ring: ring, log: log, record: record, taken: ring.takenFile(), status: FileStatus{Path: path}}
	if err := f.take(); err != nil {
		return nil, fmt.Errorf("ticket key file %s: %w", path, err)
	}
	return f, nil
}

// Status returns how the file is doing.
func (f *File) Status() FileStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// Reload reads the file now and takes its keys if its content has changed. What
// comes of it is logged and in the [FileStatus].
func (f *File) Reload() {
	f.checking.Lock()
	defer f.checking.Unlock()
	f.reported = "" // who asks again is told again
	before := f.taken
	if err := f.check(); err == nil && f.taken == before {
		f.log.Info("ticket key file unchanged", slog.String("path", f.path))
	}
}

// Watch reads the file and takes its keys whenever its content changes, until
// ctx ends. When its directory cannot be watched, the file is read every
// second instead. What comes of it is logged and in the [FileStatus].
func (f *File) Watch(ctx context.Context) {
	files.Watch(ctx, f.log, "ticket key file", f.checkNow, f.path)
}

// checkNow checks the file. It returns false when its keys cannot be stored now.
func (f *File) checkNow() (stored bool) {
	f.checking.Lock()
	defer f.checking.Unlock()
	return !errors.Is(f.check(), ErrUnavailable)
}

// check takes the keys of the file, and logs and returns why when it cannot. A
// failure that goes on is counted and logged once, whatever else happens in the
// directory.
func (f *File) check() error {
	err := f.take()
	if err == nil || err.Error() == f.reported {
		return err
	}
	f.reported = err.Error()
	f.log.Error("the ticket key file cannot be taken; the active keys stay",
		slog.String("path", f.path), slog.String("error", f.reported))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.LastError = f.reported
	f.status.FailedAt = f.ring.now()
	f.status.Failures++
	return err
}

// take makes the keys of the file the active ones, unless its content is what
// was taken last.
func (f *File) take() error {
	limit := MaxKeys * layouts[ATS].records[0].size()
	data, mode, err := files.Read(f.path, limit)
	if errors.Is(err, files.ErrTooLarge) {
		return fmt.Errorf("is larger than the %d bytes of %d keys", limit, MaxKeys)
	}
	if err != nil {
		return err
	}
	defer clear(data)
	status := f.Status()
	sum := sha256.Sum256(data)
	if sum != f.taken {
		d, err := f.ring.Load(ATS, data, Update{Source: SourceFile, Record: f.record, file: &sum})
		if err != nil {
			return err
		}
		f.log.Info("ticket key file taken", slog.String("path", f.path), slog.Uint64("generation", d.Generation))
	}
	if sum != f.taken || status.LoadedAt.IsZero() {
		f.taken = sum
		status.LoadedAt = f.ring.now()
		files.WarnLoose(f.log, "ticket key file", f.path, mode)
	}
	f.reported = ""
	status.LastError, status.FailedAt = "", time.Time{}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = status
	return nil
}
