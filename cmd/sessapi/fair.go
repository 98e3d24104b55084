package main

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// turn is how long a connection may be served without once having to wait for
	// its client. One that answers come to before it asks on never reaches it.
	turn = 500 * time.Microsecond
	// pauseTurns is how many times as long as its turn a connection then pauses,
	// and maxPause the most: what it costs is a ninth of a processor, unless its
	// requests are served elsewhere, as those of HTTP/2 are.
	pauseTurns = 8
	maxPause   = 40 * time.Millisecond
)

// fairListener makes connections take turns: those that always have something
// more to read, as floods of any protocol do, leave the processor to the others
// now and then. It counts the pauses.
type fairListener struct {
	net.Listener
	pauses *atomic.Uint64
}

// Accept is part of [net.Listener].
func (l fairListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil { // it is closed
		return conn, nil //nolint:nilerr // as who reads it will find
	}
	c := &fairConn{Conn: conn, raw: raw, pauses: l.pauses}
	c.try = c.tryRead
	return c, nil
}

// fairConn is a connection of a TCP or Unix socket. Like any other it may be read
// by one goroutine at a time.
type fairConn struct {
	net.Conn
	raw    syscall.RawConn
	try    func(fd uintptr) (done bool) // tryRead; made once, for that allocates
	pauses *atomic.Uint64
	// busySince is when it began to have something to read each time; zero when
	// the last read had to wait.
	busySince time.Time

	// What tryRead reads into, and what came of it.
	into   []byte
	n      int
	err    error
	waited bool
}

// NetConn returns the connection, whose peer is asked for by its type.
func (c *fairConn) NetConn() net.Conn { return c.Conn }

// Read is part of [net.Conn]. It pauses when the connection's turn is over.
func (c *fairConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.pause()
	c.into, c.waited = p, false
	err := c.raw.Read(c.try)
	c.into = nil
	switch {
	case c.waited:
		c.busySince = time.Time{}
	case c.busySince.IsZero():
		c.busySince = time.Now()
	}
	if err == nil && c.err != nil {
		err = &net.OpError{Net: c.RemoteAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", c.err)}
	}
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			op.Op = "read" // which net/http takes for a client that went away
		}
		return 0, err
	}
	if c.n == 0 {
		return 0, io.EOF
	}
	return c.n, nil
}

func (c *fairConn) pause() {
	if c.busySince.IsZero() {
		return
	}
	if busy := time.Since(c.busySince); busy >= turn {
		c.pauses.Add(1)
		time.Sleep(min(pauseTurns*busy, maxPause))
		c.busySince = time.Now()
	}
}

// tryRead is for [syscall.RawConn]: it reads what is there, and notes whether the
// connection has to wait for something.
func (c *fairConn) tryRead(fd uintptr) (done bool) {
	for {
		c.n, c.err = syscall.Read(int(fd), c.into)
		switch {
		case errors.Is(c.err, syscall.EINTR):
		case errors.Is(c.err, syscall.EAGAIN):
			c.waited = true
			return false
		default:
			return true
		}
	}
}
