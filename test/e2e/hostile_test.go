package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	// attackTime is how long each attack goes on.
	attackTime = 2 * time.Second
	// healthyEvery is how often each healthy client makes a request, as far as
	// it gets answers.
	healthyEvery = 4 * time.Millisecond
	// dripEvery is how long slow clients wait before they send another byte.
	dripEvery = 100 * time.Millisecond
	// In how many turns they do: each in its own time, or all in the same millisecond.
	spread, atOnce = 50, 1
	// healthyBound is the time that 99 of 100 healthy requests may take, or 20 times
	// what they do without an attack on a machine that is busy with something else.
	// It tells those that are served from those that are kept out; the log has what
	// they took.
	healthyBound = time.Second
	// maxResident bounds the memory of the service, in KiB: some 10 for each of the idle
	// connections, and 96 MiB for all else.
	maxResident = 10*idleConnections + 96<<10
	// floodResident is that of floods of 64,000 requests of HTTP/2 on 500 connections,
	// which would take 0.8 to 1.3 GiB: of the requests, 20 for each of the 2,048 that may
	// be alive, of two for each connection, and of 8,192 before answers are waited for; 40
	// for each connection; three large sessions for each of the 1,024 that are served.
	floodResident = 20*(2048+2*500+8192) + 40*500 + 3*64*1024 + maxResident
	// idleConnections stay below what one address can have as ports, and below
	// the usual hard limit of open files, to which Go raises the soft one.
	idleConnections = 10000
)

// An attack is what its attacker does until its connections are closed.
type attack struct {
	name string
	do   func(*attacker)
	// counted is the metric that tells the operator of it.
	counted string
	// resident bounds the memory of the service, when that is more than maxResident.
	resident int
}

const (
	cutOff      = "sessapi_http_requests_cut_off_total"
	refused     = "sessapi_http_requests_refused_total"
	resets      = "sessapi_http_requests_reset_total"
	queued      = "sessapi_http_requests_queued_total"
	accepted    = `sessapi_http_connections_accepted_total{listener="main"}`
	unserved    = `sessapi_http_requests_unserved_total{listener="main"}`
	failed      = `sessapi_http_connections_failed_total{listener="main"}`
	invalid     = `sessapi_http_problems_total{code="invalid_request"}`
	pauses      = `sessapi_http_connection_pauses_total{listener="main"}`
	connections = `sessapi_http_connections{listener="main"}`
	goroutines  = "go_goroutines"
	processor   = "process_cpu_seconds_total"
)

const (
	getLarge  = "GET /sessions/1a HTTP/1.1\r\nHost: localhost\r\nAccept: application/octet-stream\r\n"
	putStart  = "PUT /sessions/0b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
	putChunks = putStart + "Transfer-Encoding: chunked\r\n\r\n"

	slowHeaders = "GET /status HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
	slowBody    = putStart + "Content-Length: 4096\r\n\r\n"
)

// Frame types, flags and settings of RFC 9113, sections 6 and 6.5.2.
const (
	frameHeaders      = 0x1
	frameRSTStream    = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameContinuation = 0x9
	endStream         = 0x1
	endHeaders        = 0x4
)

const (
	preface         = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	prefaceNoWindow = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00"
	// fields and smallFields are :method GET, :scheme http, :path and :authority, and
	// accept (RFC 7541, appendix A).
	fields      = "\x82\x86\x04\x0c/sessions/1a\x01\x09localhost\x0f\x04\x18application/octet-stream"
	smallFields = "\x82\x86\x04\x07/status\x01\x09localhost"
	// badFields have te: x, which net/http answers with 400.
	badFields = smallFields + "\x00\x02te\x01x"
	// largeFields have what is in the dynamic table five times, which net/http answers with
	// 431 when that is 3,000 bytes, as it is behind newLargeFields.
	largeFields = smallFields + "\xbe\xbe\xbe\xbe\xbe"
)

// newLargeFields are fields with a new one of 3,000 bytes (RFC 7541, section 6.2.1).
var newLargeFields = smallFields + "\x40\x01x\x7f\xb9\x16" + strings.Repeat("x", 3000)

func frame(kind, flags byte, stream int, payload string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, uint32(stream))
	return append(b, payload...)
}

// streamsNoWindow is n requests whose answers are not taken. Each has the next of those
// fields, and all others the last.
func streamsNoWindow(n int, fields ...string) string {
	streams := prefaceNoWindow
	for i := range n {
		streams += string(frame(frameHeaders, endStream|endHeaders, 2*i+1, fields[min(i, len(fields)-1)]))
	}
	return streams
}

