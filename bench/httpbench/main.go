// Command httpbench measures sessapi over HTTP beside what could stand in its
// place: webdis with Redis, etcd's JSON gateway, nginx with memcached, and a bare
// net/http server that writes the same bytes, which is the floor. It prints one
// Markdown table per measure, with the machine and the command.
//
//	go run ./httpbench                      # all measures, 5 rounds of 10 s
//	go run ./httpbench -only get -rounds 9
//	go run ./httpbench -growth              # how cost grows with connections, sessions, writers
//	go run ./httpbench -fleet               # with Redis behind sessapi
//
// Servers run on core 0 alone, Go's with GOMAXPROCS=1; wrk, h2load and
// redis-benchmark drive them from core 1. A round runs each row once, one after
// the other; the tables show the median of the rounds, and the range of the
// requests per second. The other servers of a measure are up meanwhile, and idle.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "httpbench:", err)
		stop()
		os.Exit(1)
	}
}

// floorCommand is the first argument of a process that is the floor.
const floorCommand = "floor"

// programs are what is run, with their packages in Debian.
var programs = map[string]string{
	"taskset": "util-linux", "wrk": "wrk", "h2load": "nghttp2-client",
	"webdis": "webdis", "redis-server": "redis-server", "redis-benchmark": "redis-tools",
	"etcd": "etcd-server", "nginx": "nginx", "memcached": "memcached",
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	if len(args) == 2 && args[0] == floorCommand {
		return serveFloor(args[1])
	}
	flags := flag.NewFlagSet("httpbench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	growth := flags.Bool("growth", false, "measure how cost grows; needs some 6 GiB of memory")
	fleet := flags.Bool("fleet", false, "measure with Redis behind sessapi")
	only := flags.String("only", "", "the one `measure` to take")
	rounds := flags.Int("rounds", 5, "how often each figure is taken")
	duration := flags.Duration("duration", 10*time.Second, "how long it is taken for, in whole seconds")
	sessions := flags.Int("n", 0, "sessions held; 0 is each row's own number")
	svg := flags.String("svg", "", "`file` to draw the requests per second into")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if flags.NArg() > 0 || *rounds < 1 || *duration < time.Second || *sessions < 0 || *growth && *fleet {
		return errors.New("usage: httpbench [-growth | -fleet] [-only measure] [-rounds 1 or more] [-duration 1s or more] [-n sessions] [-svg file]")
	}
	chosen := measures
	switch {
	case *growth:
		chosen = growthMeasures
	case *fleet:
		chosen = fleetMeasures
	}
	if *only != "" {
		chosen = slices.DeleteFunc(slices.Clone(chosen), func(m measure) bool { return m.name != *only })
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no measure %q", *only)
	}
	if err := findPrograms(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "httpbench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	l := &lab{dir: dir, sessapi: filepath.Join(dir, "sessapi"), duration: duration.Truncate(time.Second), sessions: *sessions}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", l.sessapi, "./cmd/sessapi")
	build.Dir, build.Stderr = "..", stderr
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does
	if err := build.Run(); err != nil {
		return fmt.Errorf("build sessapi: %w", err)
	}

	printMachine(stdout, args)
	var charts []chart
	for _, m := range chosen {
		taken, err := m.take(ctx, l, *rounds, stderr)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		medians := m.print(stdout, taken)
		charts = append(charts, m.chart(medians))
	}
	if *svg == "" {
		return nil
	}
	return os.WriteFile(*svg, drawCharts(charts), 0o644)
}

// findPrograms looks for all programs, and says what to install.
func findPrograms() error {
	// Where Debian has servers.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin"); err != nil {
		return err
	}
	var missing []string
	for program, pkg := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if missing == nil {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("programs are missing: apt-get install %s", strings.Join(missing, " "))
}
