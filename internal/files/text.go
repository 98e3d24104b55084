package files

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"unicode"
)

// ErrControlCharacter reports a character in a text that editors and parsers may treat
// differently.
var ErrControlCharacter = errors.New("has a control character")

// ControlCharacter finds the first line or paragraph separator of Unicode, or control
// character other than LF, CRLF and tab: an editor may show one line where a parser
// reads two.
func ControlCharacter(data []byte) (line int, r rune, found bool) {
	line = 1
	for i, r := range string(data) {
		switch {
		case r == '\n':
			line++
		case r == '\t', r == '\r' && bytes.HasPrefix(data[i:], []byte("\r\n")):
		case unicode.IsControl(r), r == '\u2028', r == '\u2029':
			return line, r, true
		}
	}
	return 0, 0, false
}

// ReadText is [Read] for a text file, which must have no [ControlCharacter].
func ReadText(path string, limit int) ([]byte, fs.FileMode, error) {
	data, mode, err := Read(path, limit)
	if err != nil {
		return nil, 0, err
	}
	if line, r, found := ControlCharacter(data); found {
		clear(data)
		return nil, 0, fmt.Errorf("line %d: %w: %U", line, ErrControlCharacter, r)
	}
	return data, mode, nil
}
