package seal

import (
	"fmt"
	"io/fs"

	"github.com/sessapi/sessapi/internal/files"
)

// maxKeyFile is the size of the largest key file, in bytes: several times what
// its keys take.
const maxKeyFile = 64 << 10

// ReadKeys reads a key file, as [ParseKeys] does, and returns its mode.
func ReadKeys(path string) (*Keys, fs.FileMode, error) {
	data, mode, err := files.ReadText(path, maxKeyFile)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	defer clear(data)
	keys, err := ParseKeys(data)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	return keys, mode, nil
}
