package handlers

import (
	"context"
	"net"
	"net/http"
	"runtime"

	"github.com/go-chi/chi/v5"

	"github.com/sessapi/sessapi/internal/auth"
)

// ConnContext is for [http.Server.ConnContext]. It adds who is at the other end of a
// Unix socket, and what the requests of a connection of HTTP/1 share.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(auth.ConnContext(ctx, conn), chi.RouteCtxKey, chi.NewRouteContext())
}

// onConnection is the router, which takes the routing context of the connection
// for a request of HTTP/1: these come one after the other. Adding one to each
// request would copy the request; of HTTP/2 that has to be.
func onConnection(router chi.Router) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch shared := chi.RouteContext(r.Context()); {
		case shared == nil: // without ConnContext
		case r.ProtoMajor == 1:
			shared.Reset()
			shared.Routes = router
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
