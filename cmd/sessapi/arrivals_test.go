package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// metric is the value that GET /metrics has of the series.
func (s *service) metric(t *testing.T, client *http.Client, scheme, name string) string {
	t.Helper()
	status, text := do(t, client, http.MethodGet, scheme+"://"+s.address(0)+"/metrics", nil)
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("%d, without %s", status, name)
	return ""
}

const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	// fields are :method GET, :scheme http, :path and :authority (RFC 7541, appendix A).
	fields = "\x82\x86\x04\x07/status\x01\x09localhost"
)

// frame is one of HTTP/2 (RFC 9113, section 4.1).
func frame(kind, flags byte, stream int, payload string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, uint32(stream))
	return string(b) + payload
}

// readAnswers reads so many answers; of HTTP/2 also that the settings were taken is one.
func readAnswers(in *bufio.Reader, http2 bool, n int) error {
	for n > 0 {
		if !http2 {
			response, err := http.ReadResponse(in, nil)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if err != nil {
				return err
			}
			n--
			continue
		}
		var header [9]byte
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return err
		}
		if _, err := in.Discard(int(header[0])<<16 | int(header[1])<<8 | int(header[2])); err != nil {
			return err
		}
		switch ends := header[4]&1 != 0; header[3] { // END_STREAM, or ACK
		case 0, 1, 4: // DATA, HEADERS, SETTINGS
			if ends {
				n--
			}
		case 3: // RST_STREAM
			n--
		}
	}
	return nil
}

