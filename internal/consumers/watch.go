package consumers

import (
	"context"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
)

const (
	// watchEvery is how often [Table.Watch] looks for consumers that have become missing,
	// and watchGap is the least time between two looks.
	watchEvery = time.Second
	watchGap   = 100 * time.Millisecond
)

// Change is a change of a consumer.
type Change struct {
	Consumer
	// Forgotten reports that the table no longer has the consumer, which is described as it
	// last was.
	Forgotten bool
}

// Watch calls changed for each consumer that is new or forgotten, or that has another state
// or generation than before, until ctx ends. Several changes of a consumer within a tenth
// of a second are one. The states depend on the active set of the ring.
func (t *Table) Watch(ctx context.Context, ring *keys.Ring, changed func(Change)) {
	known := t.byName(ring.Description())
	for {
		keysChanged := ring.Changed()
		now := t.byName(ring.Description())
		for name, c := range now {
			if old, found := known[name]; !found || c.State != old.State || c.Generation != old.Generation {
				changed(Change{Consumer: c})
			}
			delete(known, name)
		}
		for _, c := range known {
			changed(Change{Consumer: c, Forgotten: true})
		}
		known = now
		if !sleep(ctx, watchGap) {
			return
		}
		timer := time.NewTimer(watchEvery)
		select {
		case <-ctx.Done():
		case <-t.woken:
		case <-keysChanged:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (t *Table) byName(active keys.Description) map[string]Consumer {
	consumers := make(map[string]Consumer)
	for _, c := range t.List(active) {
		consumers[c.Name] = c
	}
	return consumers
}

// sleep waits for d, and reports whether ctx has not ended by then.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
