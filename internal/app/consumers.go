package app

import (
	"context"
	"fmt"
	"time"

	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/metrics"
)

// openConsumers creates the table of consumers, unless the fleet has one, and restores
// the consumers of the state file.
func openConsumers(a *App) (part, error) {
	if a.handlers.Consumers == nil {
		a.handlers.Consumers = consumers.New(time.Now, nil)
	}
	table := a.handlers.Consumers
	if a.cfg.ActivateAfter == "all" {
		timeout := a.cfg.ActivateTimeout
		if timeout == 0 {
			timeout = a.cfg.RotateEvery / 10
		}
		a.handlers.Ring.ActivateAfter(table.Behind, timeout, a.log)
	}
	p := part{name: "consumers", metrics: func(m *metrics.Metrics) { m.AddConsumers(table, a.handlers.Ring) }}
	if a.state == nil {
		return p, nil
	}
	state, err := a.state.LoadConsumers()
	if err == nil && state != nil {
		err = table.Restore(state)
	}
	if err != nil {
		return part{}, fmt.Errorf("--state-file: the consumers: %w", err)
	}
	p.run = func(ctx context.Context) { table.SaveWhenChanged(ctx, a.state.SaveConsumers, a.log) }
	p.stop = func(context.Context) error { return table.Save(a.state.SaveConsumers) }
	return p, nil
}
