package app

import (
	"context"
	"fmt"
	"time"

	"github.com/sessapi/sessapi/internal/tracing"
)

// exportTimeout is how long stopping waits for the collector of spans.
const exportTimeout = 2 * time.Second

// openTracing begins to record spans if there is a collector for them.
func openTracing(a *App) (part, error) {
	if a.cfg.OTLPEndpoint == "" {
		return part{}, nil
	}
	tracer, err := tracing.New(a.cfg.OTLPEndpoint, a.handlers.Version, a.log)
	if err != nil {
		return part{}, fmt.Errorf("--otlp-endpoint: %w", err)
	}
	a.handlers.Trace = tracer.Request
	return part{
		name: "tracing",
		stop: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, exportTimeout)
			defer cancel()
			_ = tracer.Close(ctx) // at worst spans are lost
			return nil
		},
	}, nil
}
