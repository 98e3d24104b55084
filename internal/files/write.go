package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// temporaryPrefix and temporarySuffix make the name of the temporary file of a path.
const temporaryPrefix, temporarySuffix = ".", ".tmp"

// Temporary returns the name of the temporary file beside path.
func Temporary(path string) string {
	return filepath.Join(filepath.Dir(path), temporaryPrefix+filepath.Base(path)+temporarySuffix)
}

// Replace atomically replaces the file at path, if any, by a durable one of mode 0600:
// readers see either the old or the new file. A symbolic link is replaced by the file.
// Only one process at a time may replace a path.
//
// A process that is killed meanwhile may leave a temporary file of a fixed name, which
// the next call or [RemoveTemporary] removes. On Linux, with most file systems, the
// file has no name until just before it is renamed, so that this is rare.
func Replace(path string, data []byte) error {
	return ReplaceAs(path, data, Attributes{Mode: 0o600, UID: -1, GID: -1})
}

// ReplaceAs is Replace with other attributes, which the file has before it has its
// name. Its time is at least a second later than that of the file that it replaces, and
// than now: servers that look at times in whole seconds see every change.
func ReplaceAs(path string, data []byte, a Attributes) error {
	modified := time.Now()
	if info, err := os.Stat(path); err == nil {
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", path) // a device would be replaced, too
		}
		if info.ModTime().After(modified) {
			modified = info.ModTime()
		}
	}
	modified = modified.Add(time.Second)
	temporary := Temporary(path)
	file, err := Create(temporary)
	if err != nil {
		return err
	}
	err = errors.Join(file.Chown(a.UID, a.GID), file.Chmod(a.Mode))
	if err != nil {
		return errors.Join(err, file.Close(), RemoveTemporary(path))
	}
	if err := fill(file, content(data)); err != nil {
		return errors.Join(err, RemoveTemporary(path))
	}
	if err := os.Chtimes(temporary, time.Time{}, modified); err != nil {
		return errors.Join(err, RemoveTemporary(path))
	}
	_, err = Move(OS{}, temporary, path)
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) {
		return fmt.Errorf("%w: the file is a mount point and cannot be replaced; mount the directory %s instead", err, filepath.Dir(path))
	}
	return err
}

// Make is [Replace] for a path that does not exist; if it exists, the error is
// [fs.ErrExist].
func Make(path string, data []byte) error {
	dir := filepath.Dir(path)
	if file := openUnnamed(dir); file != nil {
		if err := fill(&New{File: file, name: path, unnamed: true}, content(data)); err != nil {
			return err
		}
		return OS{}.SyncDir(dir)
	}
	temporary := Temporary(path)
	if err := Write(OS{}, temporary, content(data)); err != nil {
		return err
	}
	if err := errors.Join(os.Link(temporary, path), os.Remove(temporary)); err != nil {
		return err
	}
	return OS{}.SyncDir(dir)
}

// RemoveTemporary removes the temporary file of a process that was killed while it
// replaced the path. Call it before the first write.
func RemoveTemporary(path string) error { return OS{}.Remove(Temporary(path)) }

func content(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

// Disk is the part of a file system that durable writing needs.
type Disk interface {
	// Create makes a new file that only its owner can read. An existing file of that
	// name is removed.
	Create(name string) (DiskFile, error)
	Rename(from, to string) error
	// Remove removes the file, if there is one.
	Remove(name string) error
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
}

// DiskFile is a file that is being written.
type DiskFile interface {
	io.WriteCloser
	Sync() error
}

// Write makes a new durable file with the content. After an error there is no file.
func Write(d Disk, path string, content func(io.Writer) error) error {
	file, err := d.Create(path)
	if err != nil {
		return err
	}
	if err := fill(file, content); err != nil {
		return errors.Join(err, d.Remove(path))
	}
	return nil
}

// fill writes the file to its end.
func fill(file DiskFile, content func(io.Writer) error) error {
	err := content(file)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// Move renames the temporary file to path, in the same directory, and makes that
// durable. After an error the file at path is the old one, unless renamed is true: then
// it is the new one, but after a crash it may be the old one again.
func Move(d Disk, temporary, path string) (renamed bool, err error) {
	if err := d.Rename(temporary, path); err != nil {
		return false, errors.Join(err, d.Remove(temporary))
	}
	return true, d.SyncDir(filepath.Dir(path))
}

// OS is the file system of the process.
type OS struct{}

// Create is part of [Disk]. It is [Create].
func (OS) Create(name string) (DiskFile, error) { return Create(name) }

// Rename is part of [Disk].
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove is part of [Disk].
func (OS) Remove(name string) error {
	err := os.Remove(name)
	if err == nil {
		return nil
	}
	// A read-only file system, for one, refuses to remove even what is not there.
	if _, missing := os.Lstat(name); errors.Is(missing, fs.ErrNotExist) || errors.Is(missing, syscall.ENOTDIR) {
		return nil
	}
	return err
}

// SyncDir is part of [Disk].
func (OS) SyncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// New is a file that is being written, of mode 0600.
type New struct {
	*os.File
	name    string
	unnamed bool // until it is closed
	synced  bool
}

// Create makes a new file. If the system has files without a name, the file gets its
// name when it is closed after Sync; else it has it from the start. An existing file of
// that name was left by a process that was killed: it is removed, and never opened,
// because it might be a link.
func Create(name string) (*New, error) {
	if err := (OS{}).Remove(name); err != nil {
		return nil, err
	}
	if file := openUnnamed(filepath.Dir(name)); file != nil {
		return &New{File: file, name: name, unnamed: true}, nil
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil { // the name is temporary and says nothing to a reader
		return nil, &fs.PathError{Op: "create a file in", Path: filepath.Dir(name), Err: errors.Unwrap(err)}
	}
	return &New{File: file, name: name}, nil
}

// Sync makes the content durable. The content must be complete.
func (n *New) Sync() error {
	err := n.File.Sync()
	n.synced = err == nil
	return err
}

// Close closes the file. A file without Sync is gone then; if it has a name already,
// the caller must remove it.
func (n *New) Close() error {
	var err error
	if n.unnamed && n.synced {
		err = link(n.File, n.name)
	}
	return errors.Join(err, n.File.Close())
}
