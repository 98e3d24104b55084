// Package api_test drives the HTTP API in process. Every exchange is held
// against openapi.yaml on its way.
package api_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/logtest"
	"github.com/sessapi/sessapi/internal/metrics"
	"github.com/sessapi/sessapi/test/contract"
)

const (
	typeBytes = "application/octet-stream"
	typePEM   = "application/x-pem-file"
	typeJSON  = "application/json"
)

// maxSession is the largest session of the services under test.
const maxSession = 16 << 10

// service is the API with its parts, for a test.
type service struct {
	*httptest.Server
	tb    testing.TB
	api   *handlers.API
	cache *cache.Cache
	ring  *keys.Ring
	log   *logtest.Buffer
	clock *clock

	consumers *consumers.Table
}

// clock is the time of a service, which a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// startService serves the API with a small cache; configure may change what it
// is made from.
func startService(tb testing.TB, configure ...func(*handlers.Config)) *service {
	tb.Helper()
	s := &service{tb: tb, log: &logtest.Buffer{}, clock: &clock{now: time.Now()}}
	var err error
	s.cache, err = cache.New(cache.Config{Memory: 8 << 20, MaxSessionBytes: maxSession, Now: s.clock.Now})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.cache.Close() })
	s.ring = keys.NewRing(s.clock.Now, keys.Lifecycle{RotateEvery: 12 * time.Hour, TicketLifetime: 24 * time.Hour})
	m := metrics.New("v0.0.0-test")
	m.AddCache(s.cache)
	m.AddTicketKeys(s.ring)
	s.consumers = consumers.New(s.clock.Now, nil)
	config := handlers.Config{
		Cache: s.cache, MaxSessionBytes: maxSession,
		DefaultTTL: 300 * time.Second, MaxTTL: 168 * time.Hour,
		Ring: s.ring, Consumers: s.consumers, Version: "v0.0.0-test", Now: s.clock.Now,
		Log:      slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Recorder: m, Metrics: m.Handler(),
		AllowedHosts: []string{"example.com", "sessapi.test"}, // which requests of tests are to
	}
	for _, change := range configure {
		change(&config)
	}
	s.api = handlers.New(config)
	s.Server = httptest.NewServer(contract.Load(tb).Check(tb, s.api.Handler()))
	tb.Cleanup(s.Close)
	return s
}

// answer is an answer, read.
type answer struct {
	*http.Response
	body []byte
}

// request makes a request; headers are pairs of name and value.
func (s *service) request(method, path string, body []byte, headers ...string) answer {
	s.tb.Helper()
	request, err := http.NewRequest(method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		s.tb.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	return s.do(request)
}

func (s *service) do(request *http.Request) answer {
	s.tb.Helper()
	response, err := s.Client().Do(request)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.tb.Fatal(err)
	}
	return answer{response, body}
}

func (s *service) get(path, accept string, headers ...string) answer {
	s.tb.Helper()
	return s.request(http.MethodGet, path, nil, append(headers, "Accept", accept)...)
}

func (s *service) put(path, contentType string, body []byte, headers ...string) answer {
	s.tb.Helper()
	return s.request(http.MethodPut, path, body, append(headers, "Content-Type", contentType)...)
}

func (s *service) post(path, contentType string, body []byte, headers ...string) answer {
	s.tb.Helper()
	return s.request(http.MethodPost, path, body, append(headers, "Content-Type", contentType)...)
}

// want fails the test unless the answer has the status.
func (a answer) want(tb testing.TB, status int) answer {
	tb.Helper()
	if a.StatusCode != status {
		tb.Fatalf("%s %s: status %d, want %d: %s", a.Request.Method, a.Request.URL, a.StatusCode, status, a.body)
	}
	return a
}

// wantHeader fails the test unless the answer has the header; an empty value
// wants it absent.
func (a answer) wantHeader(tb testing.TB, name, value string) answer {
	tb.Helper()
	if got := a.Header.Get(name); got != value {
		tb.Errorf("%s %s: %s is %q, want %q", a.Request.Method, a.Request.URL, name, got, value)
	}
	return a
}

// wantProblem fails the test unless the answer is a problem of the code, and
// returns it.
func (a answer) wantProblem(tb testing.TB, status int, code api.ProblemCode) api.Problem {
	tb.Helper()
	a.want(tb, status)
	a.wantHeader(tb, "Content-Type", "application/problem+json")
	p := decode[api.Problem](tb, a)
	if p.Code != code || p.Status != status || p.RequestID == "" || p.Title == "" || p.Detail == "" ||
		p.RequestID != a.Header.Get("X-Request-Id") || !strings.HasSuffix(p.Type, string(code)) {
		tb.Errorf("%s %s: problem %+v, want code %s", a.Request.Method, a.Request.URL, p, code)
	}
	return p
}

func decode[T any](tb testing.TB, a answer) T {
	tb.Helper()
	var v T
	if err := json.Unmarshal(a.body, &v); err != nil {
		tb.Fatalf("%s %s: %v in %s", a.Request.Method, a.Request.URL, err, a.body)
	}
	return v
}

// masterKey is the secret of the sessions that sslSession makes, and must not
// be seen where no secret belongs.
var masterKey = bytes.Repeat([]byte("MASTERKEY-"), 5)[:48]

// sslSession is an SSL_SESSION of TLS 1.2, as a server stores it.
func sslSession(id []byte, start time.Time, timeout time.Duration) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1Int64(0x0303)
		b.AddASN1OctetString([]byte{0xc0, 0x30})
		b.AddASN1OctetString(id)
		b.AddASN1OctetString(masterKey)
		explicit := func(tag uint8, value int64) {
			b.AddASN1(asn1.Tag(tag).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Int64(value) })
		}
		explicit(1, start.Unix())
		explicit(2, int64(timeout/time.Second))
	})
	return b.BytesOrPanic()
}

// hexID is a session ID as it stands in a path.
func hexID(id []byte) string { return hex.EncodeToString(id) }
