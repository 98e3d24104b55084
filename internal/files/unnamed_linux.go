package files

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// openUnnamed makes a file in the directory that has no name (O_TMPFILE of open(2)),
// or returns nil where there is no such thing: on NFS, for instance.
func openUnnamed(dir string) *os.File {
	fd, err := unix.Open(dir, unix.O_WRONLY|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil
	}
	file := os.NewFile(uintptr(fd), dir)
	if _, err := os.Lstat(procPath(file)); err != nil { // and so it could get no name
		_ = file.Close()
		return nil
	}
	return file
}

// link gives a file that has no name one.
func link(file *os.File, name string) error {
	if err := unix.Linkat(unix.AT_FDCWD, procPath(file), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: "a new file", New: name, Err: err}
	}
	return nil
}

// procPath leads to the file without a privilege.
func procPath(file *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(file.Fd())) }
