// Command hitratio compares cache eviction policies by the share of the attempts
// to resume that find their session, on models of TLS clients. It prints a table:
//
//	go run ./hitratio
//
// All sessions have the same size, and the capacity is a number of sessions. The
// models and the simulated policies are deterministic; otter and the session cache
// have seeds of their own, and differ by a tenth of a point between runs.
package main

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sessapi/sessapi/internal/cache/cachetest"
)

const seed = 1

// loads are the models, by what a row of the table calls them.
var loads = []struct {
	name string
	cachetest.Load
}{
	{"TLS 1.2, 24 h", cachetest.Load{
		Clients: 400_000, Once: 0.6, Connections: 4, Gap: 20 * time.Second,
		Visit: 3 * time.Hour, VisitSigma: 1.5, TTL: 24 * time.Hour,
	}},
	{"TLS 1.2, 2 h", cachetest.Load{
		Clients: 400_000, Once: 0.6, Connections: 4, Gap: 20 * time.Second,
		Visit: 3 * time.Hour, VisitSigma: 1.5, TTL: 2 * time.Hour,
	}},
	{"single use, 24 h", cachetest.Load{
		Clients: 400_000, Once: 0.6, Connections: 4, Gap: 20 * time.Second,
		Visit: 3 * time.Hour, VisitSigma: 1.5, TTL: 24 * time.Hour, SingleUse: true,
	}},
	{"TLS 1.2, busy, 1 h", cachetest.Load{
		Clients: 200_000, Once: 0.2, Connections: 2, Gap: time.Minute,
		Visit: 10 * time.Minute, VisitSigma: 1, TTL: time.Hour,
	}},
	{"single use, passing, 24 h", cachetest.Load{
		Clients: 600_000, Once: 0.9, Connections: 2, Gap: 15 * time.Second,
		Visit: time.Hour, VisitSigma: 1.5, TTL: 24 * time.Hour, SingleUse: true,
	}},
}

// capacities are in percent of the sessions that a cache without bounds stores.
var capacities = []float64{0.5, 2, 5, 20}

var policies = []struct {
	name string
	make func(ids, capacity int) cachetest.Policy // ids is more than any ID
}{
	{"OPT", newOPT},
	{"LRU", func(_, capacity int) cachetest.Policy { return cachetest.NewLRU(capacity) }},
	{"FIFO", newFIFO},
	{"CLOCK", newCLOCK},
	{"SIEVE", newSIEVE},
	{"S3-FIFO", newS3FIFO},
	{"otter", newOtter},
	{"sessapi", newSessions},
}

func main() {
	ratios := make([][][]float64, len(loads)) // by load, capacity and policy
	cores := make(chan struct{}, runtime.GOMAXPROCS(0))
	var running sync.WaitGroup
	for i := range loads {
		cores <- struct{}{}
		running.Go(func() {
			defer func() { <-cores }()
			ratios[i] = measure(loads[i].Load)
		})
	}
	running.Wait()
	printTable(ratios)
}

// measure returns the hits in percent, by capacity and policy.
func measure(l cachetest.Load) (ratios [][]float64) {
	trace := l.Trace(seed)
	// Nothing is evicted: the capacity is more than all that could be stored.
	stored := cachetest.Replay(trace, l, cachetest.NewLRU(len(trace))).Stored
	for _, percent := range capacities {
		var row []float64
		for _, p := range policies {
			policy := p.make(len(trace), int(float64(stored)*percent/100))
			row = append(row, cachetest.Replay(trace, l, policy).Ratio())
			if closer, ok := policy.(interface{ close() }); ok {
				closer.close()
			}
		}
		ratios = append(ratios, row)
	}
	return ratios
}

// printTable prints a Markdown table, with the mean of each column last.
func printTable(ratios [][][]float64) {
	const head, cell = "| %-25s | %8s |", " %*.1f |"
	fmt.Printf(head, "load", "capacity")
	for _, p := range policies {
		fmt.Printf(" %s |", p.name)
	}
	fmt.Print("\n| --- | --: |", strings.Repeat(" --: |", len(policies)), "\n")
	means := make([]float64, len(policies))
	for i, l := range loads {
		for j, percent := range capacities {
			fmt.Printf(head, l.name, strconv.FormatFloat(percent, 'f', -1, 64)+" %")
			for k, p := range policies {
				means[k] += ratios[i][j][k] / float64(len(loads)*len(capacities))
				fmt.Printf(cell, max(len(p.name), 4), ratios[i][j][k])
			}
			fmt.Println()
		}
	}
	fmt.Printf(head, "mean", "")
	for k, p := range policies {
		fmt.Printf(cell, max(len(p.name), 4), means[k])
	}
	fmt.Println()
}
