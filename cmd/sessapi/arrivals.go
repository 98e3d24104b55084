package main

import (
	"net"
	"net/http"
	"sync/atomic"
)

// arrivals follows the requests of a connection from their first byte until they reach
// the service, for net/http ends by itself, and tells nobody of, those whose headers are
// late, too large or malformed. It is safe for concurrent use.
type arrivals struct {
	phase  atomic.Int32
	coming atomic.Int64 // requests that have begun, and not reached the service
}

// The phases of a connection differ in how its next request shows.
const (
	phaseNew     = iota // by its first byte
	phaseServing        // not before the connection is idle
	phaseIdle           // not before net/http has set until when it may be idle
	phaseWaiting        // by net/http then setting until when its headers may come
	phaseHTTP2          // by net/http taking back until when its headers may come, once they have
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

// received comes with bytes of HTTP.
func (a *arrivals) received() {
	if a.phase.Load() == phaseNew && a.phase.CompareAndSwap(phaseNew, phaseServing) {
		a.coming.Add(1)
	}
}

// moved comes when the deadline for reading is moved.
func (a *arrivals) moved() {
	switch a.phase.Load() {
	case phaseIdle:
		a.phase.Store(phaseWaiting)
	case phaseWaiting:
		a.phase.Store(phaseServing)
		a.coming.Add(1)
	case phaseHTTP2:
		a.coming.Add(1)
	}
}

// Reached is called with each request that reaches the service.
func (a *arrivals) Reached() { a.coming.Add(-1) }

// changed comes with the states of net/http, before the connection is idle and after
// it was active.
func (a *arrivals) changed(state http.ConnState) {
	switch state {
	case http.StateNew:
		if a.phase.CompareAndSwap(phaseHeld, phaseServing) {
			a.coming.Add(1)
		}
	case http.StateActive:
		a.received()
	case http.StateIdle:
		switch {
		case a.phase.Load() == phaseHTTP2:
		case a.coming.Swap(0) > 0: // what came was no request, but the preface of HTTP/2
			a.phase.Store(phaseHTTP2)
		default:
			a.phase.Store(phaseIdle)
		}
	case http.StateHijacked:
		a.phase.Store(phaseHeld)
	}
}
