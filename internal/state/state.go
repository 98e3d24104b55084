// Package state keeps the ticket keys, the sessions and the consumers in sealed files,
// so that a restart loses none of them.
//
// The ticket keys are in the file at the path. Each update replaces it as a whole:
// before the update is acknowledged, a new file is written, synced and renamed over the
// old one, and the directory is synced. The sessions are in a second file with the
// suffix .sessions, which [File.SaveSessions] replaces in the same way, and the consumers
// of the ticket keys in a third, .consumers. A fourth, .lock, keeps a second process away.
//
// What it promises:
//   - After a crash at any instant each file is as before the save or as after it, never
//     in between.
//   - A file that cannot be unsealed, because of its key, content or version, is never
//     replaced. [File.Load], [File.LoadConsumers] and [File.RestoreSessions] fail, so the
//     service does not start.
//   - Sessions are streamed both ways. A snapshot is not of one instant, but each session
//     in it is whole, and a session that exists during the whole save is in it.
//   - Sessions removed by [File.FlushSessions] do not come back, not even from a save in
//     progress.
//   - Everything is sealed, and bound to its kind: ticket keys, sessions or consumers. It
//     is not bound to a service or to the other files: an older file, or that of another
//     service with the same seal key, can be unsealed, too. Buffers are wiped.
package state

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/seal"
	"github.com/sessapi/sessapi/internal/tracing"
)

// SaveSessionsEvery is how often [File.KeepSessions] writes the sessions.
const SaveSessionsEvery = 5 * time.Minute

const (
	sessionsSuffix  = ".sessions"
	consumersSuffix = ".consumers"
	lockSuffix      = ".lock"
	// oldTemporarySuffix was that of a file that is being written, now
	// [files.Temporary]: a crash of an earlier version may have left one.
	oldTemporarySuffix = ".tmp"

	// maxKeysFile is several times what 64 keys take.
	maxKeysFile = 64 << 10
	// maxConsumersFile is more than the most consumers take, some 1 KiB each.
	maxConsumersFile = 16 << 20
)

// What the files are, for who opens them.
var (
	keysBinding      = seal.Binding{Kind: "state: ticket keys"}
	sessionsBinding  = seal.Binding{Kind: "state: sessions"}
	consumersBinding = seal.Binding{Kind: "state: consumers"}
)

// ErrLocked reports that another process uses the files.
var ErrLocked = errors.New("is in use by another process; give each its own")

// errFlushed reports that the sessions were flushed while they were written.
var errFlushed = errors.New("state: the sessions were flushed")

// File holds the state of one service. Its methods are safe for concurrent use.
type File struct {
	path string // absolute
	keys *seal.Keys
	log  *slog.Logger
	disk files.Disk
	lock *os.File

	saving    sync.Mutex // held while the sessions are written
	savedKeys []byte     // what the file of the ticket keys holds, sealed; for Save alone

	flushing sync.Mutex    // held while the file of the sessions is replaced or removed
	flushes  atomic.Uint64 // grows with flushing held: what was written before is out of date

	mu     sync.Mutex // guards status
	status Status
}

// Status holds the figures of the files.
type Status struct {
	Keys, Sessions, Consumers FileStatus
}

// FileStatus holds the figures of one file.
type FileStatus struct {
	SavedAt  time.Time // zero before the first save
	Failures uint64    // failed saves, and failed removals by a flush
	Failing  bool      // the last attempt failed
	// NotUndone counts failed saves that may not have been undone on the disk: a crash
	// before the next save may bring one back. It is zero for the sessions.
	NotUndone uint64
}

// Open locks the files at path for this process, and removes half-written files that a
// crash left. It logs a warning for files that others can read or write. A relative
// path is resolved now. The errors are [ErrLocked] and those of the file system.
func Open(path string, keys *seal.Keys, log *slog.Logger) (*File, error) {
	return open(path, keys, log, files.OS{})
}

