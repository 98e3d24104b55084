package files

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"unicode"
)

// ErrControlCharacter is the error of text with a character that editors and readers
// do not agree on.
var ErrControlCharacter = errors.New("has a control character")

// CheckText refuses control characters other than LF, CRLF and tab, and the line and
// paragraph separators of Unicode: what an editor shows as one line, a parser may
// take for two. The error says where the first one is.
func CheckText(data []byte) error {
	line := 1
	for i, r := range string(data) {
		switch {
		case r == '\n':
			line++
		case r == '\t', r == '\r' && bytes.HasPrefix(data[i:], []byte("\r\n")):
		case unicode.IsControl(r), r == '\u2028', r == '\u2029':
			return fmt.Errorf("line %d: %w: %U", line, ErrControlCharacter, r)
		}
	}
	return nil
}

// ReadText is [Read] for a file of text, which [CheckText] must let pass.
func ReadText(path string, limit int) ([]byte, fs.FileMode, error) {
	data, mode, err := Read(path, limit)
	if err != nil {
		return nil, 0, err
	}
	if err := CheckText(data); err != nil {
		clear(data)
		return nil, 0, err
	}
	return data, mode, nil
}
