package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
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

// frame is one of HTTP/2 (RFC 9113, section 4.1).
func frame(kind, flags byte, stream int, payload string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, uint32(stream))
	return string(b) + payload
}

// readAnswers reads so many answers.
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
		if endsStream := header[3] < 2 && header[4]&1 != 0; endsStream || header[3] == 3 { // or it is reset
			n--
		}
	}
	return nil
}

// Each request that has begun and does not reach the service is counted, however
// net/http ends it, and nothing else is.
func TestUnservedAreCounted(t *testing.T) {
	const (
		get     = "GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
		bad     = "GET /status HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n"
		held    = "GET /ticket-keys HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: GENERATION\r\nPrefer: wait=1\r\n\r\n"
		preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
		// fields are :method GET, :scheme http, :path and :authority (RFC 7541, appendix A).
		fields = "\x82\x86\x04\x07/status\x01\x09localhost"
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
		late     bool // the service closes the connection
		unserved int
		errors   int // of HTTP/2
	}{
		{name: "nothing"},
		{name: "nothing in time", late: true},
		{name: "one", steps: []step{{get, 1}}},
		{name: "one with a body", steps: []step{{"PUT /sessions/00 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx", 1}, {get, 1}}},
		{name: "the last", steps: []step{{"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 1}}, late: true},
		{name: "HTTP/1.0", steps: []step{{"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n", 1}}, late: true},
		{name: "one after the other", steps: []step{{get, 1}, {get, 1}, {get, 1}}},
		{name: "two at once", steps: []step{{get + get, 2}}},
		{name: "of the server", steps: []step{{"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 1}, {get, 1}}},
		{name: "held", steps: []step{{held, 1}, {get, 1}, {get, 1}}},

		{name: "too large", steps: []step{{"GET / HTTP/1.1\r\n" + large, 1}}, late: true, unserved: 1},
		{name: "too large behind another", steps: []step{{get, 1}, {"GET / HTTP/1.1\r\n" + large, 1}}, late: true, unserved: 1},
		{name: "malformed", steps: []step{{bad, 1}}, late: true, unserved: 1},
		{name: "malformed behind another", steps: []step{{get, 1}, {bad, 1}}, late: true, unserved: 1},
		{name: "malformed in a pipeline", steps: []step{{get + bad, 2}}, late: true, unserved: 1},
		{name: "malformed behind one that was held", steps: []step{{held, 1}, {bad, 1}}, late: true, unserved: 1},
		{name: "malformed and short", steps: []step{{"x\r\n\r\n", 1}}, late: true, unserved: 1},
		{name: "without a host", steps: []step{{"GET / HTTP/1.1\r\n\r\n", 1}}, late: true, unserved: 1},
		{name: "with an unknown expectation", steps: []step{{"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: all\r\n\r\n", 1}}, late: true, unserved: 1},
		{name: "late", steps: []step{{get[:len(get)-2], 0}}, late: true, unserved: 1},
		{name: "late and short", steps: []step{{get[:8], 0}}, late: true, unserved: 1},
		{name: "late behind another", steps: []step{{get, 1}, {get[:8], 0}}, late: true, unserved: 1},
		{name: "broken off behind another", steps: []step{{get, 1}, {get[:8], 0}}, unserved: 1},

		{name: "HTTP/2", steps: []step{{preface, 0}}},
		{name: "HTTP/2, one after the other", steps: []step{{preface + get2(1), 1}, {get2(3), 1}, {get2(5), 1}}},
		{name: "HTTP/2, some at once", steps: []step{{preface + get2(1) + get2(3) + get2(5), 3}}},
		{name: "HTTP/2, too large", steps: []step{{preface + get2(1) + frame(1, 5, 3, fields+large2), 2}, {get2(5), 1}}, unserved: 1},
		{name: "HTTP/2, much too large", steps: []step{{preface + frame(1, 1, 1, fields+large2) + frame(9, 4, 1, large2), 0}}, late: true, errors: 1},
		{name: "HTTP/2, malformed", steps: []step{{preface + get2(1), 1}, {frame(1, 5, 3, "\x82"), 1}, {get2(5), 1}}, errors: 1},
		{name: "HTTP/2, a stream again", steps: []step{{preface + get2(1), 1}, {get2(1), 0}}, late: true, errors: 1},
		{name: "HTTP/2, not on a stream", steps: []step{{preface + frame(1, 5, 0, fields), 0}}, late: true, errors: 1},
		{name: "HTTP/2, no settings", steps: []step{{preface[:24], 0}}, late: true, errors: 1},
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
					s.listeners[0].ReadHeaderTimeout = time.Second // sooner than the others
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
				if c.late {
					if _, err := io.Copy(io.Discard, in); err != nil && !strings.Contains(err.Error(), "reset") {
						t.Fatal(err)
					}
				} else if len(c.steps) > 0 && c.steps[len(c.steps)-1].answers == 0 {
					time.Sleep(100 * time.Millisecond) // until it is read; else nothing of it was sent
				}
				_ = conn.Close()
				for range 500 {
					if s.metric(t, client, scheme, `sessapi_http_connections{listener="main"}`) == "1" {
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
				for name, want := range map[string]int{
					`sessapi_http_connections_accepted_total{listener="main"}`: 2,
					`sessapi_http_requests_unserved_total{listener="main"}`:    c.unserved,
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

// What any client can have net/http log is counted, and does not fill the log; other
// messages are kept.
func TestServerLog(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelInfo: 1, slog.LevelDebug: 2} {
		var out bytes.Buffer
		failures := 0
		log := slog.NewLogLogger(serverLog{
			slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}),
			map[string]func(){"http: TLS handshake error": func() { failures++ }},
		}, slog.LevelWarn)
		log.Print("http: TLS handshake error from 127.0.0.1:1: EOF")
		log.Print("http: Accept error: too many open files")
		if got := strings.Count(out.String(), "\n"); got != want || !strings.Contains(out.String(), "level=WARN") || failures != 1 {
			t.Errorf("%v: %d failures, %s", level, failures, &out)
		}
	}
}