func open(path string, keys *seal.Keys, log *slog.Logger, d files.Disk) (*File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path+lockSuffix, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s %w", path, ErrLocked)
		}
		return nil, fmt.Errorf("%s: %w", lock.Name(), err)
	}
	f := &File{path: path, keys: keys, log: log, disk: d, lock: lock}
	for _, name := range []string{path, path + sessionsSuffix, path + consumersSuffix} {
		if info, err := os.Stat(name); err == nil {
			files.WarnLoose(log, "state file", name, info.Mode(), files.Secret)
		}
		if err := errors.Join(files.RemoveTemporary(name), files.OS{}.Remove(name+oldTemporarySuffix)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// Check returns the error with which [File.Load] would fail for the ticket keys at
// path. It changes and locks nothing.
func Check(path string, keys *seal.Keys) error {
	f := File{path: path, keys: keys}
	state, err := f.Load(context.Background())
	clear(state)
	return err
}

// CheckConsumers is Check for the consumers.
func CheckConsumers(path string, keys *seal.Keys) error {
	f := File{path: path, keys: keys}
	_, err := f.LoadConsumers()
	return err
}

// CheckSessions returns why the sessions at path cannot be loaded. It reads only the
// beginning of the file: that shows whether the seal key is there, but not whether a
// large file is complete. It changes and locks nothing.
func CheckSessions(path string, keys *seal.Keys) error {
	f := File{path: path, keys: keys}
	file, stream, err := f.openSessions()
	if file == nil {
		return err
	}
	defer file.Close()
	if _, err := stream.Read(make([]byte, 1)); err != nil {
		return unreadable(file.Name(), endsEarly(err))
	}
	return nil
}

// Close unlocks the files.
func (f *File) Close() error { return f.lock.Close() }

// Status returns the figures of both files.
func (f *File) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// Failing reports whether the last save of a file failed.
func (f *File) Failing() bool {
	s := f.Status()
	return s.Keys.Failing || s.Sessions.Failing || s.Consumers.Failing
}

// Health returns why the files are degraded; "" if they are not.
func (f *File) Health() string {
	if f.Failing() {
		return "could not be saved; a restart may load an older state"
	}
	return ""
}

// count notes how saving a file went.
func (f *File) count(file *FileStatus, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file.Failing = err != nil
	if err != nil {
		file.Failures++
		return
	}
	file.SavedAt = time.Now()
}

// unreadable says what to do about a file that does not open.
func unreadable(path string, err error) error {
	advice := "restore it from a backup, or move it away to start without it"
	switch {
	case errors.Is(err, seal.ErrUnknownKey):
		advice = "add that key to the seal key file, or move the state away to start without it"
	case errors.Is(err, seal.ErrVersion):
		advice = "start the version that wrote it, or move it away to start without it"
	case !errors.Is(err, seal.ErrCorrupt):
		return err
	}
	return fmt.Errorf("%s: %w; %s", path, err, advice)
}

// Load returns the state of the ticket keys, or nil if there is no file. The caller
// must wipe it. It implements keys.Store.
func (f *File) Load(context.Context) ([]byte, error) {
	sealed, state, err := f.load(f.path, maxKeysFile, keysBinding)
	if err == nil {
		f.savedKeys = sealed
	}
	return state, err
}

// load reads a file that is sealed as a whole, and opens it. Without a file both are
// nil.
func (f *File) load(path string, limit int64, b seal.Binding) (sealed, state []byte, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	sealed, err = io.ReadAll(io.LimitReader(file, limit))
	if err != nil {
		return nil, nil, err
	}
	state, err = f.keys.Open(nil, sealed, b)
	if err != nil {
		return nil, nil, unreadable(path, err)
	}
	return sealed, state, nil
}

// LoadConsumers returns the state of the consumers, or nil when there is no file.
func (f *File) LoadConsumers() ([]byte, error) {
	_, state, err := f.load(f.path+consumersSuffix, maxConsumersFile, consumersBinding)
	return state, err
}

// SaveConsumers replaces the state of the consumers. Calls come one at a time.
func (f *File) SaveConsumers(state []byte) error {
	_, err := f.replace(f.path+consumersSuffix, f.keys.Seal(nil, state, consumersBinding))
	f.count(&f.status.Consumers, err)
	return err
}

// Save replaces the state of the ticket keys. It implements keys.Store, whose methods
// are not called concurrently. If the failed save could not be undone, the error says
// so: a crash may then leave the refused state.
func (f *File) Save(ctx context.Context, state []byte) (err error) {
	_, span := tracing.Start(ctx, "save ticket keys")
	defer func() { span.End(err) }()
	sealed := f.keys.Seal(nil, state, keysBinding)
	renamed, err := f.replace(f.path, sealed)
	if err == nil {
		f.savedKeys = sealed
	} else if renamed && f.savedKeys != nil {
		// The new file may be there after a crash, or may not. What was
		// refused must not come back: the old content is put in its place.
		if _, undone := f.replace(f.path, f.savedKeys); undone != nil {
			err = fmt.Errorf("%w; the previous file could not be restored: %w; after a crash, the rejected update may become active", err, undone)
			f.mu.Lock()
			f.status.Keys.NotUndone++
			f.mu.Unlock()
		}
	}
	f.count(&f.status.Keys, err)
	return err
}

func (f *File) replace(path string, sealed []byte) (renamed bool, err error) {
	err = files.Write(f.disk, files.Temporary(path), func(w io.Writer) error {
		_, err := w.Write(sealed)
		return err
	})
	if err != nil {
		return false, err
	}
	return files.Move(f.disk, files.Temporary(path), path)
}

// The sessions are, in big-endian order, a version (1) and for each
//
//	length of the ID (1), mark (1), stored at (8), expires at (8), size - 1 (2),
//	ID, session
//
// Times are milliseconds since 1970.
const (
	sessionsVersion = 1
	sessionHeader   = 1 + 1 + 8 + 8 + 2
	maxSession      = sessionHeader + 32 + cache.MaxSize
)

// SaveSessions writes the sessions of the cache to the file, unless ctx ends first. It
// holds one session and a page of IDs in memory. If the sessions are flushed meanwhile,
// it starts again.
func (f *File) SaveSessions(ctx context.Context, c *cache.Cache) error {
	f.saving.Lock()
	defer f.saving.Unlock()
	err := errFlushed
	for errors.Is(err, errFlushed) {
		err = f.saveSessions(ctx, c)
	}
	f.count(&f.status.Sessions, err)
	return err
}

// saveSessions saves the sessions, or fails with errFlushed.
func (f *File) saveSessions(ctx context.Context, c *cache.Cache) error {
	path := f.path + sessionsSuffix
	f.flushing.Lock()
	before := f.flushes.Load() // what is in the cache from here on was not flushed by it
	f.flushing.Unlock()
	err := files.Write(f.disk, files.Temporary(path), func(w io.Writer) error {
		stream, err := f.keys.NewWriter(w, sessionsBinding)
		if err != nil {
			return err
		}
		return errors.Join(writeSessions(stream, c, func() error {
			if f.flushes.Load() != before {
				return errFlushed
			}
			return ctx.Err()
		}), stream.Close())
	})
	if err != nil {
		return err
	}
	// A flush does not wait for the writing, which takes as long as there are
	// sessions, but is before or behind the replacing.
	f.flushing.Lock()
	defer f.flushing.Unlock()
	if f.flushes.Load() != before {
		return errors.Join(errFlushed, f.disk.Remove(files.Temporary(path)))
	}
	_, err = files.Move(f.disk, files.Temporary(path), path)
	return err
}

// FlushSessions removes the file of the sessions, then calls flush and returns its
// result. No restart brings a flushed session back. It does not wait for a save in
// progress.
//
// If the file cannot be removed, flush is not called. The file may be gone all the
// same; then a crash before the next save loses the sessions.
func (f *File) FlushSessions(flush func() (int, error)) (removed int, err error) {
	f.flushing.Lock()
	defer f.flushing.Unlock()
	f.flushes.Add(1)
	err = f.disk.Remove(f.path + sessionsSuffix)
	if err == nil || errors.Is(err, fs.ErrNotExist) { // also then: a flush before may have failed behind it
		err = f.disk.SyncDir(filepath.Dir(f.path))
	}
	if err != nil {
		f.count(&f.status.Sessions, err)
		return 0, err
	}
	f.count(&f.status.Sessions, nil)
	return flush()
}

// writeSessions writes the sessions of the cache. goOn is asked after each page of
// them, and its error ends it.
func writeSessions(w io.Writer, c *cache.Cache, goOn func() error) error {
	if _, err := w.Write([]byte{sessionsVersion}); err != nil {
		return err
	}
	buf := make([]byte, 0, maxSession)
	defer func() { clear(buf[:cap(buf)]) }()
	var after cache.ID
	for more := true; more; {
		var page []cache.Listed
		page, more = c.List(after, cache.MaxPage)
		for _, listed := range page {
			after = listed.ID
			id := after.Bytes()
			var e cache.Entry
			var ok bool
			buf, e, ok = c.Peek(append(buf[:sessionHeader], id...), after)
			if !ok {
				continue // gone since
			}
			buf[0], buf[1] = byte(len(id)), e.Mark
			binary.BigEndian.PutUint64(buf[2:], uint64(e.StoredAt))
			binary.BigEndian.PutUint64(buf[10:], uint64(e.ExpiresAt))
			binary.BigEndian.PutUint16(buf[18:], uint16(e.Size-1))
			if _, err := w.Write(buf); err != nil {
				return err
			}
		}
		if err := goOn(); err != nil {
			return err
		}
	}
	return nil
}

// RestoreSessions loads the sessions of the file into the cache and returns their
// number. It skips expired sessions, and those too large for the cache. A session
// expires at most maxTTL after it was stored, even if the limit was higher then.
// Without a file it returns 0.
func (f *File) RestoreSessions(c *cache.Cache, maxTTL time.Duration) (n int, err error) {
	file, stream, err := f.openSessions()
	if file == nil {
		return 0, err
	}
	defer file.Close()
	if n, err = readSessions(stream, c, maxTTL); err != nil {
		return 0, unreadable(file.Name(), err)
	}
	return n, nil
}

// openSessions opens the file of the sessions, for the caller to close, and what is
// sealed in it. Without a file both are nil.
func (f *File) openSessions() (*os.File, io.Reader, error) {
	file, err := os.Open(f.path + sessionsSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	stream, err := f.keys.NewReader(bufio.NewReader(file), sessionsBinding)
	if err != nil {
		return nil, nil, errors.Join(unreadable(file.Name(), err), file.Close())
	}
	return file, stream, nil
}

func readSessions(r io.Reader, c *cache.Cache, maxTTL time.Duration) (n int, err error) {
	buf := make([]byte, maxSession)
	defer clear(buf)
	if _, err := io.ReadFull(r, buf[:1]); err != nil {
		return 0, endsEarly(err)
	}
	if buf[0] != sessionsVersion {
		return 0, seal.ErrVersion
	}
	now, life := cache.Time(time.Now().UnixMilli()), cache.Time(maxTTL.Milliseconds())
	for {
		header := buf[:sessionHeader]
		if _, err := io.ReadFull(r, header); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return 0, endsEarly(err)
		}
		idSize, size := int(header[0]), int(binary.BigEndian.Uint16(header[18:]))+1
		if idSize > 32 {
			return 0, seal.ErrCorrupt
		}
		body := buf[sessionHeader:][:idSize+size]
		if _, err := io.ReadFull(r, body); err != nil {
			return 0, endsEarly(err)
		}
		id, err := cache.MakeID(body[:idSize])
		if err != nil {
			return 0, seal.ErrCorrupt
		}
		stored := cache.Time(binary.BigEndian.Uint64(header[2:]))
		expires := cache.Time(binary.BigEndian.Uint64(header[10:]))
		_, err = c.Put(id, body[idSize:], cache.PutOptions{
			StoredAt:  stored.UTC(),
			ExpiresAt: min(expires, stored+life, now+life).UTC(), // stored may be of a clock that was ahead
			Mark:      header[1],
		})
		switch {
		case err == nil:
			n++
		case !errors.Is(err, cache.ErrExpired) && !errors.Is(err, cache.ErrTooLarge):
			return 0, err
		}
	}
}

// endsEarly is the error of a stream that ends in the middle of something.
func endsEarly(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return seal.ErrCorrupt
	}
	return err
}

// KeepSessions saves the sessions every [SaveSessionsEvery] until ctx ends. Failures
// are logged and counted.
func (f *File) KeepSessions(ctx context.Context, c *cache.Cache) {
	tick := time.NewTicker(SaveSessionsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := f.SaveSessions(ctx, c); err != nil && ctx.Err() == nil {
			f.log.Error("cannot save the sessions; keeping the previous file",
				slog.String("path", f.path+sessionsSuffix), slog.String("error", err.Error()))
		}
	}
}
