package handlers

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/sessapi/sessapi/internal/auth"
)

// resetDelay is what a request that was reset before its turn costs its connection, in
// time: many times what it costs the service.
const resetDelay = time.Millisecond

// delayer is a connection that can be told to pause for longer the next time that it
// has to.
type delayer interface{ Delay(time.Duration) }

// maxServed is how many requests of a connection of HTTP/2 are served at a time. The
// others wait for those before: a client has many requests under way to be asked for
// no answer twice, not for the service to answer them all at once, before others.
const maxServed = 16

// connection is what the requests of a connection share.
type connection struct {
	delayer delayer       // nil when it cannot be told
	served  chan struct{} // has a token for each request of HTTP/2 that is served
}

// connectionKey is the key of a connection's context for it.
type connectionKey struct{}

// connectionOf is the connection of a request, of one that ConnContext was told of.
func connectionOf(r *http.Request) (conn *connection, ok bool) {
	conn, ok = r.Context().Value(connectionKey{}).(*connection)
	return conn, ok
}

// ConnContext is for [http.Server.ConnContext]. It adds who is at the other end of a
// Unix socket, the connection, which may have a method Delay, and what the requests of
// a connection of HTTP/1 share.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	ctx = auth.ConnContext(ctx, conn)
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	shared := &connection{served: make(chan struct{}, maxServed)}
	shared.delayer, _ = conn.(delayer)
	ctx = context.WithValue(ctx, connectionKey{}, shared)
	return context.WithValue(ctx, chi.RouteCtxKey, chi.NewRouteContext())
}

// onConnection is the router for the requests of a connection. Those of HTTP/1 come
// one after the other, and have the routing context of the connection: adding one to
// each would copy the request. Those of HTTP/2 each need their own. One that was reset
// before its turn is dropped: a client that does so by the thousand is to cost little.
func (a *API) onConnection(router chi.Router) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch shared := chi.RouteContext(r.Context()); {
		case shared == nil: // without ConnContext
		case r.ProtoMajor == 1:
			shared.Reset()
			shared.Routes = router
		case r.Context().Err() != nil:
			a.reset.Add(1)
			if conn, ok := connectionOf(r); ok && conn.delayer != nil {
				conn.delayer.Delay(resetDelay)
			}
			return
		default:
			growStack()
			r = r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, nil))
		}
		router.ServeHTTP(w, r)
	})
}

// enter waits until the request is one of the maxServed of its connection, as which it
// counts until resp.leave is called. It reports whether it is, or was given up before.
func (a *API) enter(resp *response, r *http.Request) bool {
	conn, ok := connectionOf(r)
	if !ok || r.ProtoMajor == 1 {
		return true
	}
	select {
	case conn.served <- struct{}{}:
	default:
		a.queued.Add(1)
		select {
		case conn.served <- struct{}{}:
		case <-r.Context().Done(): // at the latest when it has taken as long as it may
			a.reset.Add(1)
			return false
		}
	}
	resp.served = conn.served
	return true
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
