package main

import (
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"
)

// newLogger returns a logger to w. The format auto is text for a terminal, else JSON.
func newLogger(w io.Writer, level, format string) *slog.Logger {
	var options slog.HandlerOptions
	var threshold slog.Level
	if err := threshold.UnmarshalText([]byte(level)); err != nil {
		panic(err) // the settings allow only levels
	}
	options.Level = threshold
	options.ReplaceAttr = logAttr
	if format == "text" || format == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, &options))
	}
	return slog.New(slog.NewJSONHandler(w, &options))
}

// maxAttr is the maximum logged size of a field in bytes. Errors often quote text from
// a client, a server or a file, which can be any length.
const maxAttr = 2 << 10

// timeFormat is the format of all times: RFC 3339 in milliseconds, as in the service's
// responses.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// logAttr truncates a field that is too long, even the message. It writes a duration as
// 1.5s, where JSON would have nanoseconds, and a time in milliseconds. It is for
// [slog.HandlerOptions].
func logAttr(_ []string, a slog.Attr) slog.Attr {
	var text string
	switch a.Value.Kind() {
	case slog.KindString:
		text = a.Value.String()
	case slog.KindDuration:
		return slog.String(a.Key, rounded(a.Value.Duration()).String())
	case slog.KindTime:
		return slog.String(a.Key, a.Value.Time().UTC().Format(timeFormat))
	case slog.KindAny:
		err, ok := a.Value.Any().(error)
		if !ok {
			return a
		}
		text = err.Error()
	default: // all other kinds are short
		return a
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

// rounded returns the duration with three digits, or in whole seconds from 100 s.
func rounded(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for unit < time.Second && d.Abs() >= 1000*unit {
		unit *= 10
	}
	return d.Round(unit)
}
