package app

import (
	"context"
	"sync"
	"time"

	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/events"
	"github.com/sessapi/sessapi/internal/fleet"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/metrics"
)

// openEvents has what happens to the ticket keys, the consumers and the fleet published.
// The session cache publishes by itself.
func openEvents(a *App) (part, error) {
	bus := a.handlers.Events
	a.handlers.Ring.Observe(keys.Observer{
		Updated:  func(active keys.Description) { bus.Publish(events.TicketKeysUpdated, active) },
		Rejected: func(r keys.Rejection) { bus.Publish(events.TicketKeysRejected, r) },
	})
	return part{
		name: "events",
		run: func(ctx context.Context) {
			var running sync.WaitGroup
			defer running.Wait()
			if a.fleet != nil {
				running.Go(func() { watchFleet(ctx, a.fleet, bus) })
			}
			a.handlers.Consumers.Watch(ctx, a.handlers.Ring, func(c consumers.Change) {
				bus.Publish(events.ConsumerChanged, c)
			})
		},
		metrics: func(m *metrics.Metrics) { m.AddEvents(bus) },
	}, nil
}

// watchFleetEvery is how often the state of the link to Redis is compared with the last.
const watchFleetEvery = time.Second

// watchFleet publishes changes of the link to Redis until ctx ends.
func watchFleet(ctx context.Context, node *fleet.Node, bus *events.Bus) {
	state := func() events.Fleet {
		s := node.Stats()
		return events.Fleet{Connected: s.Connected, Since: s.Since, Degraded: node.Health()}
	}
	last := state()
	tick := time.NewTicker(watchFleetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := state(); now != last {
			last = now
			bus.Publish(events.FleetChanged, now)
		}
	}
}
