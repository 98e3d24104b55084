// Package files reads and follows the small files that a service takes secrets
// and rules from: key files, certificates.
//
// [Read] takes no more memory than it is told to, and never waits for a writer.
// [Watch] notices a file that is replaced by renaming a new one over it, or
// through the symbolic link that it is reached by (as Kubernetes does), if that
// is in the same directory. A file that is written in place can be read
// half-written.
package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long after the first sign of a change the files are checked,
	// so that a burst of events is one check, of files that are written by then.
	settle = 100 * time.Millisecond
	// retry is how often the files are checked while a directory cannot be
	// watched, and the watching tried again.
	retry = time.Second
)

// ErrTooLarge is the error of a file that is larger than the limit.
var ErrTooLarge = errors.New("is too large")

// Read returns the content of a regular file of at most limit bytes, which the
// caller must wipe if it is secret, and the mode of the file. Its errors do not
// repeat the path.
func Read(path string, limit int) ([]byte, fs.FileMode, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a pipe would wait for its writer
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
	buf := make([]byte, limit+1)
	n, err := io.ReadFull(file, buf)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return buf[:n], info.Mode(), nil
	case err == nil:
		err = fmt.Errorf("%w: a limit of %d bytes", ErrTooLarge, limit)
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

// WarnLoose logs a warning when others than its owner can read a file of
// secrets. The name says which file it is.
func WarnLoose(log *slog.Logger, name, path string, mode fs.FileMode) {
	if mode.Perm()&0o044 != 0 {
		log.Warn("a file of secrets can be read by others than its owner; chmod 600",
			slog.String("name", name), slog.String("path", path), slog.String("mode", mode.Perm().String()))
	}
}

// Watch calls check at once, and whenever something has changed in a directory
// of the files, until ctx ends. When a directory cannot be watched, check is
// called every second instead; that is logged, under the name of the files. All
// calls come from the goroutine of Watch. When check returns false, it is called
// again after a second, whatever happens.
func Watch(ctx context.Context, log *slog.Logger, name string, check func() bool, paths ...string) {
	logged := ""
	for {
		err := watch(ctx, check, paths)
		if ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != logged {
			logged = text
			log.Warn("cannot watch a file; reading it every second until that works",
				slog.String("name", name), slog.String("error", text))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
		check()
	}
}

// watch follows the files until ctx ends or something fails. It watches the
// directories, for a watch on a file itself would follow the old file when a
// new one is renamed over it.
func watch(ctx context.Context, check func() bool, paths []string) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	for _, path := range paths {
		if err := watcher.Add(filepath.Dir(path)); err != nil {
			return err
		}
	}
	return follow(ctx, check, paths, watcher.Events, watcher.Errors)
}

// follow checks at once, for what happened before the watch was there, and
// after each burst of events. Every event in a directory counts: a file may be
// reached through a link to a link there.
func follow(ctx context.Context, check func() bool, paths []string, events <-chan fsnotify.Event, failures <-chan error) error {
	var settled <-chan time.Time // nil while nothing has happened
	checkNow := func() {
		if settled = nil; !check() {
			settled = time.After(retry)
		}
	}
	checkNow()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event := <-events:
			for _, path := range paths {
				if event.Name == filepath.Dir(path) && event.Has(fsnotify.Remove|fsnotify.Rename) {
					return errors.New("the directory is gone")
				}
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
