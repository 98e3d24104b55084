package cachetest_test

import (
	"fmt"
	"time"

	"github.com/sessapi/sessapi/internal/cache/cachetest"
)

func Example() {
	load := cachetest.Load{
		Clients: 1000, Once: 0.6, Connections: 4, Gap: 20 * time.Second,
		Visit: 3 * time.Hour, VisitSigma: 1.5, TTL: 24 * time.Hour,
	}
	result := cachetest.Replay(load.Trace(1), load, cachetest.NewLRU(100))
	fmt.Println(result.Hits <= result.Attempts, result.Ratio() > 90)
	// Output: true true
}
