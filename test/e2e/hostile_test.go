package e2e_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	// maxResident bounds the memory of the service with its default settings, in KiB.
	maxResident = 512 << 10
	// healthyRequests is how many each healthy client makes during an attack.
	healthyRequests = 100
	// manyConnections is more than --max-connections allows, and less than an
	// address has ports.
	manyConnections = 10000

	connections    = `sessapi_http_connections{listener="main"}`
	maxConnections = `sessapi_http_max_connections{listener="main"}`
	goroutines     = "go_goroutines"
)

// Frame types, flags and settings of RFC 9113, sections 6 and 6.5.2.
const (
	frameHeaders   = 0x1
	frameRSTStream = 0x3
	endStream      = 0x1
	endHeaders     = 0x4

	preface         = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	prefaceNoWindow = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00"
	// fields are :method GET, :scheme http, :path and :authority, and accept (RFC
	// 7541, appendix A).
	fields = "\x82\x86\x04\x0c/sessions/1a\x01\x09localhost\x0f\x04\x18application/octet-stream"
	// streams is how many requests a connection may have at a time.
	streams = 16
)

func frame(kind, flags byte, stream int, payload string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, uint32(stream))
	return append(b, payload...)
}

// untaken is as many requests as a connection may have whose answers are not taken.
func untaken() string {
	requests := prefaceNoWindow
	for i := range streams {
		requests += string(frame(frameHeaders, endStream|endHeaders, 2*i+1, fields))
	}
	return requests
}

// attacks are what can hurt a service whose every wait and size is bounded.
var attacks = map[string]func(*attacker){
	"slow headers": func(a *attacker) {
		a.hold(1500, "GET /status HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
	},
	"slow bodies": func(a *attacker) {
		a.hold(1500, "PUT /sessions/0b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: 4096\r\n\r\n")
	},
	"connections": func(a *attacker) { a.hold(manyConnections, "") },
	"oversized headers": func(a *attacker) {
		line := []byte("X-Large: " + strings.Repeat("x", 64<<10) + "\r\n")
		a.flood("GET /status HTTP/1.1\r\nHost: localhost\r\n", func(int) []byte { return line })
	},
	"rapid reset": func(a *attacker) {
		a.flood(preface, func(i int) []byte {
			var b []byte
			for stream := 200*i + 1; stream < 200*(i+1); stream += 2 {
				b = append(b, frame(frameHeaders, endStream|endHeaders, stream, fields)...)
				b = append(b, frame(frameRSTStream, 0, stream, "\x00\x00\x00\x08")...)
			}
			return b
		})
	},
	"answers that are not taken": func(a *attacker) { a.hold(500, untaken()) },
}

// Clients that behave well are answered whatever others do, the memory of the
// service stays bounded, and nothing is left of an attack. When all connections are
// taken, others wait for one, and the operations listener answers.
func TestHostileClients(t *testing.T) {
	if testing.Short() && os.Getenv("CI") != "true" {
		t.Skip("a minute of load")
	}
	// The race detector takes no 10,000 connections: it ends at 8,128 goroutines.
	plain := buildCommand(t)
	for name := range attacks {
		t.Run(name, func(t *testing.T) {
			v := startVictim(t, plain)
			idle := v.metric(t, goroutines)
			a := start(t, os.Args[0], attackCommand, name, v.addr)
			a.out.await(t, "attacking")
			if name == "connections" {
				v.await(t, "all connections are in use", func() bool { return v.metric(t, connections) == v.metric(t, maxConnections) })
			} else {
				v.healthy(t)
			}
			if status := v.status(t, "/readyz"); status != http.StatusOK {
				t.Errorf("/readyz: %d", status)
			}
			a.stop(t, syscall.SIGTERM)
			if made := a.out.await(t, `made (\d+)`)[1]; made == "0" {
				t.Error("the attack does not reach the service")
			}
			v.await(t, "nothing is left of the attack", func() bool {
				return v.metric(t, connections) <= 6 && v.metric(t, goroutines) <= idle+15 // healthy clients may keep connections
			})
			v.healthy(t)
			resident := v.memory(t, "VmHWM")
			t.Logf("%d KiB resident at most", resident)
			if resident > maxResident {
				t.Errorf("%d KiB were resident, more than %d", resident, maxResident)
			}
		})
	}
}

// victim is the service under attack.
type victim struct {
	*process
	addr, ops string // of the main and the operations listener
}

// startVictim starts the service, with the largest session to attack it by.
func startVictim(t *testing.T, program string) *victim {
	t.Helper()
	p := start(t, program, "serve", "--listen=127.0.0.1:0", "--ops-listen=localhost:0")
	v := &victim{process: p, addr: listeningAddress(t, p), ops: p.out.await(t, `"name":"operations","address":"([^"]+)"`)[1]}
	if err := newHealthyClient(false, true).request(t, http.MethodPut, v.url("1a"), make([]byte, 16<<10)); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *victim) url(id string) string { return "http://" + v.addr + "/sessions/" + id }

// status is how the operations listener answers.
func (v *victim) status(tb testing.TB, path string) int {
	tb.Helper()
	client := newHealthyClient(false, true)
	response, err := client.Get("http://" + v.ops + path)
	if err != nil {
		tb.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

// await waits for the condition.
func (v *victim) await(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within a minute; %.0f connections, %.0f goroutines", what, v.metric(tb, connections), v.metric(tb, goroutines))
		}
	}
}

// healthy has clients use the service: two on a connection of HTTP/1.1 each, one on
// one of HTTP/2, and one with new connections. Each request has to be answered.
func (v *victim) healthy(tb testing.TB) {
	tb.Helper()
	var running sync.WaitGroup
	for i := range 4 {
		running.Go(func() {
			client := newHealthyClient(i == 2, i == 3)
			defer client.CloseIdleConnections()
			url := v.url(fmt.Sprintf("c%d", i))
			session := bytes.Repeat([]byte{byte(i)}, 1500)
			for n := range healthyRequests {
				method, body := http.MethodGet, []byte(nil)
				if n%4 == 0 {
					method, body = http.MethodPut, session
				}
				if err := client.request(tb, method, url, body); err != nil {
					tb.Errorf("request %d of healthy client %d: %v", n, i, err)
				}
			}
		})
	}
	running.Wait()
}

// healthyClient behaves well.
type healthyClient struct{ http.Client }

// newHealthyClient is a client of one of the protocols, with new connections or kept ones.
func newHealthyClient(http2, fresh bool) healthyClient {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	return healthyClient{http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{Protocols: protocols, DisableKeepAlives: fresh},
	}}
}

