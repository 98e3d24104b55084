package doctor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sort"
	"time"
)

const (
	// maxAnswer is how much a server may send behind a handshake, in bytes.
	maxAnswer = 64 << 10
	// maxLifetime is that of a ticket (RFC 8446, section 4.6.1).
	maxLifetime = 7 * 24 * time.Hour
	// keyNameSize is the size of the name that a ticket of the OpenSSL family begins
	// with.
	keyNameSize = 16
)

// Protocol is a version of TLS.
type Protocol uint16

// The protocols that sessions are resumed in.
const (
	TLS12 Protocol = tls.VersionTLS12
	TLS13 Protocol = tls.VersionTLS13
)

// String returns 1.2 or 1.3.
func (p Protocol) String() string {
	if p == TLS12 {
		return "1.2"
	}
	return "1.3"
}

// MarshalText is String.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Kind is how a handshake failed.
type Kind string

// The kinds of failure.
const (
	Unreachable     Kind = "no connection"     // of TCP
	NoAnswer        Kind = "no answer in time" // a connection, and nothing comes of it
	NotTLS          Kind = "no TLS"            // what answers speaks something else
	ProtocolMissing Kind = "protocol missing"  // the server does not speak this version
	Refused         Kind = "refused"           // any other alert, or a closed connection
)

// Error is a handshake that failed.
type Error struct {
	Kind Kind
	Err  error // may hold text of the server's
}

// Error returns the kind and the cause.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Kind, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func isKind(err error, kind Kind) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Kind == kind
}

// Client makes handshakes. It is safe for concurrent use and must not be changed
// while it is used.
type Client struct {
	// ServerName is the name to ask for (SNI), and to find in the certificate. An
	// address is not sent.
	ServerName string
	// Roots sign the certificates of servers; nil is the system's.
	Roots *x509.CertPool
	// Insecure leaves certificates unchecked.
	Insecure bool
	// Certificate is the client's own, if it has one.
	Certificate []tls.Certificate
	// ALPN lists the application protocols to offer.
	ALPN []string
	// Timeout bounds a handshake, TCP connection included. It must be positive.
	Timeout time.Duration
}

// Session is what a server gave the client to come back with.
type Session struct {
	Protocol Protocol
	Ticket   []byte
	state    *tls.ClientSessionState
	hint     time.Duration // of TLS 1.2
	came     time.Time     // by clock
}

// KeyName returns the first 16 bytes of the ticket. With OpenSSL, and all that make
// tickets as it does, that is the name of the key that encrypted it. Other libraries,
// such as Go's and s2n, put something else there. ok is false for a ticket that is too
// short: OpenSSL sends the bare ID of a session that it keeps itself, when it may make
// no tickets of TLS 1.3.
func (s *Session) KeyName() (name [keyNameSize]byte, ok bool) {
	const least = keyNameSize + 16 + sha256.Size // name, IV, HMAC
	if len(s.Ticket) <= least {
		return name, false
	}
	return [keyNameSize]byte(s.Ticket), true
}

// Lifetime returns how long the client may come back; 0 is as long as it likes
// (RFC 5077, section 3.3).
func (s *Session) Lifetime() time.Duration {
	if s.Protocol == TLS12 {
		return s.hint
	}
	// crypto/tls does not tell, but offers no session behind its end.
	seconds := sort.Search(int(maxLifetime/time.Second), func(seconds int) bool {
		hello := clientHello(&tls.Config{
			ServerName:         "localhost",
			InsecureSkipVerify: true, //nolint:gosec // it goes nowhere
			MinVersion:         tls.VersionTLS13,
			CurvePreferences:   []tls.CurveID{tls.X25519},
			ClientSessionCache: &sessionCache{offer: s.state},
			Time:               func() time.Time { return s.came.Add(time.Duration(seconds) * time.Second) },
		})
		return !bytes.Contains(hello, s.Ticket)
	})
	return time.Duration(seconds) * time.Second
}

// decoy returns a session with the ticket of s and the secrets of other. A server that
// decrypts the ticket must abort the handshake, as the client cannot prove that it is
// its own (RFC 8446, section 4.2.11); one that cannot decrypt it makes a full one.
func (s *Session) decoy(other *Session) (*Session, error) {
	_, state, err := other.state.ResumptionState()
	if err != nil {
		return nil, err
	}
	encoded, err := state.Bytes()
	if err != nil {
		return nil, err
	}
	defer clear(encoded)
	if state, err = tls.ParseSessionState(encoded); err != nil {
		return nil, err
	}
	forged, err := tls.NewResumptionState(s.Ticket, state)
	if err != nil {
		return nil, err
	}
	return &Session{Protocol: s.Protocol, Ticket: s.Ticket, state: forged}, nil
}

// Handshake is one that succeeded.
type Handshake struct {
	// Resumed says that the server resumed the session that it was offered.
	Resumed bool
	// Session is a fresh one; nil when the server gave none.
	Session *Session
	// Took is from the ClientHello until the client is done.
	Took time.Duration
	// Leaf is the hash (SHA-256) of the server's certificate.
	Leaf [sha256.Size]byte
	// Certificate is why the server's certificate is not valid; nil when it is, or is
	// not checked. The handshake goes on all the same. It may hold text of the
	// server's.
	Certificate error
}

// Handshake makes one handshake with the server at the address and closes the
// connection in good order. It offers the session, if any, which must be of the same
// protocol. In TLS 1.3 it reads until it has a ticket: a server that sent none is
// visited once more with a request (HEAD /), as BoringSSL sends its tickets along with
// the first answer. The error is an [*Error].
func (c *Client) Handshake(ctx context.Context, address string, protocol Protocol, offered *Session) (*Handshake, error) {
	h, err := c.handshake(ctx, address, protocol, offered, false)
	if err == nil && protocol == TLS13 && offered == nil && h.Session == nil {
		return c.handshake(ctx, address, protocol, nil, true)
	}
	return h, err
}

