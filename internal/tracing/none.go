//go:build !otlp

package tracing

import (
	"context"
	"log/slog"
	"net/http"
)

const built = false

// Tracer records spans. This build has none.
type Tracer struct{}

// New returns [ErrNotBuilt].
func New(string, string, *slog.Logger) (*Tracer, error) { return nil, ErrNotBuilt }

// Request returns r, and a function that does nothing.
func (*Tracer) Request(r *http.Request) (*http.Request, func(method, route string, status int)) {
	return r, func(string, string, int) {}
}

// Close does nothing.
func (*Tracer) Close(context.Context) error { return nil }

// Span is a part of a trace. This build records none.
type Span struct{}

// Start returns ctx and a Span that records nothing.
func Start(ctx context.Context, _ string) (context.Context, Span) { return ctx, Span{} }

// StartRedis returns a Span that records nothing.
func StartRedis(context.Context, string) Span { return Span{} }

// End does nothing.
func (Span) End(error) {}