// request fails unless the answer is the right one. When the service is overloaded it
// tries again after the time that the service asks for, as clients should, for a minute.
func (c healthyClient) request(tb testing.TB, method, url string, body []byte) error {
	for deadline := time.Now().Add(time.Minute); ; {
		retryAfter, err := c.try(tb, method, url, body)
		if retryAfter == 0 || time.Now().After(deadline) {
			return err
		}
		time.Sleep(retryAfter)
	}
}

// try makes the request once. After an error it returns when to try again; 0 is never.
func (c healthyClient) try(tb testing.TB, method, url string, body []byte) (retryAfter time.Duration, err error) {
	request, err := http.NewRequestWithContext(tb.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	request.Header.Set("Accept", "application/octet-stream")
	response, err := c.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0, err
	}
	if response.StatusCode/100 != 2 {
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After")) // absent: 0
		return time.Duration(seconds) * time.Second, fmt.Errorf("%s: %s", method, response.Status)
	}
	return 0, nil
}

// metric is the value of one of the metrics; 0 when there is none yet.
func (v *victim) metric(tb testing.TB, name string) float64 {
	tb.Helper()
	client := newHealthyClient(false, true)
	response, err := client.Get("http://" + v.ops + "/metrics")
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

// attackCommand is the first argument of a process that attacks.
const attackCommand = "attack"

// runAttack attacks the address until the process is to stop.
func runAttack(name, addr string) {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	a := &attacker{addr: addr, over: make(chan struct{}), tell: sync.OnceFunc(func() { fmt.Println("attacking") })}
	a.running.Go(func() { attacks[name](a) })
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

// hold has n connections that send the first bytes and then, unless these are of
// HTTP/2 or none, one more now and then. Those that the service closes are made anew.
func (a *attacker) hold(n int, first string) {
	conns := make([]net.Conn, n)
	drips := first != "" && !strings.HasPrefix(first, "PRI")
	for round := 0; !a.isOver(); round++ {
		for i := range conns {
			if a.isOver() {
				return
			}
			if conns[i] == nil {
				conns[i] = a.connect(first)
			} else if drips {
				if _, err := io.WriteString(conns[i], "x"); err != nil {
					conns[i] = nil
				}
			}
		}
		a.tell()
		time.Sleep(100 * time.Millisecond)
	}
}

// flood sends, on four connections, the first bytes and then one block after the
// other, as fast as the service takes them. What the service closes is made anew.
func (a *attacker) flood(first string, next func(i int) []byte) {
	a.tell()
	var floods sync.WaitGroup
	for range 4 {
		floods.Go(func() {
			for !a.isOver() {
				conn := a.connect(first)
				if conn == nil {
					continue
				}
				floods.Go(func() { _, _ = io.Copy(io.Discard, conn) })
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

// listeningAddress is that of the main listener, once it serves.
func listeningAddress(tb testing.TB, p *process) string {
	tb.Helper()
	addr := p.out.await(tb, `"name":"main","address":"([^"]+)"`)[1]
	p.out.await(tb, `"msg":"serving"`)
	return addr
}