var attacks = []attack{
	{name: "slow headers", counted: unserved, do: func(a *attacker) {
		a.drip(1500, spread, slowHeaders)
	}},
	{name: "slow headers, all at once", counted: unserved, do: func(a *attacker) {
		a.drip(1500, atOnce, slowHeaders)
	}},
	{name: "slow bodies", counted: cutOff, do: func(a *attacker) {
		a.drip(1500, spread, slowBody)
	}},
	{name: "slow bodies, all at once", counted: cutOff, do: func(a *attacker) {
		a.drip(1500, atOnce, slowBody)
	}},
	{name: "idle connections", counted: accepted, do: func(a *attacker) {
		a.drip(min(idleConnections, openFiles()-500), spread, "")
	}},
	{name: "connecting", counted: accepted, do: func(a *attacker) {
		a.tell() // for it is the attack
		a.drip(min(idleConnections, openFiles()-500), spread, "")
	}},
	{name: "oversized headers", counted: unserved, do: func(a *attacker) {
		line := []byte("X-Large: " + strings.Repeat("x", 64<<10) + "\r\n")
		a.flood(getLarge, true, func(int) []byte { return line })
	}},
	{name: "many headers", counted: unserved, do: func(a *attacker) {
		lines := []byte(strings.Repeat("a:\r\n", 16<<10))
		a.flood(getLarge, true, func(int) []byte { return lines })
	}},
	{name: "pipelining", counted: pauses, do: func(a *attacker) {
		requests := []byte(strings.Repeat(getLarge+"\r\n", 4096))
		a.flood("", true, func(int) []byte { return requests })
	}},
	{name: "pipelining without reading", counted: accepted, do: func(a *attacker) {
		requests := []byte(strings.Repeat(getLarge+"\r\n", 4096))
		a.flood("", false, func(int) []byte { return requests })
	}},
	{name: "pipelining in bursts", counted: pauses, do: func(a *attacker) {
		a.bursts(100, getLarge+"\r\n")
	}},
	{name: "rapid reset", counted: resets, do: func(a *attacker) {
		a.flood(preface, true, func(i int) []byte {
			var b []byte
			for stream := 200*i + 1; stream < 200*(i+1); stream += 2 {
				b = append(b, frame(frameHeaders, endStream|endHeaders, stream, fields)...)
				b = append(b, frame(frameRSTStream, 0, stream, "\x00\x00\x00\x08")...)
			}
			return b
		})
	}},
	{name: "CONTINUATION flood", counted: failed, do: func(a *attacker) {
		headers := string(frame(frameHeaders, endStream, 1, fields))
		// A literal field without indexing that has a name of "x".
		more := frame(frameContinuation, 0, 1, strings.Repeat("\x00\x01x\x09continued", 1000))
		a.flood(preface+headers, true, func(int) []byte { return more })
	}},
	{name: "large frames", counted: accepted, do: func(a *attacker) {
		// Of an unknown type, and as large as net/http takes by itself, but for a byte.
		large := string(frame(0x20, 0, 0, strings.Repeat("x", 1<<20)))
		a.drip(1000, spread, preface+large[:len(large)-1])
	}},
	{name: "PING flood", counted: pauses, do: func(a *attacker) {
		pings := bytes.Repeat(frame(framePing, 0, 0, "8 octets"), 1000)
		a.flood(preface, true, func(int) []byte { return pings })
	}},
	{name: "PING flood without reading", counted: pauses, do: func(a *attacker) {
		pings := bytes.Repeat(frame(framePing, 0, 0, "8 octets"), 1000)
		a.flood(preface, false, func(int) []byte { return pings })
	}},
	{name: "SETTINGS flood", counted: pauses, do: func(a *attacker) {
		settings := bytes.Repeat(frame(frameSettings, 0, 0, "\x00\x04\x00\x00\xff\xff"), 1000)
		a.flood(preface, true, func(int) []byte { return settings })
	}},
	{name: "streams without a window", counted: queued, do: func(a *attacker) {
		a.drip(12, spread, streamsNoWindow(128, fields)) // 1,536 requests
	}},
	{name: "streams without a window, many connections", counted: cutOff, do: func(a *attacker) {
		a.drip(96, spread, streamsNoWindow(16, fields)) // as many
	}},
	{name: "streams without a window, all that are allowed", resident: floodResident, counted: refused, do: func(a *attacker) {
		a.drip(500, spread, streamsNoWindow(128, fields)) // 64,000
	}},
	{name: "streams without a window, small answers", resident: floodResident, counted: refused, do: func(a *attacker) {
		a.drip(500, spread, streamsNoWindow(128, smallFields))
	}},
	{name: "streams without a window, bad headers", resident: floodResident, counted: unserved, do: func(a *attacker) {
		a.drip(500, spread, streamsNoWindow(128, badFields))
	}},
	{name: "streams without a window, large headers", resident: floodResident, counted: unserved, do: func(a *attacker) {
		a.drip(500, spread, streamsNoWindow(128, newLargeFields, largeFields))
	}},
	{name: "Range lists", counted: pauses, do: func(a *attacker) {
		request := []byte(getLarge + "Range: bytes=0-" + strings.Repeat(",0-", 3<<10) + "\r\n\r\n")
		a.flood("", true, func(int) []byte { return request })
	}},
	{name: "lying bodies", counted: invalid, do: func(a *attacker) {
		a.each(
			putChunks+"fffffffffffffffff\r\n",
			putChunks+"7fffffffffffffff\r\n"+strings.Repeat("x", 256<<10),
			putChunks+"-1\r\nx\r\n0\r\n\r\n",
			putChunks+"4\r\ntoo long\r\n0\r\n\r\n",
			putChunks+"4\r\nfour\r\n",
			putChunks+strings.Repeat("1;"+strings.Repeat("x", 2000)+"\r\ny\r\n", 100),
			putChunks+"1;"+strings.Repeat("x", 256<<10),
			putChunks+"1\r\nx\r\n0\r\n"+strings.Repeat("A: trailer\r\n", 20<<10)+"\r\n",
			putStart+"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
			putStart+"Content-Length: 4\r\nContent-Length: 5\r\n\r\nfour",
			putStart+"Content-Length: 9223372036854775807\r\n\r\n"+strings.Repeat("x", 256<<10),
			putStart+"Content-Length: -1\r\n\r\n",
			putStart+"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n",
			"GET \x00\xff /\r\n\r\n",
		)
	}},
}