// Each request that has begun and does not reach the service is counted, however
// net/http ends it, and nothing else is.
func TestUnservedAreCounted(t *testing.T) {
	const (
		get  = "GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
		bad  = "GET /status HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n"
		held = "GET /ticket-keys HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: GENERATION\r\nPrefer: wait=1\r\n\r\n"
	)
	large := "X: " + strings.Repeat("x", 32<<10) + "\r\n"
	get2 := func(stream int) string { return frame(1, 5, stream, fields) }
	// Literal fields of 32 bytes more in a list than as bytes.
	large2 := strings.Repeat("\x00\x01x\x70"+strings.Repeat("x", 0x70), 100)
	type step struct {
		send    string
		answers int
	}
	for _, c := range []struct {
		name     string
		steps    []step
		ends     bool // the service closes the connection
		late     bool // when the headers are late
		unserved int
		errors   int // of HTTP/2
		failed   int // connections of HTTP/2
	}{
		{name: "nothing"},
		{name: "nothing in time", ends: true, late: true},
		{name: "one", steps: []step{{get, 1}}},
		{name: "one with a body", steps: []step{{"PUT /sessions/00 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx", 1}, {get, 1}}},
		{name: "the last", steps: []step{{"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 1}}, ends: true},
		{name: "HTTP/1.0", steps: []step{{"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n", 1}}, ends: true},
		{name: "one after the other", steps: []step{{get, 1}, {get, 1}, {get, 1}}},
		{name: "two at once", steps: []step{{get + get, 2}}},
		{name: "of the server", steps: []step{{"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 1}, {get, 1}}},
		{name: "held", steps: []step{{held, 1}, {get, 1}, {get, 1}}},

		{name: "too large", steps: []step{{"GET / HTTP/1.1\r\n" + large, 1}}, ends: true, unserved: 1},
		{name: "too large behind another", steps: []step{{get, 1}, {"GET / HTTP/1.1\r\n" + large, 1}}, ends: true, unserved: 1},
		{name: "malformed", steps: []step{{bad, 1}}, ends: true, unserved: 1},
		{name: "malformed behind another", steps: []step{{get, 1}, {bad, 1}}, ends: true, unserved: 1},
		{name: "malformed in a pipeline", steps: []step{{get + bad, 2}}, ends: true, unserved: 1},
		{name: "malformed behind one that was held", steps: []step{{held, 1}, {bad, 1}}, ends: true, unserved: 1},
		{name: "malformed and short", steps: []step{{"x\r\n\r\n", 1}}, ends: true, late: true, unserved: 1},
		{name: "without a host", steps: []step{{"GET / HTTP/1.1\r\n\r\n", 1}}, ends: true, unserved: 1},
		{name: "with an unknown expectation", steps: []step{{"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: all\r\n\r\n", 1}}, ends: true, unserved: 1},
		{name: "late", steps: []step{{get[:len(get)-2], 0}}, ends: true, late: true, unserved: 1},
		{name: "late and short", steps: []step{{get[:8], 0}}, ends: true, late: true, unserved: 1},
		{name: "late behind another", steps: []step{{get, 1}, {get[:8], 0}}, ends: true, late: true, unserved: 1},
		{name: "broken off behind another", steps: []step{{get, 1}, {get[:8], 0}}, unserved: 1},

		{name: "HTTP/2", steps: []step{{preface, 1}}},
		{name: "HTTP/2, one after the other", steps: []step{{preface + get2(1), 2}, {get2(3), 1}, {get2(5), 1}}},
		{name: "HTTP/2, some at once", steps: []step{{preface + get2(1) + get2(3) + get2(5), 4}}},
		{name: "HTTP/2, too large", steps: []step{{preface + get2(1) + frame(1, 5, 3, fields+large2), 3}, {get2(5), 1}}, unserved: 1},
		{name: "HTTP/2, much too large", steps: []step{{preface + frame(1, 1, 1, fields+large2) + frame(9, 4, 1, large2), 0}}, ends: true, failed: 1},
		{name: "HTTP/2, malformed", steps: []step{{preface + get2(1), 2}, {frame(1, 5, 3, "\x82"), 1}, {get2(5), 1}}, errors: 1},
		{name: "HTTP/2, a window that does not grow", steps: []step{{preface + get2(1), 2}, {get2(3) + frame(8, 0, 3, "\x00\x00\x00\x00"), 1}}, errors: 1},
		{name: "HTTP/2, a stream again", steps: []step{{preface + get2(1), 2}, {get2(1), 0}}, ends: true, errors: 1, failed: 1},
		{name: "HTTP/2, not on a stream", steps: []step{{preface + frame(1, 5, 0, fields), 0}}, ends: true, errors: 1, failed: 1},
		{name: "HTTP/2, no settings", steps: []step{{preface[:24], 0}}, ends: true, failed: 1},
		{name: "HTTP/2, the client gives up", steps: []step{{preface + frame(7, 0, 0, "\x00\x00\x00\x00\x00\x00\x00\x02"), 0}}, ends: true, failed: 1},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %t", c.name, secure), func(t *testing.T) {
				t.Parallel()
				id := newIdentity(t, "server", nil)
				settings, scheme := settings(), "http"
				if secure {
					settings, scheme = tlsSettings(t, id), "https"
				}
				client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: id.pool()}, MaxConnsPerHost: 1}}
				defer client.CloseIdleConnections()
				s := startServiceWith(t, settings, func(s *service) {
					if c.late {
						s.listeners[0].ReadHeaderTimeout = 2 * time.Second
					}
				})
				generation := fmt.Sprintf("%q", fmt.Sprint(s.ring.Generation()))
				http2 := strings.HasPrefix(c.name, "HTTP/2")
				conn := dial(t, s, secure, http2, id)
				in := bufio.NewReader(conn)
				for _, step := range c.steps {
					if _, err := io.WriteString(conn, strings.ReplaceAll(step.send, "GENERATION", generation)); err != nil {
						t.Fatal(err)
					}
					if err := readAnswers(in, http2, step.answers); err != nil {
						t.Fatal(err)
					}
				}
				if c.ends {
					if _, err := io.Copy(io.Discard, in); err != nil && !errors.Is(err, syscall.ECONNRESET) {
						t.Fatal(err)
					}
				}
				_ = conn.Close()
				s.awaitConnections(t, client, scheme, 1)
				for name, want := range map[string]int{
					`sessapi_http_connections_accepted_total{listener="main"}`: 2,
					`sessapi_http_requests_unserved_total{listener="main"}`:    c.unserved,
					`sessapi_http_connections_failed_total{listener="main"}`:   c.failed,
					`sessapi_http_protocol_errors_total`:                       c.errors,
				} {
					if got := s.metric(t, client, scheme, name); got != fmt.Sprint(want) {
						t.Errorf("%s is %s, want %d", name, got, want)
					}
				}
			})
		}
	}
}

// awaitConnections waits until so many are open.
func (s *service) awaitConnections(t *testing.T, client *http.Client, scheme string, n int) {
	t.Helper()
	open := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if open = s.metric(t, client, scheme, `sessapi_http_connections{listener="main"}`); open == fmt.Sprint(n) {
			return
		}
	}
	t.Fatalf("%s connections are open, want %d", open, n)
}

// dial connects to the service. The connection fails when it takes too long.
func dial(t *testing.T, s *service, secure, http2 bool, id identity) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.address(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if !secure {
		return conn
	}
	protocol := "http/1.1"
	if http2 {
		protocol = "h2"
	}
	over := tls.Client(conn, &tls.Config{RootCAs: id.pool(), ServerName: "localhost", NextProtos: []string{protocol}})
	if err := over.Handshake(); err != nil {
		t.Fatal(err)
	}
	return over
}

