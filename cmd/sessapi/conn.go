package main

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// turn is how long a connection may be served without once having to wait for
	// its client, while too many others are. One that asks on when it has its answer
	// does not reach it; one of HTTP/2 with dozens of requests under way all the time
	// does.
	turn = 250 * time.Microsecond
	// turnReads or turnWrites is how often it was also read or written by then, unless
	// its requests were reset: time passes as well for a single large request that
	// waits for a processor.
	turnReads  = 64
	turnWrites = 4
	// pauseTurns is how many times as long as its turn a connection then pauses,
	// and maxPause the most. So it has a seventeenth of a processor, and the goroutines
	// of its requests, if it is of HTTP/2, what they need.
	pauseTurns = 16
	maxPause   = 40 * time.Millisecond
	// maxLooking is how many look, or wait to, at a time: enough that none of a few floods
	// goes on meanwhile. When there is so much to do that it takes long, others need not
	// wait as well.
	maxLooking = 16
	// crowdedRead is how many bytes each connection gets at a time, while too many are
	// busy: a few requests, for its turn may be over behind each read, and not before.
	crowdedRead = 1 << 10
)

// clientListener makes connections take turns: when those that always have something
// more to read, as floods of any protocol do, are more than half of the processors,
// all read little at a time, and those pause now and then and leave them to the others.
// Neither they nor many new connections keep Go from noticing what others have sent.
type clientListener struct {
	net.Listener
	turns  *turns
	secure bool // with TLS
}

// turns is what the connections of a listener share.
type turns struct {
	most   int64        // of these may be busy
	busy   atomic.Int64 // how many always have something more to read
	pauses atomic.Uint64

	// A pipe that look writes to, and waits for.
	in      syscall.RawConn
	out     *os.File
	looking atomic.Int64 // how many do
	// When somebody last looked, and when they had begun, in nanoseconds since epoch.
	epoch  time.Time
	looked atomic.Int64
	began  int64 // guarded by in
}

// newTurns lets half of the processors be busy. One connection alone always may: it may
// be a proxy that all others are behind.
func newTurns() (*turns, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	t := &turns{most: int64(max(1, runtime.GOMAXPROCS(0)/2)), epoch: time.Now(), out: out}
	if err := in.SetReadDeadline(time.Time{}); err != nil { // look cannot wait for it
		return nil, err
	}
	t.in, err = in.SyscallConn()
	return t, err
}

// look lets go of the processor until Go's scheduler has looked at the network, unless
// somebody did so within a turn. By itself it looks only when no goroutine is ready, and
// every 10 ms (findRunnable and sysmon in runtime/proc.go): with one processor, all would
// wait that long for a client that always has something more.
func (t *turns) look(now time.Time) {
	since, looked := int64(now.Sub(t.epoch)), t.looked.Load()
	if since-looked < int64(turn) || !t.looked.CompareAndSwap(looked, since) {
		return
	}
	defer t.looking.Add(-1)
	if t.looking.Add(1) > maxLooking {
		return
	}
	var b [8]byte
	written := false
	_ = t.in.Read(func(fd uintptr) (done bool) {
		if written {
			_, _ = syscall.Read(int(fd), b[:])
			return true
		}
		if t.began > since { // who came first has looked meanwhile
			return true
		}
		t.began = int64(time.Since(t.epoch))
		// Within Read, for that forgets what there was to read before.
		_, err := t.out.Write(b[:1])
		written = true
		return err != nil
	})
}

// crowded reports whether the busy connections leave too little to the others.
func (t *turns) crowded() bool { return t.busy.Load() > t.most }

