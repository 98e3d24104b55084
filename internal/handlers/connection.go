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

// delayerKey is the key of a connection's context for its delayer.
type delayerKey struct{}

// ConnContext is for [http.Server.ConnContext]. It adds who is at the other end of a
// Unix socket, the connection, when it has a method Delay, and what the requests of a
// connection of HTTP/1 share.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	ctx = auth.ConnContext(ctx, conn)
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if d, ok := conn.(delayer); ok {
		ctx = context.WithValue(ctx, delayerKey{}, d)
	}
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
			if d, ok := r.Context().Value(delayerKey{}).(delayer); ok {
				d.Delay(resetDelay)
			}
			return
		default:
			growStack()
			r = r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, nil))
		}
		router.ServeHTTP(w, r)
	})
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
