package server

import (
	"errors"
	"log/slog"
	"net"
	"sync"
)

// limitListener accepts up to cap(open) connections. The others wait with the
// system, in the backlog of the socket. It is netutil.LimitListener with connections that
// say what they wrap: the peer of a Unix socket is asked for by its type, and
// net/http shuts down only one half of a connection that it refused something on.
type limitListener struct {
	net.Listener
	open   chan struct{} // has a token for each open connection
	closed chan struct{}
	close  func() error
	log    *slog.Logger
}

func limit(l net.Listener, n int, log *slog.Logger) *limitListener {
	closed := make(chan struct{})
	return &limitListener{
		Listener: l, open: make(chan struct{}, n), closed: closed, log: log,
		close: sync.OnceValue(func() error { close(closed); return l.Close() }),
	}
}

// Accept is part of [net.Listener].
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.open <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.open
		if !errors.Is(err, net.ErrClosed) { // net/http tries again, and logs it where any client can fill the log
			l.log.Warn("cannot accept connections", slog.String("error", err.Error()))
		}
		return nil, err
	}
	return &limitedConn{Conn: conn, release: sync.OnceFunc(func() { <-l.open })}, nil
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
