package auth

import (
	"context"
	"net"
	"net/http"
)

// peerKey is the context key for the uid of a connection's peer.
type peerKey struct{}

// ConnContext is for [http.Server.ConnContext]. It stores the user that connected to a
// Unix socket in the context. For other connections, and on systems that do not report
// the user, it returns ctx unchanged. A connection that wraps another has a method
// NetConn, as [crypto/tls.Conn] does.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	for {
		wrapped, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = wrapped.NetConn()
	}
	if unix, ok := conn.(*net.UnixConn); ok {
		if uid, ok := uidOf(unix); ok {
			return context.WithValue(ctx, peerKey{}, uid)
		}
	}
	return ctx
}

// peerUID returns the user of the connected process.
func peerUID(r *http.Request) (uid uint32, ok bool) {
	uid, ok = r.Context().Value(peerKey{}).(uint32)
	return uid, ok
}
