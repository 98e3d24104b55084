package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// measure is one table.
type measure struct {
	name     string
	about    string // what is done; %d is the number of sessions
	sessions int
	rows     []string // sessapi's is the first
	columns  []column
	goals    []goal
	run      func(ctx context.Context, row string, sessions int) (figures, error)
	// ratio tells whether the rows are compared by their first column.
	ratio bool
}

type column struct {
	key, head, format string
}

// goal is what sessapi is to reach.
type goal struct {
	text string
	// met gets the medians of the rows by their names.
	met func(m map[string]figures) bool
}

// noAllocations leaves out what the runtime allocates for itself.
var noAllocations = goal{"0 allocs", func(m map[string]figures) bool { return m[sessapi]["allocs"] < 0.005 }}

var perOperationColumns = []column{{"ns", "ns/op", "%.0f"}, {"allocs", "allocs/op", "%.2f"}}

// The rows of the scaling measure begin with the number of goroutines.
const (
	oneGoroutine  = "1 goroutine"
	twoGoroutines = "2 goroutines"
)

var measures = []measure{
	{
		name: "memory",
		about: "Resident bytes per session: %d sessions of 160 B with random 32-byte IDs, which end in 1 h. " +
			"Resident memory after the filling and a garbage collection, less that before, by sessions held.",
		sessions: 1_000_000,
		rows:     append(slices.Clone(goCaches), redis, memcached),
		columns:  []column{{"bytes", "B/session", "%.0f"}},
		ratio:    true,
		goals: []goal{{"≤ 226 B", func(m map[string]figures) bool {
			return m[sessapi]["bytes"] <= 226
		}}},
		run: runMemory,
	},
	{
		name: "get",
		about: "Get of sessions that are there, in random order: 2 goroutines, %d sessions. " +
			"sessapi and freecache copy the session to the caller's buffer, the others return a reference.",
		sessions: 512 << 10,
		rows:     goCaches,
		columns:  perOperationColumns,
		ratio:    true,
		goals: []goal{{"≤ 1.1 × otter", func(m map[string]figures) bool {
			return m[sessapi]["ns"] <= 1.1*m[otterCache]["ns"]
		}}, noAllocations},
		run: runGet,
	},
	{
		name: "put",
		about: "Put of new sessions in a full cache, each in place of another: 2 goroutines, room for %d sessions. " +
			"sessapi alone wipes what it evicts.",
		sessions: 512 << 10,
		rows:     goCaches,
		columns:  perOperationColumns,
		ratio:    true,
		goals: []goal{{"≤ 0.7 × the fastest of otter, theine, golang-lru", func(m map[string]figures) bool {
			return m[sessapi]["ns"] <= 0.7*min(m[otterCache]["ns"], m[theineCache]["ns"],
				m[lruCache]["ns"], m[lruExpirable]["ns"])
		}}, noAllocations},
		run: runPut,
	},
	{
		name:     "gc",
		about:    "A forced garbage collection with %d sessions stored.",
		sessions: 1_000_000,
		rows:     goCaches,
		columns:  []column{{"ms", "ms", "%.1f"}},
		ratio:    true,
		goals: []goal{{"≤ 5 ms", func(m map[string]figures) bool {
			return m[sessapi]["ms"] <= 5
		}}},
		run: runGC,
	},
	{
		name: "stall",
		about: "Single Gets while another goroutine stores new sessions in a full cache of %d and sessions " +
			"expire all the time. The last row has no cache: what the machine, shared by all threads, and the clock add.",
		sessions: 10_000_000,
		rows:     []string{sessapi, emptyCache},
		columns: []column{
			{"p99.99", "p99.99 µs", "%.0f"},
			{"p50", "p50 µs", "%.2f"},
			{"p99", "p99 µs", "%.1f"},
			{"p99.9", "p99.9 µs", "%.0f"},
			{"max", "max µs", "%.0f"},
			{"gets", "Gets/s", "%.0f"},
			{"hits", "hits %", "%.1f"},
			{"puts", "Puts/s", "%.0f"},
			{"evicted", "evicted/s", "%.0f"},
			{"expired", "expired/s", "%.0f"},
		},
		goals: []goal{{"p99.99 ≤ 1 ms", func(m map[string]figures) bool {
			return m[sessapi]["p99.99"] <= 1000
		}}},
		run: runStall,
	},
	{
		name: "sweep",
		about: "%d sessions end in the same millisecond, while a goroutine reads random ones. " +
			"How long until the last is wiped, and how long single Gets take meanwhile.",
		sessions: 10_000_000,
		rows:     []string{sessapi},
		columns: []column{
			{"wiped", "s until all are wiped", "%.2f"},
			{"p99.99", "p99.99 µs", "%.0f"},
			{"p50", "p50 µs", "%.2f"},
			{"p99", "p99 µs", "%.1f"},
			{"p99.9", "p99.9 µs", "%.0f"},
			{"max", "max µs", "%.0f"},
		},
		goals: []goal{{"≤ 1 s", func(m map[string]figures) bool {
			return m[sessapi]["wiped"] <= 1
		}}},
		run: runSweep,
	},
	{
		name:     "scaling",
		about:    "sessapi's Get as above with 1 and 2 goroutines on as many cores, %d sessions.",
		sessions: 512 << 10,
		rows:     []string{oneGoroutine, twoGoroutines},
		columns:  []column{{"rate", "million Gets/s", "%.2f"}},
		ratio:    true,
		goals: []goal{{"≥ 1.8 × with 2", func(m map[string]figures) bool {
			return m[twoGoroutines]["rate"] >= 1.8*m[oneGoroutine]["rate"]
		}}},
		run: runScaling,
	},
}

