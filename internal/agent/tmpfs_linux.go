package agent

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// onDisk reports whether path is on a file system other than tmpfs or ramfs.
func onDisk(path string) (bool, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &stat); err != nil {
		return false, err
	}
	return stat.Type != unix.TMPFS_MAGIC && stat.Type != unix.RAMFS_MAGIC, nil
}
