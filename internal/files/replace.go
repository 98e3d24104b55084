package files

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Disk is what replacing a file needs of a file system.
type Disk interface {
	// Create makes a new file that only its owner can read.
	Create(name string) (DiskFile, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
}

// DiskFile is a file that is being written.
type DiskFile interface {
	io.WriteCloser
	Sync() error
}

// OS is the file system of the process.
type OS struct{}

// Create is part of [Disk].
func (OS) Create(name string) (DiskFile, error) {
	// What is left of a write that could not remove it would be in the way. It is
	// never opened: it might be a link.
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
}

// Rename is part of [Disk].
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove is part of [Disk].
func (OS) Remove(name string) error { return os.Remove(name) }

// SyncDir is part of [Disk].
func (OS) SyncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Replace puts a file of mode 0600 in the place of the one at path, if any, whole
// and for good: readers, also after a crash, find the one or the other. A link is
// replaced by the file.
func Replace(path string, content func(io.Writer) error) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text())
	if err := Write(OS{}, temporary, content); err != nil {
		return err
	}
	_, err := Move(OS{}, temporary, path)
	return err
}

// Write makes a new file with that content, for good. After an error there is none.
func Write(d Disk, path string, content func(io.Writer) error) error {
	file, err := d.Create(path)
	if err != nil {
		return err
	}
	err = content(file)
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return errors.Join(err, d.Remove(path))
	}
	return nil
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
