package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// temporaryPrefix and temporarySuffix make the name of the temporary file of a path.
const temporaryPrefix, temporarySuffix = ".", ".tmp"

// Temporary is the one name beside path for what is not path yet.
func Temporary(path string) string {
	return filepath.Join(filepath.Dir(path), temporaryPrefix+filepath.Base(path)+temporarySuffix)
}

// Replace puts a file of mode 0600 in place of the one at path, if any, for good: who
// reads it meanwhile sees the one or the other, whole. A link is replaced by the
// file. One process at a time may replace a path.
//
// A process that is killed meanwhile leaves nothing behind where the system has files
// without a name (Linux, on most file systems), but for the moment between giving it
// a name and renaming it; elsewhere one file of a fixed name, which the next call or
// [RemoveTemporary] removes.
func Replace(path string, data []byte) error {
	return ReplaceAs(path, data, Attributes{Mode: 0o600, UID: -1, GID: -1})
}

// ReplaceAs is Replace with other attributes, which the file has before it has its
// name.
func ReplaceAs(path string, data []byte, a Attributes) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path) // a device would be replaced, too
	}
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
	_, err = Move(OS{}, temporary, path)
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) {
		return fmt.Errorf("%w: the file is a mount of its own and cannot be replaced; mount the directory %s instead", err, filepath.Dir(path))
	}
	return err
}

// Make is Replace for a path where nothing is; else the error is [fs.ErrExist].
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

// RemoveTemporary removes what a process that was killed while it replaced the path
// has left. It is for the start of who writes it.
func RemoveTemporary(path string) error { return OS{}.Remove(Temporary(path)) }

func content(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

// Disk is what writing a file for good needs of a file system.
type Disk interface {
	// Create makes a new file that only its owner can read. What has the name is
	// removed.
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

// Write makes a new file with that content, for good. After an error there is none.
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

// Move renames the temporary file to path in the same directory, for good. After an
// error the file at path is as it was, unless it was renamed already: then it is
// new, but may be the old one again after a crash.
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
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
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

// Create makes a new file that gets the name when it is closed, if it was synced, or
// has it from the start where the system has no files without a name. What has the
// name is removed: it is left from a process that was killed, and never opened, for it
// might be a link.
func Create(name string) (*New, error) {
	if err := (OS{}).Remove(name); err != nil {
		return nil, err
	}
	if file := openUnnamed(filepath.Dir(name)); file != nil {
		return &New{File: file, name: name, unnamed: true}, nil
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &New{File: file, name: name}, nil
}

// Sync makes the content durable, which is complete then.
func (n *New) Sync() error {
	err := n.File.Sync()
	n.synced = err == nil
	return err
}

// Close closes the file. One that was not synced is gone then, or has to be removed
// where it has a name.
func (n *New) Close() error {
	var err error
	if n.unnamed && n.synced {
		err = link(n.File, n.name)
	}
	return errors.Join(err, n.File.Close())
}
