package main

import (
	"bytes"
	"errors"
	"log/slog"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// No field makes a line too long, whatever its source.
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

// Durations are readable in both formats.
func TestLogOfDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                "0s",
		999:                              "999ns",
		1234:                             "1.23µs",
		340976176:                        "341ms",
		-340976176:                       "-341ms",
		999999999:                        "1s",
		1500 * time.Millisecond:          "1.5s",
		90*time.Second + 1234567:         "1m30s",
		36*time.Hour + 12345678:          "36h0m0s",
		math.MinInt64:                    "-2562047h47m16.854775808s",
		time.Hour + 400*time.Millisecond: "1h0m0s",
		12345 * time.Microsecond:         "12.3ms",
		99*time.Second + 96*1000*1000*10: "1m40s",
	} {
		for format, member := range map[string]string{"text": "retry_in=" + want, "json": `"retry_in":"` + want + `"`} {
			var out bytes.Buffer
			newLogger(&out, "info", format).With(slog.Group("g")).Info("away", slog.Duration("retry_in", d))
			if !strings.Contains(out.String(), member) {
				t.Errorf("%d in %s: %s", d, format, &out)
			}
		}
	}
}

// Checking the fields of a line does not copy them.
func TestLogAttrAllocations(t *testing.T) {
	attrs := []slog.Attr{slog.String("path", "/sessions/01"), slog.Int("status", 12345), slog.Any("error", errors.New("broken"))}
	if n := testing.AllocsPerRun(100, func() {
		for _, a := range attrs {
			logAttr(nil, a)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Times have milliseconds in both formats, in the line and in fields.
func TestLogOfTimes(t *testing.T) {
	at := time.Date(2026, 11, 24, 13, 0, 0, 1999999, time.FixedZone("", 3600))
	for format, want := range map[string]string{
		"text": `^time=\S{19}\.\d{3}Z level=INFO msg=rotates next=2026-11-24T12:00:00\.001Z\n$`,
		"json": `^\{"time":"[^"]{19}\.\d{3}Z","level":"INFO","msg":"rotates","next":"2026-11-24T12:00:00\.001Z"\}\n$`,
	} {
		var out bytes.Buffer
		newLogger(&out, "info", format).Info("rotates", "next", at)
		if !regexp.MustCompile(want).Match(out.Bytes()) {
			t.Errorf("%s: %s", format, &out)
		}
	}
}
