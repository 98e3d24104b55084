package seal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// maxKeyFile is the size of the largest key file, in bytes: several times what
// its keys take.
const maxKeyFile = 64 << 10

// ReadKeys reads a key file, and returns its mode too. See [ParseKeys].
func ReadKeys(path string) (keys *Keys, mode fs.FileMode, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a pipe would wait for its writer
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	data := make([]byte, maxKeyFile+1)
	defer clear(data)
	n, err := io.ReadFull(file, data)
	if err == nil {
		return nil, 0, fmt.Errorf("%s: is larger than %d bytes", path, maxKeyFile)
	} else if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, 0, err
	}
	if keys, err = ParseKeys(data[:n]); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	return keys, info.Mode(), nil
}
