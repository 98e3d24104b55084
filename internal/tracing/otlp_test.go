//go:build otlp

package tracing

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/sessapi/sessapi/internal/logtest"
)

// failing is an exporter that fails.
type failing struct{}

func (failing) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error {
	return errors.New("no\x1b[31m" + strings.Repeat("x", 10000))
}

func (failing) Shutdown(context.Context) error { return nil }

// A failing collector has one line in the log each minute, with all spans dropped so far.
func TestFailuresLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out logtest.Buffer
		l := &logging{SpanExporter: failing{}, log: slog.New(slog.NewTextHandler(&out, nil))}
		for range 3 {
			if err := l.ExportSpans(t.Context(), make([]sdktrace.ReadOnlySpan, 5)); err != nil {
				t.Error(err)
			}
		}
		if text := out.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "dropped=5") || strings.Contains(text, "\x1b") || len(text) > 1000 {
			t.Errorf("the log: %q", text)
		}
		time.Sleep(logEvery)
		_ = l.ExportSpans(t.Context(), make([]sdktrace.ReadOnlySpan, 5))
		if text := out.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "dropped=15") {
			t.Errorf("the log: %q", text)
		}
	})
}
