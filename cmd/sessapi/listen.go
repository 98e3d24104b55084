package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/metrics"
)

// listen binds an address. A Unix socket has that mode; one that a dead process
// left behind is replaced, one that a live process serves is not.
func listen(a config.Address, mode os.FileMode) (net.Listener, error) {
	listener, err := net.Listen(a.Network, a.Address)
	if a.Network == "unix" && errors.Is(err, syscall.EADDRINUSE) && isStale(a.Address) {
		if err := os.Remove(a.Address); err != nil {
			return nil, err
		}
		listener, err = net.Listen(a.Network, a.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	if a.Network == "unix" {
		// Connecting needs write permission; the umask let nobody else in
		// until here.
		if err := os.Chmod(a.Address, mode); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
	}
	return listener, nil
}

// connections counts those of a server, and those of their requests that net/http ended
// before they reached the service. It closes what comes beyond maxConnections.
type connections struct {
	open                                atomic.Int64
	accepted, refused, failed, unserved atomic.Uint64
}

func (c *connections) figures() metrics.Connections {
	return metrics.Connections{
		Open: c.open.Load(), Accepted: c.accepted.Load(), Refused: c.refused.Load(),
		Failed: c.failed.Load(), Unserved: c.unserved.Load(),
	}
}

// changed is for [http.Server.ConnState].
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	arrivals := arrivalsOf(conn)
	switch state {
	case http.StateNew:
		if !arrivals.isHeld() {
			c.accepted.Add(1)
		}
		if c.open.Add(1) > maxConnections {
			c.refused.Add(1)
			_ = conn.Close() // the server notices, and says that it is closed
		}
	case http.StateHijacked:
		c.open.Add(-1)
	case http.StateClosed:
		c.unserved.Add(uint64(arrivals.ended()))
		c.open.Add(-1)
	}
	arrivals.changed(state)
}

// log is for [http.Server.ErrorLog].
func (c *connections) log(to slog.Handler, handshakeFailures *atomic.Uint64) slog.Handler {
	return serverLog{to, map[string]*atomic.Uint64{
		"http: TLS handshake error from ":            handshakeFailures,
		"http2: server connection error from ":       &c.failed,
		"http2: server closing client connection: ":  &c.failed,
		"http2: server: error reading preface from ": &c.failed,
		"http2: received GOAWAY ":                    &c.failed,
		"timeout waiting for SETTINGS frames from ":  &c.failed,
	}}
}

// serverLog is the log of net/http, which tells of some things by text alone. Those that
// any client can cause, known by how their text begins, are counted, and at debug level.
type serverLog struct {
	slog.Handler
	counted map[string]*atomic.Uint64
}

// Enabled is part of [slog.Handler]. What is not logged is counted.
func (l serverLog) Enabled(context.Context, slog.Level) bool { return true }

// Handle is part of [slog.Handler].
func (l serverLog) Handle(ctx context.Context, r slog.Record) error {
	for beginning, count := range l.counted {
		if strings.HasPrefix(r.Message, beginning) {
			count.Add(1)
			r.Level = slog.LevelDebug
			break
		}
	}
	if !l.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// isStale reports whether the path is a socket that nobody listens at.
func isStale(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
