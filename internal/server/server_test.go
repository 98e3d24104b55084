package server

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
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

// queue is a listener whose connections wait in a channel.
type queue chan net.Conn

func (q queue) Accept() (net.Conn, error) { return <-q, nil }
func (q queue) Close() error              { return nil }
func (q queue) Addr() net.Addr            { return nil }

// A connection beyond the bound is accepted once another one is closed.
func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waiting := make(queue, 3)
		for range 3 {
			conn, _ := net.Pipe()
			waiting <- conn
		}
		l := limit(waiting, 2, slog.New(slog.DiscardHandler))
		accepted := make(chan net.Conn, 3)
		go func() {
			for range 3 {
				conn, err := l.Accept()
				if err != nil {
					t.Error(err)
				}
				accepted <- conn
			}
		}()
		synctest.Wait()
		if len(accepted) != 2 || l.open.Load() != 2 {
			t.Errorf("%d accepted, %d open", len(accepted), l.open.Load())
		}
		first := <-accepted
		_ = first.Close()
		_ = first.Close() // which counts once
		synctest.Wait()
		if len(accepted) != 2 || len(waiting) != 0 || l.open.Load() != 2 {
			t.Errorf("then %d accepted and not closed, %d open", len(accepted), l.open.Load())
		}
	})
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
	_, err = io.Copy(io.Discard, response.Body) // else the client may end the connection
	if err := errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	if open := full.Connections(); open != 1 { // its client keeps it alive
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
	got := []any{
		h.ReadHeaderTimeout, h.ReadTimeout, h.WriteTimeout, h.IdleTimeout, h.MaxHeaderBytes,
		h.HTTP2.MaxConcurrentStreams, h.HTTP2.MaxReadFrameSize, h.HTTP2.MaxReceiveBufferPerConnection,
		h.HTTP2.MaxReceiveBufferPerStream, h.HTTP2.WriteByteTimeout,
	}
	want := []any{
		5 * time.Second, 15 * time.Second, time.Second, 2 * time.Minute, 12 << 10,
		16, 16 << 10, 64 << 10,
		64 << 10, 5 * time.Second,
	}
	if !slices.Equal(got, want) {
		t.Errorf("have %v\nwant %v", got, want)
	}
}
