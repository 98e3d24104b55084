package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// load is what a row sends.
type load struct {
	kind        kind
	writers     int // percent of the requests that are put
	connections int
	sessions    int
	size        int // of a session, in bytes
	h2          bool
}

// figures are what one run of a row got, by column.
type figures map[string]float64

// maxRequests bounds the requests that wrk chooses from, which are made
// beforehand: with more sessions they are a random choice of these.
const maxRequests = 100_000

// script has wrk send random requests of a file: for each one its length on a
// line, and then itself.
const script = `
local requests, n = {}, 0
local random = math.random
function init(args)
	local file = io.open(args[1], "rb")
	for length in file:lines() do
		n = n + 1
		requests[n] = file:read(tonumber(length))
	end
	file:close()
	math.randomseed(1)
end
function request() return requests[random(n)] end
function done(summary, latency)
	local e = summary.errors
	io.stderr:write(string.format('{"requests":%d,"us":%d,"p50":%d,"p99":%d,"status":%d,"failed":%d}',
		summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
		e.status, e.connect + e.read + e.write + e.timeout))
end
`

// sessionIDs are the hex of n IDs of 32 bytes, the same for each n.
func sessionIDs(n int) []string {
	ids := make([]string, n)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range ids {
		var id [32]byte
		for j := 0; j < len(id); j += 8 {
			binary.LittleEndian.PutUint64(id[j:], random.Uint64())
		}
		ids[i] = hex.EncodeToString(id[:])
	}
	return ids
}

// newData is the bytes of a session: random, as DER that is mostly a secret is.
func newData(size int) []byte {
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(data) // never fails
	return data
}

// storeAll stores a session for each ID, and checks that one can be got.
func (c *contender) storeAll(ctx context.Context, ids []string, data []byte) error {
	if c.redis != "" { // redis-benchmark has IDs of its own, at random
		args := redisArgs(c, load{connections: connections, sessions: len(ids), size: len(data)})
		out, err := pinned(ctx, append(args, "-n", strconv.Itoa(5*len(ids)), "-t", "set", "-P", "32")...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("redis-benchmark: %w: %s", err, out)
		}
		return nil
	}
	if c.fill != nil {
		if err := c.fill(ids, data); err != nil {
			return err
		}
	} else if err := exchangeAll(c.address, c.store, ids); err != nil {
		return err
	}
	for _, other := range c.others { // which have what they were asked for
		if err := exchangeAll(other, c.requests[get], ids); err != nil {
			return err
		}
	}
	conn, err := net.Dial("tcp", c.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	body, err := exchange(conn, bufio.NewReader(conn), c.requests[get].raw(c.address, ids[0]))
	if err == nil && c.unwrap != nil {
		body, err = c.unwrap(body)
	}
	if err == nil && !bytes.Equal(body, data) {
		err = errors.New("another session than the one that was stored")
	}
	return err
}

// exchangeAll sends the request for each ID, over several connections.
func exchangeAll(address string, what template, ids []string) error {
	const connections = 32
	failures := make([]error, connections)
	var running sync.WaitGroup
	for i := range connections {
		running.Go(func() {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				failures[i] = err
				return
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			for j := i; j < len(ids); j += connections {
				if _, err := exchange(conn, in, what.raw(address, ids[j])); err != nil {
					failures[i] = err
					return
				}
			}
		})
	}
	running.Wait()
	return errors.Join(failures...)
}

// exchange sends a request and returns the body of its answer, which is a success.
func exchange(conn net.Conn, in *bufio.Reader, request []byte) ([]byte, error) {
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("status %d: %.200s", response.StatusCode, body)
	}
	return body, err
}

// warmUp is how long a load is sent before it is measured.
const warmUp = time.Second

// drive sends the load to the contender, from core 1.
func (l *lab) drive(ctx context.Context, c *contender, ld load, ids []string) (figures, error) {
	send := l.wrk
	switch {
	case c.redis != "":
		send = l.redisBenchmark
	case ld.h2:
		send = l.h2load
	}
	if _, err := send(ctx, c, ld, ids, warmUp); err != nil {
		return nil, err
	}
	before, redisBefore, err := c.cpu()
	if err != nil {
		return nil, err
	}
	f, err := send(ctx, c, ld, ids, l.duration)
	if err != nil {
		return nil, err
	}
	after, redisAfter, err := c.cpu()
	f["cpu"] = float64((after - before).Microseconds()) / f["requests"]
	f["redis"] = float64((redisAfter - redisBefore).Microseconds()) / f["requests"]
	return f, err
}

// pinned runs a program on core 1.
func pinned(ctx context.Context, program ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "taskset", append([]string{"-c", "1"}, program...)...)
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }

func (l *lab) wrk(ctx context.Context, c *contender, ld load, ids []string, duration time.Duration) (figures, error) {
	var requests bytes.Buffer
	for i, id := range ids[:min(len(ids), maxRequests)] {
		what := c.requests[ld.kind]
		if i%100 < ld.writers {
			what = c.requests[put]
		}
		raw := what.raw(c.address, id)
		fmt.Fprintf(&requests, "%d\n%s", len(raw), raw)
	}
	file, lua := filepath.Join(l.dir, "requests"), filepath.Join(l.dir, "wrk.lua")
	if err := errors.Join(os.WriteFile(file, requests.Bytes(), 0o600), os.WriteFile(lua, []byte(script), 0o600)); err != nil {
		return nil, err
	}
	nodes := append([]string{c.address}, c.others...)
	all, failures := make([]figures, len(nodes)), make([]error, len(nodes))
	var running sync.WaitGroup
	for i, address := range nodes {
		running.Go(func() {
			all[i], failures[i] = wrkOne(ctx, address, ld.connections/len(nodes), duration, lua, file, ld.kind == missing)
		})
	}
	running.Wait()
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	sum := all[0]
	for _, f := range all[1:] {
		sum["requests"] += f["requests"]
		sum["rate"] += f["rate"]
		sum["p50"], sum["p99"] = max(sum["p50"], f["p50"]), max(sum["p99"], f["p99"])
	}
	return sum, nil
}

