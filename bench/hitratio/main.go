// Command hitratio compares cache eviction policies by the share of accesses
// that hit, on loads as a TLS session cache may see them. It prints a table:
//
//	go run ./hitratio
//
// All entries have the same size, and the capacity is a number of entries. The
// loads and the simulated policies are deterministic. The seeds of otter and of
// the session cache are not; of otter, which differs by about a point between
// runs on some loads, the mean of three runs is shown.
package main

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// A policy decides what a cache keeps. Each get that misses is followed by a
// put of that key. Time counts accesses.
type policy interface {
	get(key uint32, now int) bool
	put(key uint32, now int)
}

// maker makes the policy for the keys and the lifetime of a load.
type maker func(l *load, capacity int) policy

type column struct {
	name string
	make maker
	runs int
}

// variant returns the chosen policy with a change.
func variant(change func(*tinyLFUConfig)) maker {
	cfg := chosen
	change(&cfg)
	return newTinyLFU(cfg)
}

// columns returns the policies; the first is what the others are held against.
func columns() []column {
	return []column{
		{"otter", newOtter, 3},
		{"FIFO", newFIFO, 1},
		{"LRU", newLRU, 1},
		{"SIEVE", newSIEVE, 1},
		{"S3-FIFO", newS3FIFO, 1},
		{"S3-FIFO, sketch", newS3Sketch, 1},
		{"TinyLFU rings", newTinyLFU(chosen), 1},
		{"16 shards", newSharded(16, newTinyLFU(chosen)), 1},
		{"saturating", variant(func(c *tinyLFUConfig) { c.countAll = false }), 1},
		{"1 bit", variant(func(c *tinyLFUConfig) { c.usedMax = 1 }), 1},
		{"window 10 %", variant(func(c *tinyLFUConfig) { c.window = 10 }), 1},
		{"sessapi", newSessions, 1},
	}
}

// row is the outcome of a load at one capacity.
type row struct {
	load     string
	capacity int
	percent  []float64 // of accesses that hit, by column
}

func main() {
	loads, columns := loads(), columns()
	rows := make([][]row, len(loads))
	cores := make(chan struct{}, runtime.GOMAXPROCS(0))
	var running sync.WaitGroup
	for i, makeLoad := range loads {
		running.Go(func() {
			cores <- struct{}{}
			defer func() { <-cores }()
			rows[i] = measure(makeLoad(), columns)
		})
	}
	running.Wait()
	printTable(rows, columns)
}

func measure(l load, columns []column) []row {
	capacities := []int{l.footprint / 100, l.footprint / 20, l.footprint / 10}
	if l.capacity > 0 {
		capacities = []int{l.capacity}
	}
	var rows []row
	for _, capacity := range capacities {
		r := row{load: l.name, capacity: capacity}
		for _, c := range columns {
			hits := 0
			for range c.runs {
				hits += countHits(&l, c.make(&l, capacity))
			}
			r.percent = append(r.percent, 100*float64(hits)/float64(c.runs*len(l.accesses)))
		}
		rows = append(rows, r)
	}
	return rows
}

func countHits(l *load, p policy) (hits int) {
	if closer, ok := p.(interface{ close() }); ok {
		defer closer.close()
	}
	for now, key := range l.accesses {
		if p.get(key, now) {
			hits++
		} else {
			p.put(key, now)
		}
	}
	return hits
}

// printTable prints a Markdown table, and as its last row how far each column
// falls behind the first at worst.
func printTable(rows [][]row, columns []column) {
	const head, cell = "| %-24s | %8s |", " %*.1f |"
	fmt.Printf(head, "load", "capacity")
	for _, c := range columns {
		fmt.Printf(" %s |", c.name)
	}
	fmt.Print("\n| --- | --: |", strings.Repeat(" --: |", len(columns)), "\n")
	worst := make([]float64, len(columns))
	for _, ofLoad := range rows {
		for _, r := range ofLoad {
			fmt.Printf(head, r.load, strconv.Itoa(r.capacity))
			for i, percent := range r.percent {
				worst[i] = min(worst[i], percent-r.percent[0])
				fmt.Printf(cell, len(columns[i].name), percent)
			}
			fmt.Println()
		}
	}
	fmt.Printf(head, "worst against "+columns[0].name, "")
	for i, difference := range worst {
		fmt.Printf(cell, len(columns[i].name), difference)
	}
	fmt.Println()
}
