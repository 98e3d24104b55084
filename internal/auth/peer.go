package auth

import (
	"context"
	"net"
	"net/http"
)

// peerKey is the key of a connection's context for the uid of its peer.
type peerKey struct{}

// ConnContext is for [http.Server.ConnContext]: it has the context remember which
// user connected to a Unix socket. Connections of other kinds, and of systems
// that do not tell, leave it as it is. A connection that wraps another says so
// by a method NetConn, as [crypto/tls.Conn] does.
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

// peerUID is the user of the process that connected.
func peerUID(r *http.Request) (uid uint32, ok bool) {
	uid, ok = r.Context().Value(peerKey{}).(uint32)
	return uid, ok
}
