package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/sessapi/sessapi/internal/api"
)

const (
	// shareTimeout bounds how long a handshake waits for the service, to take a
	// session and again to store the next one.
	shareTimeout = 250 * time.Millisecond
	// sharePause is how long no handshake asks a service that has failed.
	sharePause = time.Second
	// shareTTL is how long sessions are kept, if the service keeps them as long.
	shareTTL = 24 * time.Hour
	// ticketSize is that of a ticket, in bytes, which is the ID of a session.
	ticketSize = 32
)

// ShareSessions has the servers of config keep their sessions in the service, so that
// clients resume on every server that does the same. No keys are shared: a ticket is the
// random ID of a session, and means nothing to those who see it. config must not be in
// use yet. Copies of it share as well, such as those of http.Server's ServeTLS. Ticket keys
// of config are not used any more; do not follow them, too.
//
// The service sees the sessions: their master secrets, and the certificates of clients.
// Whoever may read sessions there can decrypt recorded connections of TLS 1.2. Whoever may
// store them can resume as any client. A session of TLS 1.3 is used once: the server that
// removes it from the service resumes it. Sessions are kept for 24 hours at most.
//
// A handshake waits for the service up to 250 ms for the session, and up to 250 ms to
// store the next one. If the service is away, has no such session or ctx has ended,
// the handshake is a full one; it never fails for that. A service that failed is not asked
// again for a second. The log says when it fails and when it answers again.
func (c *Client) ShareSessions(ctx context.Context, config *tls.Config) {
	(&shared{client: c, timeout: shareTimeout}).serve(ctx, config)
}

// shared is the sessions in the service.
type shared struct {
	client  *Client
	timeout time.Duration // of a request

	mu       sync.Mutex // guards what follows
	failures int        // in a row
	retryAt  time.Time  // when a handshake may ask again, after failures
}

// serve has the servers of config keep their sessions here.
func (s *shared) serve(ctx context.Context, config *tls.Config) {
	config.WrapSession = func(_ tls.ConnectionState, state *tls.SessionState) ([]byte, error) {
		ticket := make([]byte, ticketSize)
		_, _ = rand.Read(ticket) // never fails
		s.ask(ctx, func(ctx context.Context) error { return s.store(ctx, ticket, state) })
		return ticket, nil // also of a session that is not stored: the next handshake is a full one
	}
	config.UnwrapSession = func(ticket []byte, connection tls.ConnectionState) (state *tls.SessionState, _ error) {
		if len(ticket) == ticketSize { // others are not ours
			once := connection.Version == tls.VersionTLS13
			s.ask(ctx, func(ctx context.Context) (err error) {
				state, err = s.take(ctx, ticket, once)
				return err
			})
		}
		return state, nil
	}
}

// ask makes a request within the time that a handshake has for it. While the service
// fails, one handshake in a pause asks it, and the others go on without.
func (s *shared) ask(ctx context.Context, request func(context.Context) error) {
	if ctx.Err() != nil || s.pauses() {
		return
	}
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := request(limited)
	if ctx.Err() != nil { // which is no failure of the service
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch log := s.client.log; {
	case err != nil:
		if s.failures++; s.failures == 1 {
			if e, ok := errors.AsType[*url.Error](err); ok {
				err = e.Err // without the URL, which has the ticket of a client
			}
			log.Warn("cannot share TLS sessions; handshakes are full ones", slog.String("error", err.Error()))
		}
		s.retryAt = time.Now().Add(sharePause)
	case s.failures > 0:
		log.Info("TLS sessions are shared again", slog.Int("failures", s.failures))
		s.failures = 0
	}
}

// pauses reports whether the service failed just now, and if not, lets nobody else ask
// whether it still does.
func (s *shared) pauses() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures == 0 {
		return false
	}
	now := time.Now()
	if now.Before(s.retryAt) {
		return true
	}
	s.retryAt = now.Add(sharePause)
	return false
}

// store stores a session under its ticket.
func (s *shared) store(ctx context.Context, ticket []byte, state *tls.SessionState) error {
	data, err := state.Bytes()
	defer clear(data)
	if err != nil {
		return err
	}
	_, err = s.client.PutSession(ctx, hex.EncodeToString(ticket), data, shareTTL)
	return err
}

// take returns the session of a ticket, or nil if there is none. With once it removes the
// session. The returned session shares its memory with the answer of the service, so that
// the answer cannot be wiped while the handshake goes on.
func (s *shared) take(ctx context.Context, ticket []byte, once bool) (*tls.SessionState, error) {
	id := hex.EncodeToString(ticket)
	data, err := s.client.SessionBytes(ctx, id)
	if err != nil {
		return nil, unlessNotFound(err)
	}
	state, err := tls.ParseSessionState(data)
	if err != nil {
		clear(data)
		return nil, nil //nolint:nilerr // it is of a server of another kind, whose session ID the client sent as a ticket
	}
	if once {
		if err := s.client.DeleteSession(ctx, id); err != nil { // also when another server was first
			clear(data)
			return nil, unlessNotFound(err)
		}
	}
	return state, nil
}

// unlessNotFound returns err, or nil if the service answers that there is no such session.
func unlessNotFound(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Code == string(api.ProblemCodeSessionNotFound) {
		return nil
	}
	return err
}
