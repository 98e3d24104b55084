package printable

import (
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                       "",
		"plain, “naïve” 世":       "plain, “naïve” 世",
		"\x1b[31mred\x07\r\n":    "�[31mred���",
		"\u009b2J":               "�2J", // a control sequence in one rune
		"a\u202Eb":               "a�b", // turns the direction of writing
		"\xff\xfe":               "��",
		strings.Repeat("x", 600): strings.Repeat("x", 600),
	} {
		if got := Text(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		strings.Repeat("x", 512):               strings.Repeat("x", 512),
		strings.Repeat("x", 513):               strings.Repeat("x", 512) + "…",
		strings.Repeat("x", 511) + "世":         strings.Repeat("x", 511) + "…",
		strings.Repeat("\x1b", 1<<20) + "rest": strings.Repeat("�", 512) + "…",
	} {
		if got := Short(text); got != want {
			t.Errorf("%.20q of %d bytes is %.20q of %d", text, len(text), got, len(got))
		}
	}
}
