package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
)

// measure is one table.
type measure struct {
	name    string
	about   string
	rows    []row
	columns []column
	// base is the row that the others are compared with.
	base  string
	goals []goal
}

// row is a contender under a load.
type row struct {
	name      string
	contender string // of that name; rows of one contender with the same sessions share it
	load      load
	// args are the settings of sessapi for a row of its start; nil is a load.
	args []string
}

type column struct{ key, head, format string }

// goal is what sessapi is to reach.
type goal struct {
	text string
	// met gets the medians of the rows by their names.
	met func(m map[string]figures) bool
}

var loadColumns = []column{
	{"rate", "requests/s", "%.0f"},
	{"p50", "p50 µs", "%.0f"},
	{"p99", "p99 µs", "%.0f"},
	{"cpu", "CPU µs/request", "%.1f"},
}

const (
	connections = 32
	sessions    = 100_000
	sessionSize = 160
)

// standard is the load of a kind that the measures share.
func standard(k kind) load {
	return load{kind: k, connections: connections, sessions: sessions, size: sessionSize}
}

// overH2 is the same over HTTP/2.
func overH2(k kind) load {
	ld := standard(k)
	ld.h2 = true
	return ld
}

// rowsOf are contenders under the same load.
func rowsOf(ld load, names ...string) []row {
	rows := make([]row, len(names))
	for i, name := range names {
		rows[i] = row{name: name, contender: name, load: ld}
	}
	return rows
}

// atLeast is the goal that a row makes so many times the requests/s of another.
func atLeast(row string, times float64, other string) goal {
	return goal{fmt.Sprintf("%s ≥ %v × %s", row, times, other), func(m map[string]figures) bool {
		return m[row]["rate"] >= times*m[other]["rate"]
	}}
}

// p99Goal is that of all loads that have a floor.
var p99Goal = goal{"p99 ≤ floor's", func(m map[string]figures) bool {
	return m[sessapi]["p99"] <= m[floorServer]["p99"]
}}

// asGet are the rows of a load of sessapi beside those of get.
func asGet(k kind, name string) []row {
	return append(rowsOf(standard(get), sessapi, floorServer), row{name: name, contender: sessapi, load: standard(k)})
}

var measures = []measure{
	{
		name:    "get",
		about:   "GET of 160 B as bytes, one of 100,000 sessions at random, over 32 connections.",
		rows:    rowsOf(standard(get), sessapi, withPolicy, floorServer, webdis, etcd, nginx),
		columns: loadColumns, base: floorServer,
		goals: []goal{
			atLeast(sessapi, 0.8, floorServer), atLeast(withPolicy, 0.75, floorServer),
			atLeast(sessapi, 1, webdis), p99Goal,
		},
	},
	{
		name:    "get-4k",
		about:   "The same with sessions of 4 KiB.",
		rows:    rowsOf(load{kind: get, connections: connections, sessions: sessions, size: 4 << 10}, sessapi, withPolicy, floorServer, webdis, etcd, nginx),
		columns: loadColumns, base: floorServer,
		goals: []goal{
			atLeast(sessapi, 0.8, floorServer), atLeast(withPolicy, 0.75, floorServer),
			atLeast(sessapi, 1, webdis), p99Goal,
		},
	},
	{
		name:    "put",
		about:   "PUT of 160 B as bytes in place of a session. The floor reads and drops the body; nginx cannot write to memcached.",
		rows:    rowsOf(standard(put), sessapi, withPolicy, floorServer, webdis, etcd),
		columns: loadColumns, base: floorServer,
		goals: []goal{atLeast(sessapi, 0.7, floorServer), p99Goal},
	},
	{
		name:    "missing",
		about:   "GET of a session that is not there, which is answered with a problem document, beside GET of one that is.",
		rows:    append(asGet(missing, "sessapi, 404"), row{name: "floor, 404", contender: floorServer, load: standard(missing)}),
		columns: loadColumns, base: floorServer,
		goals: []goal{atLeast("sessapi, 404", 0.9, sessapi)},
	},
	{
		name:    "json",
		about:   "GET of a session's description as JSON, beside GET of its bytes.",
		rows:    asGet(describe, "sessapi, JSON"),
		columns: loadColumns, base: floorServer,
		goals: []goal{atLeast("sessapi, JSON", 0.6, floorServer)},
	},
	{
		name:    "h2",
		about:   "GET and HEAD of 160 B over HTTP/2 without TLS (h2c), with h2load: 4 connections with 8 streams each. wrk knows no HEAD.",
		rows:    append(rowsOf(overH2(get), sessapi, floorServer), row{"sessapi, HEAD", sessapi, overH2(head), nil}, row{"floor, HEAD", floorServer, overH2(head), nil}),
		columns: loadColumns, base: floorServer,
		goals: []goal{atLeast(sessapi, 0.75, floorServer)},
	},
}

