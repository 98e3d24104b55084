// Command watchers measures what clients cost that wait for new ticket keys, and
// how soon they get them. It builds the service, starts it on loopback, and holds
// one connection for each client:
//
//	go run ./watchers -n 10000
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	idleTime = 10 * time.Second // for which the processor time is taken
	rounds   = 5
)

func main() {
	n := flag.Int("n", 1000, "clients that wait")
	flag.Parse()
	if err := measure(*n); err != nil {
		fmt.Fprintln(os.Stderr, "watchers:", err)
		os.Exit(1)
	}
}

func measure(n int) error {
	s, err := start()
	if err != nil {
		return err
	}
	defer s.stop()
	idle, err := s.resident()
	if err != nil {
		return err
	}
	etag, err := s.rotate()
	if err != nil {
		return err
	}
	clients := make([]*client, n)
	for i := range clients {
		if clients[i], err = dial(s.address); err != nil {
			return err
		}
		defer clients[i].conn.Close()
		if err := clients[i].ask(etag); err != nil {
			return err
		}
	}
	var p50, p99, last []float64
	for round := range rounds {
		answered := make([]time.Time, n)
		failures := make([]error, n)
		var running sync.WaitGroup
		for i, c := range clients {
			running.Go(func() { answered[i], failures[i] = c.answer() })
		}
		if err := s.awaitWaiting(n); err != nil {
			return err
		}
		if round == 0 {
			before := s.cpu()
			time.Sleep(idleTime)
			used := s.cpu() - before
			held, err := s.resident()
			if err != nil {
				return err
			}
			fmt.Printf("%d clients wait: %.1f MiB above idle (%.1f KiB each), %.2f %% of a core\n",
				n, float64(held-idle)/(1<<20), float64(held-idle)/float64(n)/(1<<10), 100*used.Seconds()/idleTime.Seconds())
		}
		from := time.Now()
		if etag, err = s.rotate(); err != nil {
			return err
		}
		running.Wait()
		if err := errors.Join(failures...); err != nil {
			return err
		}
		for _, c := range clients { // for the next round
			if err := c.ask(etag); err != nil {
				return err
			}
		}
		slices.SortFunc(answered, time.Time.Compare)
		after := func(i int) float64 { return float64(answered[i].Sub(from).Microseconds()) / 1000 }
		p50, p99, last = append(p50, after(n/2)), append(p99, after(n*99/100)), append(last, after(n-1))
	}
	for _, figures := range [][]float64{p50, p99, last} {
		slices.Sort(figures)
	}
	fmt.Printf("answered after an update, medians of %d rounds: half within %.1f ms, 99 %% within %.1f ms, all within %.1f ms\n",
		rounds, p50[rounds/2], p99[rounds/2], last[rounds/2])
	return nil
}

// service is the process that is measured.
type service struct {
	cmd     *exec.Cmd
	address string
	dir     string
}

func start() (*service, error) {
	dir, err := os.MkdirTemp("", "watchers")
	if err != nil {
		return nil, err
	}
	s := &service{dir: dir}
	binary := filepath.Join(dir, "sessapi")
	build := exec.Command("go", "build", "-o", binary, "./cmd/sessapi")
	build.Dir, build.Stderr = "..", os.Stderr
	if err := build.Run(); err != nil {
		return s, err
	}
	s.cmd = exec.Command(binary, "serve", "--listen=127.0.0.1:0", "--log-format=text")
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		return s, err
	}
	if err := s.cmd.Start(); err != nil {
		return s, err
	}
	listening := regexp.MustCompile(`msg=listening.* address=(\S+)`)
	log := bufio.NewScanner(stderr)
	for log.Scan() {
		if match := listening.FindStringSubmatch(log.Text()); match != nil {
			s.address = match[1]
			go func() { _, _ = io.Copy(io.Discard, stderr) }()
			time.Sleep(time.Second) // what the start leaves to do
			return s, nil
		}
	}
	return s, errors.New("the service does not listen")
}

func (s *service) stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait()
	}
	_ = os.RemoveAll(s.dir)
}

// resident is the resident memory of the service in bytes.
func (s *service) resident() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	match := regexp.MustCompile(`(?m)^Rss:\s+(\d+) kB`).FindSubmatch(b)
	if match == nil {
		return 0, errors.New("smaps_rollup has no Rss")
	}
	kib, err := strconv.ParseInt(string(match[1]), 10, 64)
	return kib << 10, err
}

// cpu is the processor time that the service has used (proc(5): utime and stime,
// in hundredths of a second).
func (s *service) cpu() time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func (s *service) rotate() (etag string, err error) {
	response, err := http.Post("http://"+s.address+"/ticket-keys/rotate", "", nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	return response.Header.Get("ETag"), nil
}

// awaitWaiting returns when the service holds n requests.
func (s *service) awaitWaiting(n int) error {
	want := fmt.Sprintf("\nsessapi_ticket_keys_waiting_requests %v\n", float64(n))
	for range 300 {
		response, err := http.Get("http://" + s.address + "/metrics")
		if err != nil {
			return err
		}
		b, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte(want)) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("the clients do not all wait")
}

// client is a connection that waits for keys.
type client struct {
	conn net.Conn
	in   *bufio.Reader
}

func dial(address string) (*client, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &client{conn, bufio.NewReaderSize(conn, 1<<10)}, nil
}

func (c *client) ask(etag string) error {
	_, err := fmt.Fprintf(c.conn, "GET /ticket-keys?format=ats HTTP/1.1\r\nHost: sessapi\r\nIf-None-Match: %s\r\nPrefer: wait=300\r\n\r\n", etag)
	return err
}

func (c *client) answer() (time.Time, error) {
	response, err := http.ReadResponse(c.in, nil)
	at := time.Now()
	if err != nil {
		return at, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return at, err
	}
	if response.StatusCode != http.StatusOK {
		return at, fmt.Errorf("status %d", response.StatusCode)
	}
	return at, nil
}
