package server

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// start serves a handler at an address until the test ends.
func start(t *testing.T, c Config) *Server {
	t.Helper()
	c.WriteTimeout, c.Log = time.Minute, slog.New(slog.DiscardHandler)
	s, err := Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		if err := s.Stop(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

// A connection beyond the bound waits until another one is closed, and is then served.
func TestConnectionsAreBounded(t *testing.T) {
	for _, c := range []Config{{Network: "tcp", Address: "127.0.0.1:0"}, {Network: "unix", Address: filepath.Join(t.TempDir(), "s")}} {
		t.Run(c.Network, func(t *testing.T) {
			c.SocketMode, c.MaxConnections, c.Handler = 0o600, 2, http.NotFoundHandler()
			s := start(t, c)
			request := func() (net.Conn, chan error) {
				conn, err := net.Dial(c.Network, s.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = conn.Close() })
				if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				answered := make(chan error, 1)
				go func() {
					response, err := http.ReadResponse(bufio.NewReader(conn), nil)
					if err == nil {
						err = response.Body.Close()
					}
					answered <- err
				}()
				return conn, answered
			}
			first, answered := request()
			if err := <-answered; err != nil {
				t.Fatal(err)
			}
			_, answered = request()
			if err := <-answered; err != nil {
				t.Fatal(err)
			}
			_, answered = request()
			if open := s.Connections(); open != 2 {
				t.Errorf("%d connections are open", open)
			}
			select {
			case err := <-answered:
				t.Fatalf("the third connection is served: %v", err)
			default:
			}
			_ = first.Close()
			if err := <-answered; err != nil {
				t.Error(err)
			}
		})
	}
}

// A listener that is full, or was never served, ends.
func TestStop(t *testing.T) {
	s, err := Listen(Config{Network: "tcp", Address: "127.0.0.1:0", MaxConnections: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	again, err := net.Listen("tcp", s.Addr().String())
	if err != nil {
		t.Fatalf("the address is still in use: %v", err)
	}
	_ = again.Close()

	full := start(t, Config{Network: "tcp", Address: "127.0.0.1:0", MaxConnections: 1, Handler: http.NotFoundHandler()})
	client := &http.Client{}
	response, err := client.Get("http://" + full.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if open := full.Connections(); open != 1 {
		t.Errorf("%d connections are open", open)
	}
	if err := full.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// What the package doc promises is set.
func TestLimits(t *testing.T) {
	s, err := Listen(Config{Network: "tcp", Address: "127.0.0.1:0", MaxConnections: 1, WriteTimeout: time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Stop(t.Context()) }()
	h := &s.http
	if h.ReadHeaderTimeout <= 0 || h.ReadTimeout <= 0 || h.WriteTimeout <= 0 || h.IdleTimeout <= 0 || h.MaxHeaderBytes <= 0 ||
		h.HTTP2.MaxConcurrentStreams <= 0 || h.HTTP2.WriteByteTimeout <= 0 || h.HTTP2.MaxReadFrameSize <= 0 {
		t.Errorf("%+v", h)
	}
}
