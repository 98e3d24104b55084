package handlers

import (
	"context"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/sessapi/sessapi/internal/auth"
)

// resetDelay is what a request that was reset before its turn costs its connection, in
// time: many times what it costs the service.
const resetDelay = time.Millisecond

// follower is a connection that follows its requests.
type follower interface {
	// Reached comes with each that reaches the service. It reports whether the
	// connection had ended, and the request been counted with it.
	Reached() (late bool)
	// Delay has the connection pause for longer the next time that it has to.
	Delay(time.Duration)
}

// maxServed is how many requests of a connection of HTTP/2 are served at a time. The
// others wait for those before, so that no connection fills the processors, and the
// memory, with a hundred at once.
const maxServed = 16

// maxLate is how many more are served every patience when those take long.
const maxLate = 4

const (
	// maxAlive is how many requests of HTTP/2 may be alive, at some 20 KiB each, before
	// no connection may have more than its share, or minShare.
	maxAlive = 2 << 10
	minShare = 2
	// manyGoroutines is when there may be many answers that clients do not take, and
	// that net/http keeps for them without telling. There are as many also when as many
	// clients are connected, or wait for ticket keys.
	manyGoroutines = 8 << 10
)

const (
	// cutOffTime is how long the connection of a request that was cut off stays open.
	cutOffTime = time.Second
	// maxCutOff is how many do, a quarter of the connections of a listener.
	maxCutOff = 4 << 10
)

// connection is what the requests of a connection share.
type connection struct {
	follower follower      // nil when it does not follow
	routes   *chi.Context  // of its request, when it is of HTTP/1
	served   chan struct{} // has a token for each request of HTTP/2 that is served
	late     chan struct{} // has one for each that went on beside those, for a time
	alive    atomic.Int64  // requests of HTTP/2
}

// connectionKey is the key of a connection's context for it.
type connectionKey struct{}

// connectionOf is the connection of a request, or nil without ConnContext.
func connectionOf(r *http.Request) *connection {
	conn, _ := r.Context().Value(connectionKey{}).(*connection)
	return conn
}

// ConnContext is for [http.Server.ConnContext]. It adds who is at the other end of a
// Unix socket, the connection, which may have methods Reached and Delay, and what the
// requests of a connection of HTTP/1 share.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	ctx = auth.ConnContext(ctx, conn)
	shared := &connection{
		follower: followerOf(conn), routes: chi.NewRouteContext(),
		served: make(chan struct{}, maxServed), late: make(chan struct{}, maxLate),
	}
	ctx = context.WithValue(ctx, connectionKey{}, shared)
	return context.WithValue(ctx, chi.RouteCtxKey, shared.routes)
}

// followerOf is the connection, or what is below it.
func followerOf(conn net.Conn) follower {
	for {
		switch c := conn.(type) {
		case follower:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

// onConnection is the router for the requests of a connection. Those of HTTP/1 come
// one after the other, and have the routing context of the connection: adding one to
// each would copy the request. Those of HTTP/2 each need their own. One that was reset
// before its turn, or whose connection has ended, is dropped, and one that is more than
// its connection's share is reset: a client that does so by the thousand is to cost little.
// With much to do a request is alive until its client has taken the answer.
func (a *API) onConnection(router chi.Router) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := connectionOf(r)
		if conn != nil && conn.follower != nil && conn.follower.Reached() {
			return
		}
		switch {
		case conn == nil: // without ConnContext
			router.ServeHTTP(w, r)
		case r.ProtoMajor == 1:
			conn.routes.Reset()
			conn.routes.Routes = router
			router.ServeHTTP(w, r)
		case r.Context().Err() != nil:
			a.drop(conn)
		default:
			defer a.depart(conn)
			if !a.arrive(conn) {
				a.refused.Add(1)
				panic(http.ErrAbortHandler)
			}
			growStack()
			router.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, nil)))
			if runtime.NumGoroutine() > manyGoroutines { // not always: it takes a fourth of a GET
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
}

// arrive counts a request of HTTP/2 that is alive until depart is called. It reports
// whether the connection may have it.
func (a *API) arrive(conn *connection) (ok bool) {
	own, all := conn.alive.Add(1), a.alive.Add(1)
	if own == 1 {
		a.aliveOn.Add(1)
	}
	return all <= maxAlive || own <= max(minShare, maxAlive/max(1, a.aliveOn.Load()))
}

// depart comes when the request has ended, or is held.
func (a *API) depart(conn *connection) {
	a.alive.Add(-1)
	if conn.alive.Add(-1) == 0 {
		a.aliveOn.Add(-1)
	}
}

// keepCutOff keeps the connection of a request that was cut off open for a while,
// without its place: a client that waits until it is closed would come back at once.
func (a *API) keepCutOff() {
	select {
	case a.cutOff <- struct{}{}:
		time.Sleep(cutOffTime)
		<-a.cutOff
	default:
	}
}

// drop counts a request of the connection that ended before its turn.
func (a *API) drop(conn *connection) {
	a.reset.Add(1)
	if conn != nil && conn.follower != nil {
		conn.follower.Delay(resetDelay)
	}
}

// enter waits until the request is one of the maxServed of its connection, as which it
// counts until resp.leave is called. When those take long, for their client is slow or
// what they need is far, it goes on beside them. It reports whether the request is still
// to be served, and whether it waited for that.
func (a *API) enter(resp *response, r *http.Request) (waited, ok bool) {
	if r.ProtoMajor == 1 {
		return false, true
	}
	conn := connectionOf(r)
	if conn == nil {
		return false, true
	}
	select {
	case conn.served <- struct{}{}:
		resp.served = conn.served
		return false, true
	default:
	}
	a.queued.Add(1)
	long := time.NewTimer(patience)
	defer long.Stop()
	var late chan struct{} // blocks until then
	for {
		select {
		case conn.served <- struct{}{}:
			resp.served = conn.served
			return true, true
		case late <- struct{}{}:
			time.AfterFunc(patience, func() { <-late })
			return true, true
		case <-long.C:
			late = conn.late
		case <-r.Context().Done():
			a.drop(conn)
			return true, false
		}
	}
}

// leave makes way for another request of the connection. It may be called again.
func (r *response) leave() {
	if r.served != nil {
		<-r.served
		r.served = nil
	}
}

// growStack has the stack of the goroutine grow to what a request needs. Each request
// of HTTP/2 has a new goroutine, whose stack would grow twice on the way, and each
// time be copied with all that is on it by then: that is a tenth of a GET.
//
//go:noinline
func growStack() {
	var frame [5 << 10]byte
	runtime.KeepAlive(&frame)
}