// Clients that behave well are served, and in time, whatever others do, and the
// memory of the service stays bounded. It is one test after the other, each
// alone: they measure.
func TestHostileClients(t *testing.T) {
	if testing.Short() && os.Getenv("CI") != "true" {
		t.Skip("a minute of load")
	}
	// The race detector takes no 10,000 connections: it ends at 8,128 goroutines.
	plain := filepath.Join(t.TempDir(), "sessapi")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", plain, "./cmd/sessapi")
	build.Dir = "../.."
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	v := startVictim(t, plain)
	quiet := v.healthy(t)
	t.Logf("quiet: p99 %v", quiet)
	v.stop(t, syscall.SIGTERM)
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
			v := startVictim(t, plain)
			idle, before := v.metric(t, goroutines), v.metric(t, attack.counted)
			// It gets what the service and the healthy clients leave of the processors,
			// as if it had its own. (With nice -n 19 it would hold the healthy clients up
			// for whole time slices, also while it attacks something else.)
			a := start(t, "chrt", "--idle", "0", os.Args[0], attackCommand, attack.name, v.addr)
			a.out.await(t, "attacking")
			used := v.metric(t, processor)
			p99 := v.healthy(t)
			used = v.metric(t, processor) - used
			open := v.metric(t, connections)
			a.stop(t, syscall.SIGTERM)
			made, err := strconv.ParseFloat(a.out.await(t, `made (\d+)`)[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			v.awaitIdle(t, idle)
			resident := v.memory(t, "VmHWM")
			t.Logf("p99 %v; %.0f connections were made, %.0f were open; %.2f s of a processor, %d KiB resident at most", p99, made, open, used, resident)
			if bound := max(healthyBound, 20*quiet); p99 > bound {
				t.Errorf("p99 of healthy clients is %v, over %v", p99, bound)
			}
			if bound := max(maxResident, attack.resident); resident > bound {
				t.Errorf("%d KiB were resident, more than %d", resident, bound)
			}
			if made == 0 {
				t.Error("the attack does not reach the service")
			}
			// The healthy clients connect as well, and the system drops some that are too many.
			counted := v.metric(t, attack.counted) - before
			if counted == 0 || attack.counted == accepted && counted < made/2 {
				t.Errorf("%s counts %.0f", attack.counted, counted)
			}
		})
	}
}

// victim is the service under attack.
type victim struct {
	*process
	addr string
}

