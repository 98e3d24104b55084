package audit

import (
	"errors"
	"os"
	"syscall"
)

// allocate allocates a part of the file on the disk, which stays behind the end of
// the file (fallocate(2)).
func allocate(file *os.File, offset, size int64) error {
	const keepSize = 1 // FALLOC_FL_KEEP_SIZE
	for {
		err := syscall.Fallocate(int(file.Fd()), keepSize, offset, size)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
