package keys

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/sessapi/sessapi/internal/files"
)

// File is a key file in the [ATS] format from which a ring loads its keys.
//
// The keys are loaded only when the content of the file changes. A file that is
// touched, or that was broken for a while and is restored, does not override keys that
// were pushed since. While the file is missing or broken, the active set stays.
//
// Replace the file by renaming a new one over it, or by swapping a symbolic link (as
// Kubernetes does). A file written in place may be read half-written. All methods are
// safe for concurrent use.
type File struct {
	*files.Followed
	path   string // absolute
	ring   *Ring
	log    *slog.Logger
	record Record
	joins  bool // see JoinFile

	// For take alone: the hash of the content loaded last; and the content that could
	// not be stored, the error, and the time of the next try.
	taken  [sha256.Size]byte
	failed struct {
		content [sha256.Size]byte
		err     error
		again   time.Time
		wait    time.Duration
	}
	loadedAt atomic.Pointer[time.Time]
}

// FileStatus is the state of a key file.
type FileStatus struct {
	Path     string    // absolute
	LoadedAt time.Time // when its keys were last loaded, or found at startup to be loaded already
	files.Status
}

// OpenFile loads the keys of the file into the ring, unless a restored ring has loaded
// the same content before: later updates are more recent. A relative path is resolved
// against the current working directory now. [files.Followed] then follows the file.
// For record, see [Update].
func OpenFile(path string, ring *Ring, log *slog.Logger, record Record) (*File, error) {
	return follow(path, &File{ring: ring, log: log, record: record, taken: ring.takenFile()})
}

// JoinFile is OpenFile for a ring whose set other nodes share. The current content of the
// file may be older than that set, and counts as loaded before.
func JoinFile(path string, ring *Ring, log *slog.Logger, record Record) (*File, error) {
	return follow(path, &File{ring: ring, log: log, record: record, joins: true})
}

func follow(path string, f *File) (_ *File, err error) {
	if f.path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("ticket key file: %w", err)
	}
	if f.Followed, err = files.Follow(f.log.With(slog.String("path", f.path)), "ticket key file", f.take); err != nil {
		return nil, fmt.Errorf("ticket key file %s: %w", path, err)
	}
	return f, nil
}

// Status returns the state of the file.
func (f *File) Status() FileStatus {
	return FileStatus{Path: f.path, LoadedAt: *f.loadedAt.Load(), Status: f.Followed.Status()}
}

// Health returns why the file is degraded; "" when it is not.
func (f *File) Health() string {
	if f.Followed.Status().LastError != "" {
		return "cannot be loaded; the previous keys stay active"
	}
	return ""
}

// take makes the keys of the file active, unless it has loaded the same content last.
func (f *File) take() (changed bool, err error) {
	limit := MaxKeys * layouts[ATS].records[0].size()
	data, mode, err := files.Read(f.path, limit)
	if errors.Is(err, files.ErrTooLarge) {
		return false, fmt.Errorf("is larger than %d bytes, the size of %d keys", limit, MaxKeys)
	}
	if err != nil {
		return false, err
	}
	defer clear(data)
	sum := sha256.Sum256(data)
	if f.joins && f.loadedAt.Load() == nil {
		set, err := ATS.Parse(data)
		if err != nil {
			return false, err
		}
		set.Wipe()
		f.taken = sum
	}
	if sum != f.taken {
		if f.failed.content == sum && time.Now().Before(f.failed.again) {
			return false, f.failed.err
		}
		d, err := f.ring.Load(context.Background(), ATS, data, Update{Source: SourceFile, Record: f.record, file: &sum})
		if errors.Is(err, ErrUnavailable) {
			if errors.Is(err, ErrUnsettled) {
				err = fmt.Errorf("%w: %w", files.ErrPostponed, ErrUnsettled)
			}
			f.retryLater(sum, err)
		}
		if err != nil {
			return false, err
		}
		f.taken, changed = sum, true
		f.log.Info("ticket key file loaded", slog.String("path", f.path), slog.Uint64("generation", d.Generation))
	}
	if changed || f.loadedAt.Load() == nil {
		f.loadedAt.Store(new(f.ring.now()))
		files.WarnLoose(f.log, "ticket key file", f.path, mode, files.Secret)
	}
	return changed, nil
}

// Content that could not be stored is retried. The wait doubles from the first to the
// last, because each try is recorded.
const firstWait, lastWait = time.Second, time.Minute

// retryLater notes that the content could not be stored.
func (f *File) retryLater(content [sha256.Size]byte, err error) {
	wait := firstWait
	if f.failed.content == content {
		wait = min(2*f.failed.wait, lastWait)
	}
	f.failed.content, f.failed.err, f.failed.wait, f.failed.again = content, err, wait, time.Now().Add(wait)
}
