package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"
)

// No field makes a line long, whatever it comes from.
func TestLogIsBounded(t *testing.T) {
	for _, long := range []string{strings.Repeat("x", 100<<10), strings.Repeat("ü", 50<<10), strings.Repeat("\xBF", 100<<10)} {
		for _, format := range []string{"text", "json"} {
			var out bytes.Buffer
			log := newLogger(&out, "info", format)
			log.Info(long) //nolint:sloglint // a message is a field, too
			log.Info("request", slog.String("method", long))
			log.Info("request", "error", errors.New(long))
			log.With("a", long).WithGroup("g").Info("request", slog.Group("h", slog.String("b", long)))
			for line := range strings.Lines(out.String()) {
				if limit := 2*6*maxAttr + 200; len(line) > limit || !utf8.ValidString(line) { // a byte may be escaped to six
					t.Errorf("%s: a line of %d bytes: %.100q", format, len(line), line)
				}
			}
		}
	}
	var out bytes.Buffer
	newLogger(&out, "info", "text").Info("short", "n", 7, "error", errors.New("broken"))
	if !strings.Contains(out.String(), "msg=short n=7 error=broken") {
		t.Errorf("logged %s", &out)
	}
}