var growthMeasures = []measure{
	{
		name:    "connections",
		about:   "GET of 160 B by the number of connections.",
		rows:    grown("connections: %d", []int{1, 8, 64, 512}, func(ld *load, n int) { ld.connections = n }),
		columns: loadColumns,
	},
	{
		name:    "sessions",
		about:   "GET of 160 B by the number of sessions. With ten million sessapi has a cache that holds them.",
		rows:    grown("sessions: %d", []int{1_000, 100_000, 10_000_000}, func(ld *load, n int) { ld.sessions = n }),
		columns: loadColumns,
	},
	{
		name:    "writers",
		about:   "GET of 160 B, with so many of the requests a PUT.",
		rows:    grown("PUT: %d %%", []int{0, 10, 50}, func(ld *load, n int) { ld.writers = n }),
		columns: loadColumns,
	},
	{
		name:  "start",
		about: "From the start of the process until /readyz answers 200, and resident memory a second later.",
		rows: []row{
			{name: sessapi, args: []string{}},
			{name: "sessapi --cache=off", args: []string{"--cache=off"}},
		},
		columns: []column{{"ready", "ms until ready", "%.1f"}, {"mib", "resident MiB", "%.1f"}},
		goals: []goal{
			{"≤ 50 ms", func(m map[string]figures) bool { return m[sessapi]["ready"] <= 50 }},
			{"≤ 25 MiB", func(m map[string]figures) bool { return m[sessapi]["mib"] <= 25 }},
		},
	},
}

// grown are rows of sessapi and the floor for each number.
func grown(format string, numbers []int, set func(ld *load, n int)) []row {
	var rows []row
	for _, n := range numbers {
		for _, contender := range []string{sessapi, floorServer} {
			ld := standard(get)
			set(&ld, n)
			rows = append(rows, row{name: contender + ", " + fmt.Sprintf(format, n), contender: contender, load: ld})
		}
	}
	return rows
}

var fleetMeasures = []measure{
	{
		name:    "local",
		about:   "GET of 160 B that the node has, with Redis behind it, beside a node by itself. The three nodes, and Redis, share the core.",
		rows:    rowsOf(standard(get), sessapi, localFleet, localFleet3),
		columns: append(slices.Clone(loadColumns), column{"redis", "of it Redis", "%.2f"}), base: sessapi,
		goals: []goal{atLeast(localFleet, 0.95, sessapi), atLeast(localFleet3, 0.9, sessapi)},
	},
	{
		name:    "remote",
		about:   "GET of 160 B that the node has to get from Redis: it keeps one session alone. redis-benchmark reads the same payload.",
		rows:    rowsOf(standard(get), remoteFleet, webdis, plainRedis),
		columns: loadColumns, base: webdis,
		goals: []goal{atLeast(remoteFleet, 0.8, webdis)},
	},
	{
		name:    "fleet-put",
		about:   "PUT of 160 B, which is in Redis when it is answered.",
		rows:    rowsOf(standard(put), localFleet, webdis, plainRedis),
		columns: loadColumns, base: webdis,
		goals: []goal{atLeast(localFleet, 0.6, webdis)},
	},
}

