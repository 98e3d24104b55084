package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// sessionService keeps sessions.
type sessionService struct {
	mu       sync.Mutex
	sessions map[string][]byte
	requests []string // their method, and the ttl of PUT
	broken   atomic.Bool
}

func (s *sessionService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.broken.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	id := strings.TrimPrefix(r.URL.Path, "/sessions/")
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+r.URL.RawQuery))
	data, ok := s.sessions[id]
	switch {
	case r.Method == http.MethodPut:
		s.sessions[id] = body
		w.WriteHeader(http.StatusCreated)
	case !ok:
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"code": "session_not_found"}`)
	case r.Method == http.MethodDelete:
		delete(s.sessions, id)
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Content-Type", mediaBytes)
		_, _ = w.Write(data)
	}
}

func (s *sessionService) ids() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.sessions {
		ids = append(ids, id)
	}
	return ids
}

// spoil has a server of another kind put its sessions in the place of those there are.
func (s *sessionService) spoil() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.sessions {
		s.sessions[id] = []byte("another kind of session")
	}
}

// asked returns the requests since the last call.
func (s *sessionService) asked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.requests = nil }()
	return strings.Join(s.requests, ", ")
}

// shareHTTPS serves HTTPS whose sessions are shared through c: half of the servers have
// net/http copy the configuration.
func shareHTTPS(t *testing.T, c *Client, version uint16, copied bool) string {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{testCertificate(t)}, MinVersion: version, MaxVersion: version}
	sessions := &shared{client: c, timeout: time.Minute} // a busy machine may take longer than shareTimeout
	sessions.serve(t.Context(), config)
	return serveHTTPS(t, func(s *http.Server, l net.Listener) error {
		if !copied {
			return s.Serve(tls.NewListener(l, config))
		}
		s.TLSConfig = config
		return s.ServeTLS(l, "", "")
	})
}

// Servers resume each other's sessions, those of TLS 1.3 once.
func TestShareSessions(t *testing.T) {
	for version, test := range map[uint16]struct {
		once           bool
		first, resumed string // requests of a handshake
	}{
		tls.VersionTLS12: {false, "PUT ttl_seconds=86400", "GET, PUT ttl_seconds=86400"},
		tls.VersionTLS13: {true, "PUT ttl_seconds=86400", "GET, DELETE, PUT ttl_seconds=86400"},
	} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			service := &sessionService{sessions: map[string][]byte{}}
			c := serve(t, service.ServeHTTP)
			a, b := shareHTTPS(t, c, version, false), shareHTTPS(t, c, version, true)
			session := tls.NewLRUClientSessionCache(1)
			if visit(t, a, session) {
				t.Error("a client that is new resumes")
			}
			if got := service.asked(); got != test.first {
				t.Errorf("the first handshake asked %s", got)
			}
			ids := service.ids()
			if len(ids) != 1 || len(ids[0]) != 2*ticketSize {
				t.Fatalf("the sessions are %q", ids)
			}
			old := tlsCopy(session)
			if !visit(t, b, session) {
				t.Error("B does not resume what A began")
			}
			if got := service.asked(); got != test.resumed {
				t.Errorf("the second handshake asked %s", got)
			}
			if !visit(t, a, session) {
				t.Error("A does not resume what B went on with")
			}
			if visit(t, a, old) == test.once {
				t.Error("the first ticket, again: once is", test.once)
			}
		})
	}
}

// Of two servers that get a ticket of TLS 1.3 at a time, one resumes it.
func TestShareSessionsRace(t *testing.T) {
	service := &sessionService{sessions: map[string][]byte{}}
	var both sync.WaitGroup
	var racing atomic.Bool
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		service.ServeHTTP(w, r)
		if racing.Load() && r.Method == http.MethodGet {
			both.Done()
			both.Wait() // each has read the session before one of them removes it
		}
	})
	address := shareHTTPS(t, c, tls.VersionTLS13, false)
	session := tls.NewLRUClientSessionCache(1)
	visit(t, address, session)
	racing.Store(true)
	both.Add(2)
	var resumed atomic.Int32
	var visits sync.WaitGroup
	for range 2 {
		visits.Go(func() {
			if visit(t, address, tlsCopy(session)) {
				resumed.Add(1)
			}
		})
	}
	visits.Wait()
	if resumed.Load() != 1 {
		t.Errorf("%d connections resumed", resumed.Load())
	}
}

// Whatever the service has or answers, and when it does not, connections are made.
func TestShareSessionsFailures(t *testing.T) {
	service := &sessionService{sessions: map[string][]byte{}}
	var log syncBuffer
	c := serve(t, service.ServeHTTP)
	c.log = slog.New(slog.NewTextHandler(&log, nil))
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		address := shareHTTPS(t, c, version, false)
		session := tls.NewLRUClientSessionCache(1)
		visit(t, address, session)
		service.spoil()
		service.asked()
		if visit(t, address, tlsCopy(session)) {
			t.Error("resumed a session that Go did not make")
		}
		if got := service.asked(); strings.Contains(got, "DELETE") {
			t.Errorf("asked %s: the session is not ours to remove", got)
		}
	}
	if log.String() != "" {
		t.Errorf("logged %s", log.String())
	}

	address := shareHTTPS(t, c, tls.VersionTLS13, false)
	session := tls.NewLRUClientSessionCache(1)
	visit(t, address, session)
	service.broken.Store(true)
	for range 3 {
		if visit(t, address, session) {
			t.Error("resumed without the service")
		}
	}
	if got := strings.Count(log.String(), "\n"); got != 1 || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("logged %s", log.String())
	}
	service.broken.Store(false)
	await(t, func() bool { visit(t, address, session); return visit(t, address, session) }, "sessions are shared again")
	if !strings.Contains(log.String(), "level=INFO") {
		t.Errorf("logged %s", log.String())
	}
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// A service that never answers costs a handshake its time once, and one handshake in each
// pause from then on. A context that has ended costs nothing.
func TestShareSessionsBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		var log bytes.Buffer
		c, err := New("http://sessapi", WithLogger(slog.New(slog.NewTextHandler(&log, nil))), WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			requests++
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var config tls.Config
		c.ShareSessions(ctx, &config)
		handshake := func() time.Duration {
			start := time.Now()
			state, err := config.UnwrapSession(make([]byte, ticketSize), tls.ConnectionState{Version: tls.VersionTLS13})
			if state != nil || err != nil {
				t.Errorf("%v, %v", state, err)
			}
			ticket, err := config.WrapSession(tls.ConnectionState{}, &tls.SessionState{})
			if len(ticket) != ticketSize || err != nil {
				t.Errorf("a ticket of %d bytes, %v", len(ticket), err)
			}
			return time.Since(start)
		}
		for i := range 3 {
			if took := handshake(); took != shareTimeout || requests != i+1 {
				t.Errorf("took %v, %d requests", took, requests)
			}
			if took := handshake(); took != 0 || requests != i+1 {
				t.Errorf("the next one took %v, %d requests", took, requests)
			}
			time.Sleep(sharePause)
		}
		if got := log.String(); strings.Count(got, "\n") != 1 || strings.Contains(got, "/sessions/") {
			t.Errorf("logged %s", got)
		}
		cancel()
		if took := handshake(); took != 0 || requests != 3 {
			t.Errorf("after the end it took %v, %d requests", took, requests)
		}
		// A ticket of another kind is none of the service's.
		for _, size := range []int{0, ticketSize - 1, ticketSize + 1, 200} {
			if state, err := config.UnwrapSession(make([]byte, size), tls.ConnectionState{}); state != nil || err != nil {
				t.Errorf("%d bytes: %v, %v", size, state, err)
			}
		}
	})
}

// Handshakes that come at a time leave their connections to those that come next.
func TestShareSessionsConnections(t *testing.T) {
	const handshakes = 20
	var connections atomic.Int32
	var all sync.WaitGroup
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		all.Done()
		all.Wait()
		w.WriteHeader(http.StatusCreated)
	}))
	service.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	service.Start()
	defer service.Close()
	c, err := New(service.URL)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		all.Add(handshakes)
		var done sync.WaitGroup
		for range handshakes {
			done.Go(func() {
				if _, err := c.PutSession(t.Context(), "01", []byte("x"), time.Minute); err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
	}
	if got := connections.Load(); got != handshakes {
		t.Errorf("%d connections for %d handshakes at a time", got, handshakes)
	}
}

// keeper keeps the memory that is written to it.
type keeper struct{ data []byte }

func (k *keeper) Write(p []byte) (int, error) {
	k.data = p
	return len(p), nil
}

// The bytes of a session are wiped once they are stored.
func TestShareSessionsWipes(t *testing.T) {
	var kept keeper
	c, err := New("http://sessapi", WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if _, err := io.Copy(&kept, r.Body); err != nil || bytes.Count(kept.data, []byte{0}) == len(kept.data) {
			return nil, errors.New("no session")
		}
		return answer(http.StatusCreated, "", ""), nil
	})}))
	if err != nil {
		t.Fatal(err)
	}
	var config tls.Config
	c.ShareSessions(t.Context(), &config)
	if _, err := config.WrapSession(tls.ConnectionState{}, &tls.SessionState{Extra: [][]byte{[]byte("secret")}}); err != nil {
		t.Fatal(err)
	}
	if kept.data == nil || !bytes.Equal(kept.data, make([]byte, len(kept.data))) {
		t.Error("the session is not wiped")
	}
}
