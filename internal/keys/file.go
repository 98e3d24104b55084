package keys

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long after the first sign of a change the file is read, so
	// that a burst of events is one reading, of a file that is written by then.
	settle = 100 * time.Millisecond
	// retry is how often the file is read while its directory cannot be
	// watched, and the watching tried again.
	retry = time.Second
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
// as it is now. [File.Watch] and [File.Reload] follow the file from then on.
func OpenFile(path string, ring *Ring, log *slog.Logger) (*File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("ticket key file: %w", err)
	}
	f := &File{path: path, ring: ring, log: log, taken: ring.takenFile(), status: FileStatus{Path: path}}
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
	logged := ""
	for {
		err := f.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != logged {
			logged = text
			f.log.Warn("cannot watch the ticket key file; reading it every second until that works",
				slog.String("path", f.path), slog.String("error", text))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
		f.checkNow()
	}
}

// watch follows the file until ctx ends or something fails. It watches the
// directory, for a watch on the file itself would follow the old file when a
// new one is renamed over it.
func (f *File) watch(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(f.path)); err != nil {
		return err
	}
	return f.follow(ctx, watcher.Events, watcher.Errors)
}

// follow checks the file at once, for what happened before the watch was there,
// and after each burst of events. Every event in the directory counts: the
// file may be reached through a link to a link there. Keys that could not be
// stored are taken again without one.
func (f *File) follow(ctx context.Context, events <-chan fsnotify.Event, failures <-chan error) error {
	var settled <-chan time.Time // nil while nothing has happened
	checkNow := func() {
		if settled = nil; !f.checkNow() {
			settled = time.After(retry)
		}
	}
	checkNow()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event := <-events:
			if event.Name == filepath.Dir(f.path) && event.Has(fsnotify.Remove|fsnotify.Rename) {
				return errors.New("the directory is gone")
			}
		case err := <-failures:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
		case <-settled:
			checkNow()
			continue
		}
		if settled == nil { // not pushed back by later events, which may never end
			settled = time.After(settle)
		}
	}
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
	data, mode, err := f.read()
	if err != nil {
		return err
	}
	defer clear(data)
	status := f.Status()
	sum := sha256.Sum256(data)
	if sum != f.taken {
		d, err := f.ring.Load(ATS, data, Update{Source: SourceFile, file: &sum})
		if err != nil {
			return err
		}
		f.log.Info("ticket key file taken", slog.String("path", f.path), slog.Uint64("generation", d.Generation))
	}
	if sum != f.taken || status.LoadedAt.IsZero() {
		f.taken = sum
		status.LoadedAt = f.ring.now()
		if mode.Perm()&0o044 != 0 {
			f.log.Warn("the ticket key file can be read by others than its owner, who can then decrypt traffic; chmod 600",
				slog.String("path", f.path), slog.String("mode", mode.Perm().String()))
		}
	}
	f.reported = ""
	status.LastError, status.FailedAt = "", time.Time{}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = status
	return nil
}

// read returns the content of the file, which the caller must wipe, and its mode.
// Its errors do not repeat the path.
func (f *File) read() ([]byte, fs.FileMode, error) {
	file, err := os.OpenFile(f.path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a pipe would wait for its writer
	if err != nil {
		return nil, 0, withoutPath(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, withoutPath(err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, errors.New("is not a regular file")
	}
	limit := MaxKeys * layouts[ATS].records[0].size()
	buf := make([]byte, limit+1)
	n, err := io.ReadFull(file, buf)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return buf[:n], info.Mode(), nil
	case err == nil:
		err = fmt.Errorf("is larger than the %d bytes of %d keys", limit, MaxKeys)
	}
	clear(buf)
	return nil, 0, withoutPath(err)
}

func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
