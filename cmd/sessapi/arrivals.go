package main

import (
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"
)

// arrivals follows the requests of a connection from their first byte until they reach
// the service, for net/http ends by itself, and tells nobody of, those whose headers are
// late, too large or malformed. It is safe for concurrent use.
type arrivals struct {
	phase   atomic.Int32
	coming  atomic.Int64 // requests that have begun, and not reached the service
	settled atomic.Int64 // of those, ones that need not be waited for
}

const (
	// manyGoroutines tell that there is much to do. net/http starts all that connections
	// of HTTP/2 send before Go runs the first, and keeps the answers that it makes by itself
	// (400, 431) until clients take them, for 30 s.
	manyGoroutines = 8 << 10
	// fewComing requests of a connection may then not have reached the service; one with
	// more waits for them, and goes on with one in each comingTime. As many are forgiven as
	// are served, for others behind a proxy are not to suffer for what one of them sends.
	fewComing  = 4
	comingTime = time.Second
)

// The phases of a connection differ in how its next request shows.
const (
	phaseNew     = iota // by its first byte
	phaseServing        // not before the connection is idle
	phaseIdle           // not before net/http has set until when it may be idle
	phaseWaiting        // by net/http setting, at its fourth byte, until when its headers may come
	phaseHTTP2          // by net/http, with a ReadTimeout, taking that time back once they have
	phaseHeld           // by the connection being given back to net/http
)

// arrivalsOf are those of a connection that a clientListener accepted, whatever is
// around it.
func arrivalsOf(conn net.Conn) *arrivals {
	for {
		switch c := conn.(type) {
		case *clientConn:
			return &c.arrivals
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default: // it was closed before it was accepted
			return new(arrivals)
		}
	}
}

// received comes with what the client sends, at the latest when net/http has read
// headers, or failed to.
func (a *arrivals) received() {
	if a.phase.Load() == phaseNew && a.phase.CompareAndSwap(phaseNew, phaseServing) {
		a.coming.Add(1)
	}
}

// moved comes when net/http moves the deadline for reading. It waits when too many requests
// of the connection are coming.
func (a *arrivals) moved() {
	switch a.phase.Load() {
	case phaseIdle:
		a.phase.Store(phaseWaiting)
	case phaseWaiting:
		a.phase.Store(phaseServing)
		a.coming.Add(1)
	case phaseHTTP2:
		a.coming.Add(1)
		if a.tooMany() {
			runtime.Gosched() // most only wait for a processor
			for began := time.Now(); a.tooMany(); time.Sleep(time.Millisecond) {
				if time.Since(began) >= comingTime {
					a.settled.Add(1)
					break
				}
			}
		}
	}
}

func (a *arrivals) tooMany() bool {
	return a.coming.Load()-a.settled.Load() > fewComing && runtime.NumGoroutine() > manyGoroutines
}

// reached comes with each request that reaches the service. It reports whether ended was
// told of it before.
func (a *arrivals) reached() (late bool) {
	others := a.coming.Add(-1)
	if a.settled.Load() < others {
		a.settled.Add(1)
	}
	return others < 0
}

// ended comes when the connection is closed, and returns how many requests did not reach
// the service. Those of HTTP/2 may still do.
func (a *arrivals) ended() (unserved int64) { return a.coming.Swap(0) }

func (a *arrivals) isHeld() bool { return a.phase.Load() == phaseHeld }

// changed comes with the states of net/http.
func (a *arrivals) changed(state http.ConnState) {
	switch state {
	case http.StateNew:
		if a.phase.CompareAndSwap(phaseHeld, phaseServing) {
			a.coming.Add(1)
		}
	case http.StateActive: // comes behind what net/http has read of a request
		a.received()
	case http.StateIdle:
		switch {
		case a.phase.Load() == phaseHTTP2: // what has not come by now was refused
			a.settled.Store(a.coming.Load())
		case a.coming.Swap(0) > 0: // it was no request, which would have been served, but HTTP/2's preface
			a.phase.Store(phaseHTTP2)
		default:
			a.phase.Store(phaseIdle)
		}
	case http.StateHijacked:
		a.phase.Store(phaseHeld)
	}
}
