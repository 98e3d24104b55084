package main

import (
	"log/slog"
	"strings"
	"unicode/utf8"
)

// maxAttr is how much of a field is logged, in bytes. What a client, a server or a
// file is to blame for is often in an error, and may be as long as these like.
const maxAttr = 2 << 10

// boundAttr cuts off a field that is too long, the message included. It is for
// [slog.HandlerOptions].
func boundAttr(_ []string, a slog.Attr) slog.Attr {
	text := ""
	switch value := a.Value.Any().(type) {
	case string:
		text = value
	case error:
		text = value.Error()
	}
	if len(text) <= maxAttr {
		return a
	}
	end := maxAttr
	for end > maxAttr-utf8.UTFMax && !utf8.RuneStart(text[end]) {
		end--
	}
	return slog.String(a.Key, strings.Clone(text[:end])+"…")
}
