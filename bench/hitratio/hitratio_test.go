package main

import (
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache/cachetest"
)

// TestPolicies checks what is true of any policy: none is ahead of OPT, and
// with room for all sessions every attempt hits.
func TestPolicies(t *testing.T) {
	load := cachetest.Load{
		Clients: 2000, Once: 0.5, Connections: 3, Gap: time.Minute,
		Visit: time.Hour, VisitSigma: 1, TTL: 6 * time.Hour,
	}
	for _, load.SingleUse = range []bool{false, true} {
		trace := load.Trace(seed)
		ratio := func(open func(ids, capacity int) cachetest.Policy, capacity int) float64 {
			p := open(len(trace), capacity)
			if closer, ok := p.(interface{ close() }); ok {
				defer closer.close()
			}
			return cachetest.Replay(trace, load, p).Ratio()
		}
		const capacity = 100
		best := ratio(newOPT, capacity)
		for _, p := range policies {
			if got := ratio(p.make, capacity); got > best || got < 1 {
				t.Errorf("%s, single use %t: %.1f %% hits, OPT %.1f %%", p.name, load.SingleUse, got, best)
			}
			// S3-FIFO and otter divide the room, so that each part needs enough.
			if got := ratio(p.make, 20*len(trace)); got != 100 {
				t.Errorf("%s, single use %t: %.1f %% hits with room for all", p.name, load.SingleUse, got)
			}
		}
	}
}
