// Package files reads, follows and replaces small files with secrets and settings: key
// files, certificates, policies.
//
// [Read] takes no more memory than its limit, and never waits for a writer. [Followed]
// notices every change within a second, also through symbolic links and on file systems
// that do not report changes. Replace a file by renaming a new one over it: a file that
// is written in place can be read half-written.
package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
)

// ErrTooLarge reports a file that is larger than the limit.
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
	if info.Size() > int64(limit) {
		return nil, 0, fmt.Errorf("%w: a limit of %d bytes", ErrTooLarge, limit)
	}
	buf := make([]byte, info.Size()+1)
	n, err := io.ReadFull(file, buf)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return buf[:n], info.Mode(), nil
	case err == nil:
		err = errors.New("is being written to")
	}
	clear(buf)
	return nil, 0, withoutPath(err)
}

// ReadAll reads secrets up to the end of r, at most limit bytes. The caller wipes them.
// Up to size bytes, nothing is copied. After an error, nothing is left in memory.
func ReadAll(r io.Reader, size, limit int) ([]byte, error) {
	data := make([]byte, 0, size)
	for {
		if len(data) == cap(data) {
			larger := append(make([]byte, 0, 2*cap(data)), data...)
			clear(data)
			data = larger
		}
		n, err := r.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case len(data) > limit:
			err = fmt.Errorf("sent more than %d bytes", limit)
		case errors.Is(err, io.EOF):
			return data, nil
		}
		if err != nil {
			clear(data)
			return nil, err
		}
	}
}

func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// Permissions that only the owner of a file should have.
const (
	Secret  fs.FileMode = 0o066 // of a file that nobody else may read or replace the content of
	Trusted fs.FileMode = 0o022 // of a file that everybody may read, but nobody else may change
)

// WarnLoose logs a warning if the mode gives others than the owner one of the
// permissions, [Secret] or [Trusted]. The name says in the log which file it is.
func WarnLoose(log *slog.Logger, name, path string, mode, permissions fs.FileMode) {
	if mode.Perm()&permissions == 0 {
		return
	}
	advice := "chmod go-rw"
	if permissions == Trusted {
		advice = "chmod go-w"
	}
	log.Warn("file permissions are too open", slog.String("advice", advice), slog.String("name", name), slog.String("path", path), slog.String("mode", mode.Perm().String()))
}