// running is a contender with its sessions.
type running struct {
	*contender
	ids []string
}

// take runs the rounds, and returns what each row got in them.
func (m *measure) take(ctx context.Context, l *lab, rounds int, stderr io.Writer) (map[string][]figures, error) {
	type key struct {
		contender      string
		sessions, size int
	}
	up := make(map[key]running)
	defer func() {
		for _, c := range up {
			c.stop()
		}
	}()
	taken := make(map[string][]figures)
	for round := range rounds {
		for _, r := range m.rows {
			fmt.Fprintf(stderr, "%s, round %d: %s\n", m.name, round+1, r.name)
			f, err := func() (figures, error) {
				if r.args != nil {
					return l.startUp(ctx, r.args...)
				}
				if l.sessions > 0 {
					r.load.sessions = l.sessions
				}
				k := key{r.contender, r.load.sessions, r.load.size}
				c, ok := up[k]
				if !ok {
					data := newData(r.load.size)
					started, err := l.start(ctx, r.contender, r.load.sessions, data)
					if err != nil {
						return nil, err
					}
					c = running{started, sessionIDs(r.load.sessions)}
					up[k] = c
					if err := c.storeAll(ctx, c.ids, data); err != nil {
						return nil, fmt.Errorf("store the sessions: %w", err)
					}
				}
				return l.drive(ctx, c.contender, r.load, c.ids)
			}()
			if err != nil {
				return nil, errors.Join(fmt.Errorf("%s: %w", r.name, err), ctx.Err())
			}
			taken[r.name] = append(taken[r.name], f)
		}
	}
	return taken, nil
}

// print writes the table of what the rounds got, and returns the medians.
func (m *measure) print(w io.Writer, taken map[string][]figures) map[string]figures {
	medians := make(map[string]figures)
	for name, rounds := range taken {
		medians[name] = make(figures)
		for _, c := range m.columns {
			medians[name][c.key] = median(valuesOf(rounds, c.key))
		}
	}
	fmt.Fprintf(w, "\n### %s\n\n%s\n\n", m.name, m.about)
	first := m.columns[0]
	header := []string{""}
	for _, c := range m.columns {
		header = append(header, c.head)
	}
	header = append(header, "range of "+first.head)
	if m.base != "" {
		header = append(header, "× "+m.base)
	}
	printRow(w, header)
	printRow(w, append([]string{"---"}, slices.Repeat([]string{"--:"}, len(header)-1)...))
	for _, r := range m.rows {
		cells := []string{r.name}
		for _, c := range m.columns {
			cells = append(cells, fmt.Sprintf(c.format, medians[r.name][c.key]))
		}
		values := valuesOf(taken[r.name], first.key)
		cells = append(cells, fmt.Sprintf(first.format+"–"+first.format, values[0], values[len(values)-1]))
		if m.base != "" {
			cells = append(cells, fmt.Sprintf("%.2f", medians[r.name][first.key]/medians[m.base][first.key]))
		}
		printRow(w, cells)
	}
	if len(m.goals) > 0 {
		fmt.Fprintln(w)
	}
	for _, g := range m.goals {
		word := "not met"
		if g.met(medians) {
			word = "met"
		}
		fmt.Fprintf(w, "- %s: **%s**\n", g.text, word)
	}
	return medians
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

// printMachine writes what the figures were taken with.
func printMachine(w io.Writer, args []string) {
	fmt.Fprintf(w, "- Command: `%s`\n", strings.Join(append([]string{"go run ./httpbench"}, args...), " "))
	fmt.Fprintf(w, "- Machine: %s, %d cores, %s, %s/%s\n",
		cpuModel(), runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
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