// startVictim starts the service, with a large session to attack it by.
func startVictim(t *testing.T, program string) *victim {
	t.Helper()
	p := start(t, program, "serve", "--listen=127.0.0.1:0", "--cache-memory=16MiB", "--session-max-bytes=64KiB")
	v := &victim{process: p, addr: listeningAddress(t, p)}
	client := newHealthyClient(false, true)
	if err := client.request(t, http.MethodPut, v.url("1a"), make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *victim) url(id string) string { return "http://" + v.addr + "/sessions/" + id }

// healthy has clients use the service for the time of an attack: two on a
// connection of HTTP/1.1 each, one on one of HTTP/2, and one with new connections.
// It returns what 99 of 100 requests took at most.
func (v *victim) healthy(tb testing.TB) (p99 time.Duration) {
	tb.Helper()
	var mu sync.Mutex
	var all []time.Duration
	var running sync.WaitGroup
	until := time.Now().Add(attackTime)
	for i := range 4 {
		running.Go(func() {
			client := newHealthyClient(i == 2, i == 3)
			defer client.CloseIdleConnections()
			url := v.url(fmt.Sprintf("c%d", i))
			session := bytes.Repeat([]byte{byte(i)}, 1500)
			var took []time.Duration
			every := time.NewTicker(healthyEvery)
			defer every.Stop()
			for n := 0; time.Now().Before(until); n++ {
				method, body := http.MethodGet, []byte(nil)
				if n%4 == 0 {
					method, body = http.MethodPut, session
				}
				start := time.Now()
				if err := client.request(tb, method, url, body); err != nil {
					tb.Errorf("request %d of healthy client %d, after %v: %v", n, i, time.Since(start), err)
				}
				took = append(took, time.Since(start))
				<-every.C
			}
			if dials := client.dials.Load(); i != 3 && dials != 1 {
				tb.Errorf("healthy client %d needed %d connections", i, dials)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	running.Wait()
	slices.Sort(all)
	return all[len(all)*99/100]
}

// healthyClient counts its connections.
type healthyClient struct {
	http.Client
	dials atomic.Int64
}

func newHealthyClient(http2, fresh bool) *healthyClient {
	c := &healthyClient{}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	c.Timeout = 10 * time.Second
	c.Transport = &http.Transport{
		Protocols:         protocols,
		DisableKeepAlives: fresh,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c.dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}
	return c
}

// request fails unless the answer is the right one.
func (c *healthyClient) request(tb testing.TB, method, url string, body []byte) error {
	request, err := http.NewRequestWithContext(tb.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	request.Header.Set("Accept", "application/octet-stream")
	response, err := c.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", method, response.Status)
	}
	return nil
}

// metric is the value of one of the metrics; 0 when there is none yet.
func (v *victim) metric(tb testing.TB, name string) float64 {
	tb.Helper()
	client := newHealthyClient(false, true)
	response, err := client.Get("http://" + v.addr + "/metrics")
	if err != nil {
		tb.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		tb.Fatalf("GET /metrics: %s, %v", response.Status, err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				tb.Fatal(err)
			}
			return f
		}
	}
	return 0
}

// memory is a value of the status of the process, in KiB (proc_pid_status(5)).
func (v *victim) memory(tb testing.TB, name string) int {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			kib, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				tb.Fatal(err)
			}
			return kib
		}
	}
	tb.Fatalf("no %s in:\n%s", name, status)
	return 0
}

// awaitIdle waits until nothing is left of an attack.
func (v *victim) awaitIdle(tb testing.TB, idle float64) {
	tb.Helper()
	var now, open float64
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		now, open = v.metric(tb, goroutines), v.metric(tb, connections)
		if now <= idle+15 && open <= 6 { // the healthy clients may keep a spare connection each
			return
		}
	}
	tb.Errorf("%.0f goroutines and %.0f connections are left; %.0f goroutines are idle", now, open, idle)
}

// attackCommand is the first argument of a process that attacks.
const attackCommand = "attack"

// runAttack attacks the address until the process is to stop.
func runAttack(name, addr string) {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	a := &attacker{addr: addr, over: make(chan struct{}), tell: sync.OnceFunc(func() { fmt.Println("attacking") })}
	for _, attack := range attacks {
		if attack.name == name {
			a.running.Go(func() { attack.do(a) })
		}
	}
	select {
	case <-stop:
	case <-time.After(time.Minute): // the test is gone
	}
	a.stop()
	fmt.Println("made", a.made.Load())
}