// Each request of a connection of HTTP/2 whose client ends it at once is counted once:
// as served, as reset, or as unserved.
func TestRequestsAreCountedOnce(t *testing.T) {
	s := startService(t, settings())
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	const conns, requests = 100, 40
	streams := preface
	for i := range requests {
		streams += frame(1, 5, 2*i+1, fields)
	}
	for range conns {
		conn := dial(t, s, false, true, identity{})
		if _, err := io.WriteString(conn, streams); err != nil {
			t.Fatal(err)
		}
		// It reads to the end, and does not wait for what is served.
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Fatal(err)
		}
	}
	s.awaitConnections(t, client, "http", 1)
	counted := func() (n int) {
		for _, name := range []string{
			`sessapi_http_requests_total{code="200",method="GET",route="/status"}`,
			"sessapi_http_requests_reset_total",
			"sessapi_http_requests_refused_total",
			`sessapi_http_requests_unserved_total{listener="main"}`,
		} {
			value, err := strconv.Atoi(s.metric(t, client, "http", name))
			if err != nil {
				t.Fatal(err)
			}
			n += value
		}
		return n
	}
	n := 0
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline) && n != conns*requests; time.Sleep(10 * time.Millisecond) {
		n = counted() // some may be served yet
	}
	time.Sleep(100 * time.Millisecond) // nor is one counted again
	if n = counted(); n != conns*requests {
		t.Errorf("%d requests are counted, of %d", n, conns*requests)
	}
}

// With much to do, a connection of HTTP/2 waits for its own requests to reach the service,
// and goes on by and by when they do not.
func TestComingOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a arrivals
		a.phase.Store(phaseHTTP2)
		took := func(n int) time.Duration {
			began := time.Now()
			for range n {
				a.moved()
			}
			return time.Since(began)
		}
		if d := took(100); d != 0 {
			t.Errorf("with little to do: it waits for %v", d)
		}
		a.changed(http.StateIdle)
		end := make(chan struct{})
		for range manyGoroutines {
			go func() { <-end }()
		}
		if d := took(fewComing); d != 0 {
			t.Errorf("a few: it waits for %v", d)
		}
		if d := took(2); d < 2*comingTime {
			t.Errorf("two more, which do not come: it waits for %v", d)
		}
		go func() {
			time.Sleep(comingTime / 2)
			a.reached()
		}()
		if d := took(1); d < comingTime/2 || d > comingTime/2+time.Millisecond {
			t.Errorf("until they come: it waits for %v", d)
		}
		waited := time.Duration(0)
		for range 100 { // the connection is never idle
			waited += took(1)
			a.reached()
		}
		if waited > 2*comingTime {
			t.Errorf("while others are served: it waits for %v", waited)
		}
		took(2)
		a.changed(http.StateIdle)
		if d := took(fewComing); d != 0 {
			t.Errorf("once it was idle: it waits for %v", d)
		}
		close(end)
	})
}

// What any client can have net/http log is counted, and does not fill the log; other
// messages are kept.
func TestServerLog(t *testing.T) {
	for _, c := range []struct {
		message            string
		handshakes, failed uint64
	}{
		{"http: TLS handshake error from 127.0.0.1:1: EOF", 1, 0},
		{"http2: server connection error from 127.0.0.1:1: connection error: PROTOCOL_ERROR", 0, 1},
		{"http2: server: error reading preface from client 127.0.0.1:1: connection reset by peer", 0, 1},
		{"http2: received GOAWAY [FrameHeader GOAWAY len=8], starting graceful shutdown", 0, 1},
		{"timeout waiting for SETTINGS frames from 127.0.0.1:1", 0, 1},
		{"http: Accept error: too many open files", 0, 0},
		{"http2: panic serving 127.0.0.1:1: oops", 0, 0},
		{"http2: server: client 127.0.0.1:1 said hello", 0, 0}, // with GODEBUG=http2debug=1
		{"http2: server read frame SETTINGS len=0", 0, 0},
	} {
		var out bytes.Buffer
		var all connections
		var handshakes atomic.Uint64
		slog.NewLogLogger(all.log(slog.NewTextHandler(&out, nil), &handshakes), slog.LevelWarn).Print(c.message)
		if handshakes.Load() != c.handshakes || all.failed.Load() != c.failed {
			t.Errorf("%s: %d handshakes and %d connections failed", c.message, handshakes.Load(), all.failed.Load())
		}
		if logged := out.Len() > 0; logged != (c.handshakes+c.failed == 0) {
			t.Errorf("%s: logged is %t", c.message, logged)
		}
	}
}
