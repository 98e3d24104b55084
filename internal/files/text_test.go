package files

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadText(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, test := range []struct{ text, want string }{
		{"", ""},
		{"a: b # ü\r\n\tc\n\r\n", ""},
		{"\xFF\xFE", ""}, // for the parser to judge
		{"one\ntwo # comment\r    three\n", "line 2: has a control character: U+000D"},
		{"the end\r", "U+000D"},
		{"\r\r\n", "U+000D"},
		{"nul\x00", "U+0000"},
		{"escape\x1B[2J", "U+001B"},
		{"form feed\f", "U+000C"},
		{"delete\x7F", "U+007F"},
		{"next line\u0085", "U+0085"},
		{"line separator\u2028", "U+2028"},
	} {
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		data, _, err := ReadText(path, 100)
		switch {
		case test.want == "" && (err != nil || string(data) != test.text):
			t.Errorf("%q: %q, %v", test.text, data, err)
		case test.want != "" && (!errors.Is(err, ErrControlCharacter) || !strings.Contains(err.Error(), test.want) || data != nil):
			t.Errorf("%q: %q, %v", test.text, data, err)
		}
	}
}
