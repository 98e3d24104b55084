// Command cachebench measures sessapi's session cache beside its peers: other
// Go caches, a map with locks, and Redis and memcached as real servers. It
// prints one Markdown table per measure, with the machine and the command.
//
//	go run ./cachebench                     # all measures, 5 rounds
//	go run ./cachebench -only get -rounds 9
//	go run ./cachebench -only stall -n 1000000
//
// Every figure comes from a process of its own, so that no cache is charged for
// the heap of another. A round runs each cache once, one after the other; the
// tables show the median of the rounds, and the range of its first column.
//
// Redis and memcached are started on a Unix socket and stopped again. Where
// they are not installed they are left out, unless the environment has CI=true:
// there that is an error.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "cachebench:", err)
		stop()
		os.Exit(1)
	}
}

// childCommand is the first argument of a process that takes one figure.
const childCommand = "child"

// minSessions is the least -n. With fewer, chance puts too many sessions in one
// part of the caches that have fixed parts.
const minSessions = 100_000

// childTimeout bounds one such process; the slowest needs about half a minute.
const childTimeout = 5 * time.Minute

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == childCommand {
		return child(ctx, args[1:], stdout)
	}
	names := make([]string, len(measures))
	for i := range measures {
		names[i] = measures[i].name
	}
	flags := flag.NewFlagSet("cachebench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	only := flags.String("only", "", "the one `measure` to take: "+strings.Join(names, ", "))
	rounds := flags.Int("rounds", 5, "how often each figure is taken")
	sessions := flags.Int("n", 0, "sessions held; 0 is each measure's own number")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if flags.NArg() > 0 || *rounds < 1 || *sessions != 0 && *sessions < minSessions {
		return fmt.Errorf("usage: cachebench [-only measure] [-rounds 1 or more] [-n %d or more]", minSessions)
	}
	var chosen []measure
	for _, m := range measures {
		if *sessions > 0 {
			m.sessions = *sessions
		}
		if *only == "" || *only == m.name {
			chosen = append(chosen, m)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no measure %q; there are %s", *only, strings.Join(names, ", "))
	}
	printMachine(stdout, args)
	for _, m := range chosen {
		taken, err := m.take(ctx, *rounds, stderr)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		m.print(stdout, taken)
	}
	return nil
}

// take runs the rounds, and returns what each row got in them. A row whose
// server is not installed is missing.
func (m *measure) take(ctx context.Context, rounds int, stderr io.Writer) (map[string][]figures, error) {
	taken := make(map[string][]figures)
	for round := range rounds {
		for _, row := range m.rows {
			if binary, ok := serverBinary(row); ok {
				if _, err := exec.LookPath(binary); err != nil {
					if os.Getenv("CI") == "true" {
						return nil, err
					}
					if round == 0 {
						fmt.Fprintf(stderr, "%s is left out: %v\n", row, err)
					}
					continue
				}
			}
			f, err := m.inChild(ctx, row, stderr)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", row, err)
			}
			taken[row] = append(taken[row], f)
		}
	}
	return taken, nil
}

// inChild takes the figures of one row in a new process.
func (m *measure) inChild(ctx context.Context, row string, stderr io.Writer) (figures, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, childTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, childCommand, m.name, row, strconv.Itoa(m.sessions))
	cmd.Stderr = stderr
	// A child that is asked to stop stops its server; if it has none, it is
	// stopped itself a little later.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var f figures
	return f, json.Unmarshal(out, &f)
}

// child takes the figures that its arguments (measure, row, sessions) name, and
// writes them as JSON.
func child(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("%s needs a measure, a row and a number of sessions", childCommand)
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	for _, m := range measures {
		if m.name != args[0] {
			continue
		}
		f, err := m.run(ctx, args[1], n)
		if err != nil {
			return err
		}
		return json.NewEncoder(stdout).Encode(f)
	}
	return fmt.Errorf("no measure %q", args[0])
}
