//go:build otlp

package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/sessapi/sessapi/internal/printable"
)

const built = true

// scope is the name under which the spans are recorded.
const scope = "github.com/sessapi/sessapi"

// Tracer records spans and exports them. It is safe for concurrent use. Its owner must
// call Close.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// New returns a tracer that exports to the collector at the endpoint, the URL in front of
// /v1/traces. It does not wait for the collector. The variables OTEL_* of the environment
// set the rest, such as headers, the sampler and the size of the queue.
func New(endpoint, version string, log *slog.Logger) (*Tracer, error) {
	if err := CheckEndpoint(endpoint); err != nil {
		return nil, err
	}
	target, err := url.JoinPath(endpoint, "v1", "traces")
	if err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(target))
	if err != nil {
		return nil, err
	}
	about, err := resource.New(context.Background(), resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(attribute.String("service.name", "sessapi"), attribute.String("service.version", version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithResource(about), sdktrace.WithBatcher(&logging{SpanExporter: exporter, log: log}))
	return &Tracer{provider, provider.Tracer(scope)}, nil
}

// Close exports what is recorded, until ctx ends.
func (t *Tracer) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// logEvery is the least time between log lines about the collector.
const logEvery = time.Minute

// logging keeps the errors of an exporter from the global handler of the library, and logs
// them at most once every logEvery.
type logging struct {
	sdktrace.SpanExporter
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	dropped int        // spans since the last log line
	logged  time.Time
}

// ExportSpans is part of [sdktrace.SpanExporter].
func (l *logging) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := l.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropped += len(spans)
	if now := time.Now(); l.logged.IsZero() || now.Sub(l.logged) >= logEvery {
		l.log.Warn("cannot export spans; dropping them", slog.Int("dropped", l.dropped), slog.String("error", printable.Short(err.Error())))
		l.dropped, l.logged = 0, now
	}
	return nil
}

// contextKey is the key of the tracer in a context.
type contextKey struct{}

// Request begins the span of a request, as a child of the one in its traceparent header.
// It returns the request with the span, and what ends it.
func (t *Tracer) Request(r *http.Request) (*http.Request, func(method, route string, status int)) {
	ctx := propagation.TraceContext{}.Extract(context.WithValue(r.Context(), contextKey{}, t.tracer), propagation.HeaderCarrier(r.Header))
	ctx, span := t.tracer.Start(ctx, "HTTP", trace.WithSpanKind(trace.SpanKindServer))
	return r.WithContext(ctx), func(method, route string, status int) {
		if !methods[method] {
			method = "_OTHER" // whatever a client sends
		}
		if route == "" {
			span.SetName(method)
		} else {
			span.SetName(method + " " + route)
			span.SetAttributes(attribute.String("http.route", route))
		}
		span.SetAttributes(attribute.String("http.request.method", method), attribute.Int("http.response.status_code", status))
		if status == 0 || status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}

// methods are those that the API has.
var methods = map[string]bool{http.MethodGet: true, http.MethodHead: true, http.MethodPut: true, http.MethodPost: true, http.MethodDelete: true}

// Span is a part of a trace. The zero Span records nothing.
type Span struct{ span trace.Span }

// Start begins a span under the one in ctx, and returns a context with it. The caller must
// end it.
func Start(ctx context.Context, name string) (context.Context, Span) {
	tracer, ok := ctx.Value(contextKey{}).(trace.Tracer)
	if !ok {
		return ctx, Span{}
	}
	ctx, span := tracer.Start(ctx, name)
	return ctx, Span{span}
}

// StartRedis begins a span of an operation in Redis under the one in ctx. The caller must
// end it.
func StartRedis(ctx context.Context, operation string) Span {
	tracer, ok := ctx.Value(contextKey{}).(trace.Tracer)
	if !ok {
		return Span{}
	}
	_, span := tracer.Start(ctx, "redis "+operation, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("db.system.name", "redis"), attribute.String("db.operation.name", operation)))
	return Span{span}
}

// End ends the span. It records that there was an error, but not its text, which may hold
// a session ID.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil {
		s.span.SetStatus(codes.Error, "")
	}
	s.span.End()
}
