package handlers

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// heldIdleTimeout is how long a connection is kept for the next request after
// the answer to one that was held.
const heldIdleTimeout = 2 * time.Minute

// lobby holds the connections of clients that wait for a change of the ticket
// keys. net/http spends some 23 KiB on a request that is being served; a
// connection that was taken from it costs a goroutine that reads, and so notices
// when the client hangs up. After the answer the connection goes back to the
// server, through a listener.
type lobby struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{} // each of a goroutine in hold
	waking bool                  // a goroutine runs that wakes them
	empty  chan struct{}         // closed when the last one leaves; nil when nobody waits for that

	back    chan net.Conn
	served  atomic.Bool // somebody takes from back
	closed  chan struct{}
	closing sync.Once
}

func newLobby(places int) *lobby {
	return &lobby{conns: make(map[net.Conn]struct{}), back: make(chan net.Conn, places), closed: make(chan struct{})}
}

// Returning is the listener of the connections that were held and answered. The
// server that serves the API has to serve it too; else requests are held in
// place, at the cost of that.
func (a *API) Returning() net.Listener {
	a.lobby.served.Store(true)
	return a.lobby
}

// Accept is part of [net.Listener].
func (l *lobby) Accept() (net.Conn, error) {
	select {
	case conn := <-l.back:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close is part of [net.Listener].
func (l *lobby) Close() error {
	l.closing.Do(func() { close(l.closed) })
	for {
		select {
		case conn := <-l.back:
			_ = conn.Close()
		default:
			return nil
		}
	}
}

// Addr is part of [net.Listener].
func (l *lobby) Addr() net.Addr { return &net.UnixAddr{Name: "held connections", Net: "unix"} }

// giveBack hands the connection to the server for its next request.
func (l *lobby) giveBack(conn net.Conn) {
	select {
	case <-l.closed:
	default:
		select {
		case l.back <- conn:
			return
		default: // more than were ever held
		}
	}
	_ = conn.Close()
}

// detach takes the connection of the request from the server, or returns nil
// when that cannot be: one of HTTP/2 serves other requests too, and one of TLS
// would come back as one of which net/http does not know that.
func (a *API) detach(w http.ResponseWriter, r *http.Request) net.Conn {
	if r.ProtoMajor != 1 || r.ProtoMinor == 0 || r.TLS != nil || r.ContentLength != 0 || !a.lobby.served.Load() {
		return nil
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	return unread(conn, bytes.Clone(early))
}

// unread is the connection with bytes put back that were read from it.
func unread(conn net.Conn, early []byte) net.Conn {
	if c, ok := conn.(*rereadConn); ok {
		conn, early = c.Conn, append(early, c.early...)
	}
	if len(early) == 0 {
		return conn
	}
	return &rereadConn{conn, early}
}

// rereadConn is a connection of which bytes were read already.
type rereadConn struct {
	net.Conn
	early []byte
}

// NetConn returns the connection, whose peer is asked for by its type.
func (c *rereadConn) NetConn() net.Conn { return c.Conn }

// CloseWrite is what net/http asks for before it closes a connection that it has not
// read to the end.
func (c *rereadConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Read reads those bytes again and then from the connection.
func (c *rereadConn) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	c.early = c.early[n:]
	return n, nil
}

// hold serves a request on a connection that was detached and has entered the
// lobby, and gives the connection back with the next request.
func (a *API) hold(conn net.Conn, r *http.Request, route string, header http.Header, wait waiting, answer http.HandlerFunc) {
	next := a.answerHeld(conn, r, route, header, wait, answer)
	// Before the server has it, or a change would end the reading of the server;
	// and not after, when it may have entered again.
	a.lobby.leave(conn)
	<-a.waiting // not when it is answered, or any number could wait for their next request
	if next == nil {
		_ = conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	a.lobby.giveBack(unread(conn, next))
}

// answerHeld answers the request once it has waited, and returns the first byte
// of the next one, nil when there is none.
func (a *API) answerHeld(conn net.Conn, r *http.Request, route string, header http.Header, wait waiting, answer http.HandlerFunc) (next []byte) {
	start := a.cfg.Now()
	w := &heldResponse{header: header}
	next, err := a.lobby.read(conn, wait.end, func() bool {
		return a.isDraining() || !isCurrent(wait.has, a.cfg.Ring.Generation())
	})
	a.held.Add(-1)
	if err != nil { // its answer would have been that nothing has changed
		a.record(w, r, route, http.StatusNotModified, 0, a.cfg.Now().Sub(start))
		return nil
	}
	if !a.complete(w, start, r, answer) {
		return nil
	}
	_ = conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	size, err := w.send(conn, r, a.isDraining())
	a.record(w, r, route, w.status, size, a.cfg.Now().Sub(start))
	if err != nil || r.Close {
		return nil
	}
	if next == nil {
		next, _ = a.lobby.read(conn, time.Now().Add(heldIdleTimeout), a.isDraining)
	}
	return next
}

// complete makes the answer, and reports whether it is whole: one that is broken off
// is not sent, and must not end the process, for net/http recovers no panic here.
func (a *API) complete(w *heldResponse, began time.Time, r *http.Request, answer http.HandlerFunc) (whole bool) {
	resp := newResponse(w, began)
	defer resp.release()
	defer func() {
		if whole {
			return
		}
		clear(w.body.Bytes())
		if value := recover(); value != http.ErrAbortHandler { //nolint:errorlint // as recoverPanics
			panic(value)
		}
	}()
	a.recoverPanics(answer).ServeHTTP(resp, r)
	return true
}

// read waits until the client sends something, and returns the first byte, or
// until the end or done, and returns nil. The error is that the client went away.
func (l *lobby) read(conn net.Conn, end time.Time, done func() bool) ([]byte, error) {
	for {
		// What wakes the reader comes before done is asked, or ends the reading.
		_ = conn.SetReadDeadline(end)
		if done() || !time.Now().Before(end) {
			return nil, nil
		}
		var first [1]byte
		n, err := conn.Read(first[:])
		if n > 0 {
			return first[:], nil
		}
		if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
			return nil, err
		}
	}
}

// send writes the answer, and returns how much that was.
func (w *heldResponse) send(conn net.Conn, r *http.Request, last bool) (size int, err error) {
	body := w.body.Bytes()
	defer clear(body)
	w.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	response := http.Response{
		StatusCode: w.status, ProtoMajor: 1, ProtoMinor: r.ProtoMinor, Request: r,
		Header: w.header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		Close: r.Close || last,
	}
	var wire bytes.Buffer
	wire.Grow(len(body) + 4<<10) // growing it later would leave copies of secrets behind
	defer func() { clear(wire.Bytes()) }()
	if err := response.Write(&wire); err != nil {
		return 0, err
	}
	return conn.Write(wire.Bytes())
}

// heldResponse collects an answer.
type heldResponse struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header is part of [http.ResponseWriter].
func (w *heldResponse) Header() http.Header { return w.header }

// WriteHeader is part of [http.ResponseWriter].
func (w *heldResponse) WriteHeader(status int) { w.status = status }

// Write is part of [http.ResponseWriter].
func (w *heldResponse) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.body.Write(p)
}

// enter has the connection woken with each change.
func (l *lobby) enter(conn net.Conn, a *API) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[conn] = struct{}{}
	if !l.waking {
		l.waking = true
		go l.wake(a)
	}
}

func (l *lobby) leave(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
	if len(l.conns) == 0 && l.empty != nil {
		close(l.empty)
		l.empty = nil
	}
}

// left returns once no connection is held, or ctx ends.
func (l *lobby) left(ctx context.Context) {
	l.mu.Lock()
	if len(l.conns) == 0 {
		l.mu.Unlock()
		return
	}
	if l.empty == nil {
		l.empty = make(chan struct{})
	}
	empty := l.empty
	l.mu.Unlock()
	select {
	case <-empty:
	case <-ctx.Done():
	}
}

// wake ends the reading of all that wait with each change, until one finds none.
func (l *lobby) wake(a *API) {
	generation := a.cfg.Ring.Generation()
	for {
		changed := a.cfg.Ring.Changed()
		if now := a.cfg.Ring.Generation(); now == generation {
			select {
			case <-changed:
			case <-a.draining:
			}
		} else {
			generation = now
		}
		l.mu.Lock()
		for conn := range l.conns {
			_ = conn.SetReadDeadline(time.Unix(1, 0))
		}
		if len(l.conns) == 0 || a.isDraining() {
			l.waking = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}
