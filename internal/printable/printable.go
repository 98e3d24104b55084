// Package printable makes texts of strangers, such as what a server answers, safe to
// write to a terminal, a log or a report.
package printable

import (
	"strings"
	"unicode"
)

// maxShort is the length of a text that people read as a whole, in bytes.
const maxShort = 512

// Text replaces every rune that does not print, such as those that control a terminal,
// by U+FFFD.
func Text(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// Short is Text, cut to 512 bytes before that.
func Short(text string) string {
	if len(text) > maxShort {
		text = strings.ToValidUTF8(text[:maxShort], "") + "…"
	}
	return Text(text)
}