// Accept is part of [net.Listener].
func (l clientListener) Accept() (net.Conn, error) {
	if !l.turns.crowded() { // else it would be late itself
		l.turns.look(time.Now())
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil { // it is closed
		return conn, nil //nolint:nilerr // as who reads it will find
	}
	now := time.Now()
	c := &clientConn{
		Conn: conn, raw: raw, turns: l.turns, secure: l.secure,
		read:  deadline{set: conn.SetReadDeadline, epoch: now},
		write: deadline{set: conn.SetWriteDeadline, epoch: now},
	}
	c.try = c.tryRead
	return c, nil
}

// clientConn is a connection of a TCP or Unix socket. Like any other it may be read
// by one goroutine at a time.
type clientConn struct {
	net.Conn
	raw   syscall.RawConn
	try   func(fd uintptr) (done bool) // tryRead; made once, for that allocates
	turns *turns

	read, write deadline
	arrivals    arrivals
	secure      bool // what is read is not HTTP, but TLS

	busy, closed atomic.Bool // busy is whether the last read did not have to wait
	// Its turn is all the time that it is busy, until it has waited for as long.
	busySince   time.Time     // while it is busy
	spent       time.Duration // of its turn before that
	restedSince time.Time     // while it is not
	reads       int           // in its turn, without having to wait
	written     uint64        // writes when its turn began
	writes      atomic.Uint64
	answered    atomic.Uint64 // writes when it was last read
	// delay is added to its next pause, in nanoseconds.
	delay atomic.Int64

	// What tryRead reads into, and what came of it.
	into   []byte
	n      int
	err    error
	waited bool
}

// NetConn returns the connection, whose peer is asked for by its type.
func (c *clientConn) NetConn() net.Conn { return c.Conn }

// SetDeadline is part of [net.Conn].
func (c *clientConn) SetDeadline(t time.Time) error {
	return errors.Join(c.read.move(t), c.write.move(t))
}

// SetReadDeadline is part of [net.Conn].
func (c *clientConn) SetReadDeadline(t time.Time) error {
	c.arrivals.moved()
	return c.read.move(t)
}

// SetWriteDeadline is part of [net.Conn].
func (c *clientConn) SetWriteDeadline(t time.Time) error { return c.write.move(t) }

// Close is part of [net.Conn].
func (c *clientConn) Close() error {
	c.closed.Store(true)
	c.rest()
	c.read.stop()
	c.write.stop()
	return c.Conn.Close()
}

// CloseWrite is what net/http asks for before it closes a connection that it has not
// read to the end.
func (c *clientConn) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// Write is part of [net.Conn].
func (c *clientConn) Write(p []byte) (int, error) {
	// One answer behind a read is what any client asks for.
	if n := c.writes.Add(1); n-c.answered.Load() > 1 && c.busy.Load() {
		c.turns.look(time.Now())
	}
	return c.Conn.Write(p)
}

// Read is part of [net.Conn]. It pauses when the connection's turn is over.
func (c *clientConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.answered.Store(c.writes.Load())
	defer c.read.end()
	if c.read.begin() {
		return 0, os.ErrDeadlineExceeded
	}
	c.into, c.waited = p, false
	err := c.raw.Read(c.try)
	c.into = nil
	if !c.waited && err == nil { // with an error a deadline had passed: whether there is something is not known
		c.goOn()
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
	if !c.secure {
		c.arrivals.received()
	}
	return c.n, nil
}

// goOn comes behind a read that did not have to wait, and pauses when the turn is over:
// a client that has sent nothing more has nothing to pause for.
func (c *clientConn) goOn() {
	now := time.Now()
	if !c.busy.Load() {
		if now.Sub(c.restedSince) >= c.spent {
			c.begin(now)
		}
		c.busySince = now
		c.busy.Store(true)
		c.turns.busy.Add(1)
		if c.closed.Load() {
			c.rest()
		}
	}
	took := c.spent + now.Sub(c.busySince)
	delay := time.Duration(c.delay.Load())
	c.reads++
	if took < turn || c.reads < turnReads && c.writes.Load()-c.written < turnWrites && delay == 0 {
		return
	}
	c.delay.Add(-int64(delay))
	if c.turns.crowded() {
		c.turns.pauses.Add(1)
		time.Sleep(min(pauseTurns*took+delay, maxPause)) // also while it is closed: that is soon enough
	} else {
		c.turns.look(now)
	}
	c.begin(time.Now())
}

// begin begins a turn.
func (c *clientConn) begin(now time.Time) {
	c.busySince, c.spent, c.reads, c.written = now, 0, 0, c.writes.Load()
}

// rest ends that the connection is busy.
func (c *clientConn) rest() {
	if c.busy.Load() && c.busy.Swap(false) {
		c.turns.busy.Add(-1)
	}
}

// Delay has the connection pause for longer the next time that it has to, because of
// what it costs beside being read.
func (c *clientConn) Delay(d time.Duration) { c.delay.Add(int64(d)) }

// Reached comes with each request of the connection that reaches the service. It reports
// whether the connection had ended, and the request been counted with it.
func (c *clientConn) Reached() (late bool) { return c.arrivals.reached() }

// tryRead is for [syscall.RawConn]: it reads what is there, and notes whether the
// connection has to wait for something.
func (c *clientConn) tryRead(fd uintptr) (done bool) {
	into := c.into
	if len(into) > crowdedRead && c.turns.crowded() {
		into = into[:crowdedRead]
	}
	for {
		c.n, c.err = syscall.Read(int(fd), into)
		switch {
		case errors.Is(c.err, syscall.EINTR):
		case errors.Is(c.err, syscall.EAGAIN):
			c.waited = true
			if c.busy.Load() {
				c.restedSince = time.Now()
				c.spent += c.restedSince.Sub(c.busySince)
				c.rest()
			}
			return false
		default:
			return true
		}
	}
}
