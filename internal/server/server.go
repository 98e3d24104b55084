// Package server serves HTTP/1.1 and HTTP/2 on TCP addresses, with or without TLS, and
// on Unix sockets. It limits the resources of clients, and drains.
//
// All limits but the first are net/http's own. Together they bound every wait, and the
// memory of a connection.
//
//	limit                     default          protects against                  set by
//	open connections          4096 (ops: 256)  running out of files and memory   limitListener
//	headers: time             5 s              slow headers                      ReadHeaderTimeout
//	headers: size             16 KiB           large and many headers            MaxHeaderBytes
//	request: time             15 s             slow bodies                       ReadTimeout
//	answer: time              30 s (ops: 2 m)  answers that are not taken        WriteTimeout
//	idle connection           2 m              connections that are forgotten    IdleTimeout
//	HTTP/2 streams            16               many requests on one connection,  MaxConcurrentStreams
//	                                           reset or not
//	HTTP/2 frame              16 KiB           large frames                      MaxReadFrameSize
//	HTTP/2 unread bytes       64 KiB           bodies ahead of their reader      MaxReceiveBufferPerConnection,
//	                                                                             MaxReceiveBufferPerStream
//	HTTP/2 stuck connection   5 s              peers that read nothing           WriteByteTimeout
//
// The handler limits the number of requests being served, and the size of bodies: see
// internal/handlers. A request that waits moves its own deadlines, by
// [http.ResponseController].
//
// These limits are enough against a single host: whatever it sends, the process stays
// within its memory, and recovers afterwards. They do not share CPU or bandwidth among
// clients; the network in front of the service must do that.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/files"
)

const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 12 << 10 // net/http allows 4 KiB more
	maxStreams        = 16
	maxFrame          = 16 << 10 // the smallest that HTTP/2 allows (RFC 9113, section 6.5.2)
	connectionBuffer  = 64 << 10
	streamBuffer      = 64 << 10 // less, and uploads that begin before the client knows it fail (RFC 9113, section 6.9.3)
	stuckTimeout      = 5 * time.Second
)

// Config says where a [Server] listens and what it serves.
type Config struct {
	Network, Address string      // "tcp" and HOST:PORT, or "unix" and a path
	SocketMode       os.FileMode // of a Unix socket
	Handler          http.Handler
	TLS              *TLS          // of a TCP address; nil for none
	MaxConnections   int           // that are open at a time
	WriteTimeout     time.Duration // for an answer
	// ProtocolError, if it is not nil, is called when a client violates HTTP/2.
	ProtocolError func(kind string)
	Log           *slog.Logger
}

// Server is an HTTP server that is bound to its address.
type Server struct {
	http     http.Server
	listener *limitListener
	tls      bool
}

// Listen binds the address, without serving yet. The owner calls Stop.
func Listen(c Config) (*Server, error) {
	listener, err := listen(c)
	if err != nil {
		return nil, err
	}
	s := &Server{listener: limit(listener, c.MaxConnections, c.Log), tls: c.TLS != nil && c.Network == "tcp"}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(s.tls)
	protocols.SetUnencryptedHTTP2(!s.tls)
	s.http = http.Server{
		Handler:           c.Handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      c.WriteTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         &protocols,
		ConnContext:       auth.ConnContext,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerConnection: connectionBuffer,
			MaxReceiveBufferPerStream:     streamBuffer,
			WriteByteTimeout:              stuckTimeout,
			CountError:                    c.ProtocolError,
		},
		ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug), // any client can fill it
		// The handler knows which paths and methods there are, and what an error looks like.
		DisableGeneralOptionsHandler: true,
	}
	if s.tls {
		s.http.TLSConfig = c.TLS.config()
	}
	return s, nil
}

// Addr is the address that the server is bound to.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// TLS reports whether connections are encrypted.
func (s *Server) TLS() bool { return s.tls }

// Connections returns the number of open connections.
func (s *Server) Connections() int { return int(s.listener.open.Load()) }

// Serve serves until Stop is called, and then returns nil.
func (s *Server) Serve() error {
	serve := s.http.Serve
	if s.tls {
		serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
	}
	if err := serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Stop closes the listener, and waits for the requests in flight until ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("requests were aborted: %w", err), s.http.Close())
	}
	return s.listener.Close() // which Shutdown does only when it is served
}

// listen binds the address.
func listen(c Config) (net.Listener, error) {
	var listener net.Listener
	var err error
	if c.Network == "unix" {
		listener, err = files.Listen(c.Address, files.Attributes{Mode: c.SocketMode, UID: -1, GID: -1})
	} else {
		listener, err = net.Listen(c.Network, c.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return listener, nil
}
