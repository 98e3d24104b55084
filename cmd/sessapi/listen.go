package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sessapi/sessapi/internal/config"
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

// connections counts those of a server, and closes what comes beyond
// maxConnections.
type connections struct {
	open    atomic.Int64
	refused atomic.Uint64
}

// changed is for [http.Server.ConnState].
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if c.open.Add(1) > maxConnections {
			c.refused.Add(1)
			_ = conn.Close() // the server notices, and says that it is closed
		}
	case http.StateHijacked, http.StateClosed:
		c.open.Add(-1)
	}
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
