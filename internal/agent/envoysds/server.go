// Package envoysds serves ticket keys to Envoy over gRPC on a Unix socket: the secret
// discovery service (SDS) of Envoy's xDS protocol, state of the world and delta.
//
// There is one secret, [SecretName]. Its version is the generation of the keys. An Envoy
// that reconnects with the current version is not sent the secret again.
//
// A stream has at most one response that is not answered yet. An Envoy that answers late
// gets the newest secret then, and takes no more memory until then.
//
// The limits of clients, each of which has the permission to connect to the socket, are:
//
//	limit                    default  protects against
//	connections              32       running out of files; more wait with the system
//	streams of a connection  16       many streams; more are refused
//	request                  1 MiB    large requests: the node in them lists Envoy's extensions
//	headers                  16 KiB   large headers
//	first bytes              5 s      connections that say nothing
//	connection               5 min    connections without a stream
//	ping                     10 s     peers that read nothing, pinged after 30 s without data
package envoysds

import (
	"fmt"
	"slices"
	"sync"
	"time"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"

	"github.com/sessapi/sessapi/internal/files"
)

const (
	maxConnections = 32
	maxStreams     = 16       // of a connection
	maxRequest     = 1 << 20  // bytes
	maxHeaders     = 16 << 10 // bytes
	window         = 64 << 10 // bytes of requests on their way; a set one does not grow

	helloTimeout = 5 * time.Second
	idleTimeout  = 5 * time.Minute
	pingAfter    = 30 * time.Second
	pingTimeout  = 10 * time.Second
	pingInterval = 5 * time.Second // the shortest between pings of a client
	closeTimeout = 2 * time.Second // until streams are cut off
)

// Config is the configuration of a [Server].
type Config struct {
	Socket     string // path
	Attributes files.Attributes
	// Timeout is how long an Envoy may take to accept or reject a secret.
	Timeout time.Duration
	// Changed is called when [Server.Accepted] may have changed.
	Changed func()
}

// Server serves the secret. Its methods may be called from any goroutine.
type Server struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer // FetchSecrets: grpc could not wipe its answer

	timeout time.Duration
	changed func()
	socket  *files.Socket
	grpc    *grpc.Server
	closing chan struct{}
	running sync.WaitGroup // Serve, and the readers of streams

	mu          sync.Mutex // guards what follows
	failure     error      // of Serve
	generation  uint64     // of the secret; 0 before there is one
	secret      []byte
	updated     chan struct{} // closed when the secret changes
	subscribers []*subscriber // in the order in which they came
}

// Listen serves at the socket until Close is called. Envoys wait for the secret of the
// first Offer.
func Listen(c Config) (*Server, error) {
	socket, err := files.Listen(c.Socket, c.Attributes)
	if err != nil {
		return nil, err
	}
	s := &Server{timeout: c.Timeout, changed: c.Changed, socket: socket, closing: make(chan struct{}), updated: make(chan struct{})}
	s.grpc = grpc.NewServer(
		grpc.ForceServerCodecV2(wipingCodec{encoding.GetCodecV2(protocodec.Name)}),
		grpc.WriteBufferSize(0), // it would keep keys
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		grpc.ConnectionTimeout(helloTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout, Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingInterval, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	)
	secretv3.RegisterSecretDiscoveryServiceServer(s.grpc, s)
	s.running.Go(func() {
		err := s.grpc.Serve(netutil.LimitListener(socket, maxConnections))
		s.mu.Lock()
		s.failure = err
		s.mu.Unlock()
		s.changed()
	})
	return s, nil
}

// Close ends all streams, removes the socket, and wipes the secret.
func (s *Server) Close() {
	close(s.closing)
	cut := time.AfterFunc(closeTimeout, s.grpc.Stop)
	s.grpc.GracefulStop()
	cut.Stop()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.secret)
}

// Reachable reports whether Envoys can connect: whether the socket is still at its path,
// and nothing ended the server.
func (s *Server) Reachable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure == nil && s.socket.Intact()
}

// Offer makes the secret the one that all Envoys get, in a copy of its own. The generation
// is not 0.
func (s *Server) Offer(generation uint64, secret []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if generation == s.generation {
		return
	}
	clear(s.secret)
	s.generation, s.secret = generation, slices.Clone(secret)
	close(s.updated)
	s.updated = make(chan struct{})
}

// Offers reports whether the secret is of this generation.
func (s *Server) Offers(generation uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation == generation
}

// Accepted returns nil when at least one Envoy is connected, and all that are have accepted
// the secret. Its other results are a [Waiting] or a [*RejectedError].
func (s *Server) Accepted() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	accepted, waiting := 0, 0
	for _, u := range s.subscribers {
		switch {
		case u.wanted() && u.held == s.generation:
			accepted++
		case u.wanted() && u.rejected == s.generation:
			return &RejectedError{fmt.Sprintf("%s rejected the keys (%v); its log says why", u.name(), u.code)}
		case !u.unanswered.IsZero() && time.Since(u.unanswered) > s.timeout:
			return &RejectedError{fmt.Sprintf("%s has not answered for %v", u.name(), s.timeout)}
		case u.wanted():
			waiting++
		case u.misnamed:
			return &RejectedError{fmt.Sprintf("%s asks for the secret %q; the only one is %s", u.name(), u.other, SecretName)}
		}
	}
	switch {
	case waiting > 0:
		return Waiting("Envoy has not accepted the keys yet")
	case accepted == 0:
		return Waiting("no Envoy is connected to the socket")
	}
	return nil
}

// Waiting says what the server waits for.
type Waiting string

// Error is part of error.
func (w Waiting) Error() string { return string(w) }

// RejectedError is the failure of an Envoy to accept the secret. It says nothing that
// Envoy wrote about it: Envoy's errors quote the message, keys included.
type RejectedError struct{ text string }

// Error is part of error.
func (e *RejectedError) Error() string { return e.text }