// attacker makes connections until it is stopped.
type attacker struct {
	addr    string
	over    chan struct{} // closed by stop
	running sync.WaitGroup
	made    atomic.Int64
	tell    func() // that the attack is in full swing

	mu   sync.Mutex // guards open, and that nothing is added once it is over
	open []net.Conn
}

// stop closes all connections and waits until the attacker has noticed.
func (a *attacker) stop() {
	a.mu.Lock()
	close(a.over)
	for _, conn := range a.open {
		_ = conn.Close()
	}
	a.mu.Unlock()
	a.running.Wait()
}

func (a *attacker) isOver() bool {
	select {
	case <-a.over:
		return true
	default:
		return false
	}
}

// connect returns a connection that has sent that; nil when it cannot be had.
func (a *attacker) connect(first string) net.Conn {
	conn, err := net.Dial("tcp", a.addr)
	if err != nil {
		return nil
	}
	a.mu.Lock()
	if a.isOver() {
		_ = conn.Close()
	} else {
		a.open = append(a.open, conn)
		a.made.Add(1)
	}
	a.mu.Unlock()
	_, _ = io.WriteString(conn, first) // it may be refused
	return conn
}

// openFiles is how many files the processes may have open.
func openFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(err) // it is the process's own
	}
	return int(limit.Cur)
}

// drip holds n connections that send the first bytes and then, when these are of
// HTTP/1.1, one more every dripEvery, in so many turns. Those that the service closes
// are made anew, and those of HTTP/2 every tenth time.
func (a *attacker) drip(n, turns int, first string) {
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = a.connect(first)
	}
	isHTTP2 := strings.HasPrefix(first, "PRI")
	for turn := 0; !a.isOver(); turn++ {
		if turn == turns { // what the connecting was to the service is over
			a.tell()
		}
		for i := turn % turns; i < n && !a.isOver(); i += turns {
			switch conn := conns[i]; {
			case conn == nil:
				conns[i] = a.connect(first)
			case isHTTP2 && (turn/turns+i)%10 == 9:
				_ = conn.Close()
				conns[i] = a.connect(first)
			case isHTTP2 || first == "":
			default:
				if _, err := io.WriteString(conn, "x"); err != nil {
					conns[i] = nil
				}
			}
		}
		time.Sleep(dripEvery / time.Duration(turns))
	}
}

// flood sends, on four connections, the first bytes and then one block after the
// other, as fast as the service takes them. What the service closes is made anew.
func (a *attacker) flood(first string, read bool, next func(i int) []byte) {
	a.tell()
	var floods sync.WaitGroup
	for range 4 {
		floods.Go(func() {
			for !a.isOver() {
				conn := a.connect(first)
				if conn == nil {
					continue
				}
				if read {
					floods.Go(func() { _, _ = io.Copy(io.Discard, conn) })
				}
				for i := 0; ; i++ {
					if _, err := conn.Write(next(i)); err != nil {
						break
					}
				}
				_ = conn.Close()
			}
		})
	}
	floods.Wait()
}

// bursts sends, on four connections, n requests at once, and again when it has the
// answers.
func (a *attacker) bursts(n int, request string) {
	a.tell()
	burst := strings.Repeat(request, n)
	var floods sync.WaitGroup
	for range 4 {
		floods.Go(func() {
			for !a.isOver() {
				conn := a.connect("")
				if conn == nil {
					continue
				}
				in := bufio.NewReader(conn)
				for i := 0; ; i++ {
					if i%n == 0 {
						_, _ = io.WriteString(conn, burst)
					}
					if dropAnswer(in) != nil {
						break
					}
				}
				_ = conn.Close()
			}
		})
	}
	floods.Wait()
}

// dropAnswer reads an answer, and drops it.
func dropAnswer(in *bufio.Reader) error {
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// each sends, on four connections at a time, one request after the other, and
// does not wait long for answers.
func (a *attacker) each(requests ...string) {
	a.tell()
	var floods sync.WaitGroup
	for range 4 {
		floods.Go(func() {
			for i := 0; !a.isOver(); i++ {
				conn := a.connect(requests[i%len(requests)])
				if conn == nil {
					continue
				}
				_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			}
		})
	}
	floods.Wait()
}

// listeningAddress is that of the main listener, once it serves.
func listeningAddress(tb testing.TB, p *process) string {
	tb.Helper()
	addr := p.out.await(tb, `"name":"main","address":"([^"]+)"`)[1]
	p.out.await(tb, `"msg":"serving"`)
	return addr
}