func (c *Client) handshake(ctx context.Context, address string, protocol Protocol, offered *Session, request bool) (*Handshake, error) {
	var cache sessionCache
	if offered != nil {
		cache.offer = offered.state
	}
	config := c.config(protocol)
	config.ClientSessionCache = &cache
	conn, h, err := c.connect(ctx, address, protocol, config)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer := io.LimitReader(conn, maxAnswer)
	if request {
		_ = conn.SetDeadline(time.Now().Add(c.Timeout))
		_, _ = fmt.Fprintf(conn, "HEAD / HTTP/1.1\r\nHost: %s\r\nUser-Agent: sessapi-doctor\r\nConnection: close\r\n\r\n", c.ServerName)
		_, _ = answer.Read(make([]byte, 1))
	}
	err = c.part(conn, answer, h.Took)
	if cache.put == nil {
		// The client is done before a server of TLS 1.3 has seen its certificate.
		if timeout, ok := errors.AsType[net.Error](err); err != nil && protocol == TLS13 && !(ok && timeout.Timeout()) {
			return nil, &Error{Refused, err}
		}
		return &h.Handshake, nil
	}
	ticket, _, err := cache.put.ResumptionState()
	if err != nil {
		return nil, &Error{Refused, err}
	}
	h.Session = &Session{Protocol: protocol, Ticket: ticket, state: cache.put, hint: h.flight.lifetime, came: cache.came}
	return &h.Handshake, nil
}

// part ends a connection politely: of one that was cut off, OpenSSL forgets the session.
// Not every server answers, so it waits little longer than an answer takes after a
// handshake that took so long.
func (c *Client) part(conn *tls.Conn, answer io.Reader, took time.Duration) error {
	_ = conn.SetDeadline(time.Now().Add(min(50*time.Millisecond+4*took, c.Timeout)))
	_ = conn.CloseWrite()
	_, err := io.Copy(io.Discard, answer)
	return err
}

// greeting is a handshake and what was on the wire in the clear.
type greeting struct {
	Handshake
	flight flight
}

// connect makes a connection and its handshake.
func (c *Client) connect(ctx context.Context, address string, protocol Protocol, config *tls.Config) (*tls.Conn, *greeting, error) {
	raw, err := c.dial(ctx, address)
	if err != nil {
		return nil, nil, err
	}
	recorded := &recorder{Conn: raw}
	conn := tls.Client(recorded, config)
	began := time.Now()
	err = conn.HandshakeContext(ctx)
	took := time.Since(began)
	seen, wireErr := parseFlight(recorded.received)
	if err != nil {
		_ = raw.Close()
		return nil, nil, &Error{failure(err, wireErr, seen, protocol), err}
	}
	state := conn.ConnectionState()
	return conn, &greeting{
		Handshake: Handshake{
			Resumed:     state.DidResume,
			Took:        took,
			Leaf:        sha256.Sum256(state.PeerCertificates[0].Raw),
			Certificate: c.verify(state.PeerCertificates),
		},
		flight: seen,
	}, nil
}

// dial makes a TCP connection that ends in time.
func (c *Client) dial(ctx context.Context, address string) (net.Conn, error) {
	deadline := time.Now().Add(c.Timeout)
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, &Error{Unreachable, err}
	}
	if err := conn.SetDeadline(deadline); err != nil {
		_ = conn.Close()
		return nil, &Error{Unreachable, err}
	}
	return conn, nil
}

// failure says how a handshake failed.
func failure(err, wireErr error, seen flight, protocol Protocol) Kind {
	const protocolVersion = 70 // RFC 8446, section 6.2
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case ok && timeout.Timeout():
		return NoAnswer
	case wireErr != nil:
		return NotTLS
	case seen.alert == protocolVersion, seen.version != 0 && seen.version != protocol:
		return ProtocolMissing
	}
	return Refused
}

// clock is the one that crypto/tls gets. It offers no session of a server whose
// certificate has expired, so the clock stands before any certificate does. Only
// differences of its times reach the server.
func clock() time.Time { return time.Now().Add(-50 * 365 * 24 * time.Hour) }

// config is of a client of that protocol alone, and of any cipher suite: the doctor
// meets servers as they are.
func (c *Client) config(protocol Protocol) *tls.Config {
	var suites []uint16
	for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		suites = append(suites, suite.ID)
	}
	return &tls.Config{
		ServerName:         c.ServerName,
		Certificates:       c.Certificate,
		NextProtos:         c.ALPN,
		MinVersion:         uint16(protocol),
		MaxVersion:         uint16(protocol),
		CipherSuites:       suites,
		Time:               clock,
		InsecureSkipVerify: true, //nolint:gosec // verify does it: a bad certificate is a finding, and others may be behind it
	}
}

// verify holds the certificates of a server to the roots and to its name.
func (c *Client) verify(chain []*x509.Certificate) error {
	if c.Insecure {
		return nil
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: c.Roots, Intermediates: intermediates, DNSName: c.ServerName})
	return err
}

// sessionCache offers one session and keeps the first that comes.
type sessionCache struct {
	offer, put *tls.ClientSessionState
	came       time.Time // when put did, by clock
}

// Get is part of [tls.ClientSessionCache].
func (s *sessionCache) Get(string) (*tls.ClientSessionState, bool) { return s.offer, s.offer != nil }

// Put is part of [tls.ClientSessionCache].
func (s *sessionCache) Put(_ string, state *tls.ClientSessionState) {
	if state != nil && s.put == nil { // nil when it fails
		s.put, s.came = state, clock()
	}
}