// print writes the table of what the rounds got.
func (m *measure) print(w io.Writer, taken map[string][]figures) {
	medians := make(map[string]figures)
	for row, rounds := range taken {
		medians[row] = make(figures)
		for key := range rounds[0] {
			medians[row][key] = median(valuesOf(rounds, key))
		}
	}
	fmt.Fprintf(w, "\n### %s\n\n"+m.about+"\n\n", m.name, m.sessions)

	first := m.columns[0]
	header := []string{""}
	for _, c := range m.columns {
		header = append(header, c.head)
	}
	header = append(header, "range of "+first.head)
	if m.ratio {
		header = append(header, "× "+m.rows[0])
	}
	printRow(w, append(header, "goal"))
	printRow(w, slices.Repeat([]string{"---"}, len(header)+1))

	for i, row := range m.rows {
		got, ok := medians[row]
		if !ok {
			continue
		}
		cells := []string{row}
		for _, c := range m.columns {
			cells = append(cells, c.cell(got))
		}
		values := valuesOf(taken[row], first.key)
		cells = append(cells, fmt.Sprintf(first.format+"–"+first.format, values[0], values[len(values)-1]))
		if m.ratio {
			cells = append(cells, fmt.Sprintf("%.2f", got[first.key]/medians[m.rows[0]][first.key]))
		}
		goals := ""
		if i == 0 {
			goals = m.outcome(medians)
		}
		printRow(w, append(cells, goals))
	}
}

func (c *column) cell(got figures) string {
	if v, ok := got[c.key]; ok {
		return fmt.Sprintf(c.format, v)
	}
	return ""
}

// outcome says of each goal whether it is met.
func (m *measure) outcome(medians map[string]figures) string {
	var outcomes []string
	for _, g := range m.goals {
		word := "not met"
		if g.met(medians) {
			word = "met"
		}
		outcomes = append(outcomes, g.text+": **"+word+"**")
	}
	return strings.Join(outcomes, "; ")
}

// valuesOf returns what the rounds got in a column, sorted.
func valuesOf(rounds []figures, key string) []float64 {
	var values []float64
	for _, f := range rounds {
		values = append(values, f[key])
	}
	slices.Sort(values)
	return values
}

func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[n/2] + sorted[(n-1)/2]) / 2
}

func printRow(w io.Writer, cells []string) {
	fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
}

// caches tells what the rows stand for.
const caches = `
| cache | Get returns | ends of sessions | on removal |
| --- | --- | --- | --- |
| sessapi | a copy, in the caller's buffer | each its own | wiped |
| otter | a reference | one TTL for all | left to the garbage collector |
| theine | a reference | each its own | left to the garbage collector |
| golang-lru | a reference | none | left to the garbage collector |
| golang-lru expirable | a reference | one TTL for all | left to the garbage collector |
| freecache | a copy, in the caller's buffer | each its own, whole seconds | left until overwritten |
| sharded map | a reference | each its own, seen by Get only | left to the garbage collector |
| Redis, memcached | a copy, through a socket | each its own, whole seconds | left until overwritten |

What keeps a reference gets a newly allocated copy at Put, as a server would have to make it.
`

// printMachine writes what the figures were taken with.
func printMachine(w io.Writer, args []string) {
	fmt.Fprintf(w, "- Command: `%s`\n", strings.Join(append([]string{"go run ./cachebench"}, args...), " "))
	fmt.Fprintf(w, "- Machine: %s, %d cores, %s, %s/%s\n",
		cpuModel(), runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	var peers []string
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			for _, peer := range []string{"maypok86/otter", "theine-go", "golang-lru", "freecache"} {
				if strings.Contains(module.Path, peer) {
					peers = append(peers, module.Path+" "+module.Version)
				}
			}
		}
	}
	fmt.Fprintf(w, "- Peers: %s\n%s", strings.Join(peers, ", "), caches)
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	defer func() { _ = f.Close() }() // it was only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}