// wrkOne sends the requests of the file to a node.
func wrkOne(ctx context.Context, address string, connections int, duration time.Duration, lua, file string, allMissing bool) (figures, error) {
	cmd := pinned(ctx, "wrk", "-t1", "-c"+strconv.Itoa(connections), "-d"+seconds(duration)+"s",
		"-s", lua, "http://"+address, "--", file)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("wrk: %w: %s", err, out.Bytes())
	}
	var got struct {
		Requests, Us, P50, P99, Status, Failed float64
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		return nil, fmt.Errorf("wrk: %w: %s", err, out.Bytes())
	}
	refused := 0.0
	if allMissing {
		refused = got.Requests
	}
	if got.Requests == 0 || got.Status != refused || got.Failed > 0 {
		return nil, fmt.Errorf("of %v requests %v were refused and %v failed", got.Requests, got.Status, got.Failed)
	}
	return figures{"requests": got.Requests, "rate": got.Requests / got.Us * 1e6, "p50": got.P50, "p99": got.P99}, nil
}

// h2Connections have, together, as many requests under way as there would be
// connections of HTTP/1.1.
const h2Connections = 4

func (l *lab) h2load(ctx context.Context, c *contender, ld load, ids []string, duration time.Duration) (figures, error) {
	var uris strings.Builder
	what := c.requests[ld.kind]
	for _, id := range ids[:min(len(ids), maxRequests)] {
		uris.WriteString("http://" + c.address + strings.ReplaceAll(what.path, "{id}", id) + "\n")
	}
	file, log := filepath.Join(l.dir, "uris"), filepath.Join(l.dir, "h2load.log")
	if err := errors.Join(os.WriteFile(file, []byte(uris.String()), 0o600), os.RemoveAll(log)); err != nil {
		return nil, err
	}
	args := []string{
		"h2load", "-t1", "-c" + strconv.Itoa(h2Connections), "-m" + strconv.Itoa(ld.connections/h2Connections),
		"-D" + seconds(duration), "-i", file, "--log-file=" + log, "-H", ":method: " + what.method,
	}
	for line := range strings.SplitSeq(strings.TrimSpace(what.header), "\r\n") {
		args = append(args, "-H", line)
	}
	if out, err := pinned(ctx, args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("h2load: %w: %s", err, out)
	}
	// Each line is the start, the status and the microseconds of a request.
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var took []float64
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || fields[1] != "200" {
			return nil, fmt.Errorf("h2load: a request got %q", lines.Text())
		}
		us, err := strconv.ParseFloat(fields[2], 64)
		if err != nil {
			return nil, err
		}
		took = append(took, us)
	}
	if took == nil {
		return nil, errors.New("h2load: no request was answered")
	}
	slices.Sort(took)
	n := float64(len(took))
	return figures{"requests": n, "rate": n / duration.Seconds(), "p50": took[len(took)/2], "p99": took[len(took)*99/100]}, nil
}

// redisRequests is how many requests redis-benchmark sends in a second of a
// measure, for it knows no time.
const redisRequests = 50_000

func redisArgs(c *contender, ld load) []string {
	return []string{
		"redis-benchmark", "--csv", "-p", c.redis, "-c", strconv.Itoa(ld.connections),
		"-d", strconv.Itoa(ld.size), "-r", strconv.Itoa(ld.sessions),
	}
}

func (l *lab) redisBenchmark(ctx context.Context, c *contender, ld load, _ []string, duration time.Duration) (figures, error) {
	command := "get"
	if ld.kind == put {
		command = "set"
	}
	n := redisRequests * int(duration.Seconds())
	out, err := pinned(ctx, append(redisArgs(c, ld), "-n", strconv.Itoa(n), "-t", command)...).Output()
	if err != nil {
		return nil, fmt.Errorf("redis-benchmark: %w", err)
	}
	rows, err := csv.NewReader(bytes.NewReader(out)).ReadAll()
	if err != nil || len(rows) != 2 {
		return nil, fmt.Errorf("redis-benchmark prints %q: %w", out, err)
	}
	f := figures{"requests": float64(n)}
	for i, name := range rows[0] {
		value, err := strconv.ParseFloat(rows[1][i], 64)
		switch name {
		case "rps":
			f["rate"] = value
		case "p50_latency_ms", "p99_latency_ms":
			f[name[:3]] = 1000 * value
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

// startUp starts sessapi as shipped, and takes how long it is until it is ready,
// and its resident memory when it is idle.
func (l *lab) startUp(ctx context.Context, args ...string) (_ figures, err error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	address := "127.0.0.1:" + port
	cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", "0", l.sessapi, "serve", "--listen=" + address}, args...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &contender{processes: []*exec.Cmd{cmd}}
	defer c.stop()
	ready := []byte("GET /readyz HTTP/1.1\r\nHost: " + address + "\r\n\r\n")
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_, err = exchange(conn, bufio.NewReader(conn), ready)
			_ = conn.Close() // nothing is left to be sent
		}
		if err == nil {
			break
		}
		if time.Since(began) > 20*time.Second {
			return nil, err
		}
		time.Sleep(200 * time.Microsecond)
	}
	took := time.Since(began)
	time.Sleep(time.Second) // what the start leaves to do
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	return figures{"ready": float64(took.Microseconds()) / 1000, "mib": float64(kib) / 1024}, err
}
