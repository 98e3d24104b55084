package server

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
)

// limitListener accepts up to cap(slots) connections. The others wait with the
// system, in the backlog of the socket. It is netutil.LimitListener with connections that
// say what they wrap: the peer of a Unix socket is asked for by its type, and
// net/http shuts down only one half of a connection when it closes it after an error.
type limitListener struct {
	net.Listener
	slots  chan struct{} // has a token for each open connection, and the one being accepted
	open   atomic.Int64  // connections
	closed chan struct{}
	close  func() error
	log    *slog.Logger
}

func limit(l net.Listener, n int, log *slog.Logger) *limitListener {
	closed := make(chan struct{})
	return &limitListener{
		Listener: l, slots: make(chan struct{}, n), closed: closed, log: log,
		close: sync.OnceValue(func() error { close(closed); return l.Close() }),
	}
}

// Accept is part of [net.Listener].
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		if !errors.Is(err, net.ErrClosed) { // net/http tries again, and logs it where any client can fill the log
			l.log.Warn("cannot accept connections", slog.String("error", err.Error()))
		}
		return nil, err
	}
	l.open.Add(1)
	return &limitedConn{Conn: conn, release: sync.OnceFunc(func() { l.open.Add(-1); <-l.slots })}, nil
}

// Close is part of [net.Listener].
func (l *limitListener) Close() error { return l.close() }

type limitedConn struct {
	net.Conn
	release func()
}

// NetConn is the connection as it was accepted.
func (c *limitedConn) NetConn() net.Conn { return c.Conn }

// CloseWrite shuts down the sending half.
func (c *limitedConn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite() // TCP and Unix connections have it
}

// Close is part of [net.Conn].
func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
