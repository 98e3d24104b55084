package main

import (
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// arrivals follows the requests of a connection from their first byte until they reach
// the service, for net/http ends by itself, and tells nobody of, those whose headers are
// late, too large or malformed. It is safe for concurrent use.
type arrivals struct {
	phase  atomic.Int32
	coming atomic.Int64  // requests that have begun, and not reached the service
	all    *atomic.Int64 // of HTTP/2, of all connections of a listener
}

const (
	// maxComing is how many requests of HTTP/2 may have begun and not reached the service,
	// on all connections together, before one that has more than fewComing has to wait.
	maxComing = 2 << 10
	fewComing = 4
	// comingTime is how long it does at most. What does not come by then does not come at
	// all: net/http has refused it, and its client does not take the answer.
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

// moved comes when net/http moves the deadline for reading. It reports whether the
// connection may go on.
func (a *arrivals) moved() (ok bool) {
	switch a.phase.Load() {
	case phaseIdle:
		a.phase.Store(phaseWaiting)
	case phaseWaiting:
		a.phase.Store(phaseServing)
		a.coming.Add(1)
	case phaseHTTP2:
		a.coming.Add(1)
		if a.all.Add(1) > maxComing {
			return a.fewCome()
		}
	}
	return true
}

// fewCome waits until few requests of the connection have not reached the service. It
// reports whether that was so in time.
func (a *arrivals) fewCome() bool {
	for began := time.Now(); a.coming.Load() > fewComing; time.Sleep(time.Millisecond) {
		if time.Since(began) > comingTime {
			return false
		}
	}
	return true
}

// reached comes with each request that reaches the service. It reports whether ended was
// told of it before.
func (a *arrivals) reached() (late bool) {
	if a.coming.Add(-1) < 0 {
		return true
	}
	if a.phase.Load() == phaseHTTP2 {
		a.all.Add(-1)
	}
	return false
}

// ended comes when the connection is closed, and returns how many requests did not reach
// the service. Those of HTTP/2 may still do.
func (a *arrivals) ended() (unserved int64) {
	unserved = a.coming.Swap(0)
	if a.phase.Load() == phaseHTTP2 {
		a.all.Add(-unserved)
	}
	return unserved
}

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
		case a.phase.Load() == phaseHTTP2:
		case a.coming.Swap(0) > 0: // it was no request, which would have been served, but HTTP/2's preface
			a.phase.Store(phaseHTTP2)
		default:
			a.phase.Store(phaseIdle)
		}
	case http.StateHijacked:
		a.phase.Store(phaseHeld)
	}
}
