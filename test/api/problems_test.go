package api_test

import (
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/test/contract"
)

// TestProblems forces every code that a request can reach on this service, by
// way of each of the doors through which an error leaves: the binding of
// parameters, bodies, answers, and the router's 404 and 405. The codes of
// operations that need credentials or a backend are held against the writer
// itself, beside it.
func TestProblems(t *testing.T) {
	t.Parallel()
	s := startService(t)
	off := startService(t, func(c *handlers.Config) { c.Cache = nil })
	slow := slowMetrics{entered: make(chan struct{}), release: make(chan struct{})}
	busy := startService(t, func(c *handlers.Config) { c.MaxInFlight, c.Metrics = 1, slow })
	scraped := make(chan int)
	go func() { scraped <- busy.get("/metrics", "*/*").StatusCode }()
	<-slow.entered // and has the only slot
	defer func() { close(slow.release); <-scraped }()
	broken := startService(t, func(c *handlers.Config) { c.Metrics = panicking{} })

	s.put("/sessions/01", typeBytes, []byte("opaque")).want(t, 201)
	secret := string(record()[:40])
	reached := map[api.ProblemCode]bool{}
	for _, test := range []struct {
		on           *service
		method, path string
		body         string
		headers      []string
		status       int
		code         api.ProblemCode
		wantHeader   [2]string
	}{
		{method: "GET", path: "/sessions/xyz", status: 400, code: api.ProblemCodeInvalidSessionID},
		{method: "GET", path: "/sessions/01?max_bytes=x", status: 400, code: api.ProblemCodeInvalidRequest},
		{method: "GET", path: "/sessions?limit=x", status: 400, code: api.ProblemCodeInvalidRequest},
		{method: "GET", path: "/sessions/01", headers: []string{"Accept", typeBytes, "Range", "bytes=0-1", "Range", "bytes=2-3"}, status: 400, code: api.ProblemCodeInvalidRequest},
		{method: "GET", path: "/sessions/01", headers: []string{"Accept", typeBytes, "Range", "none"}, status: 400, code: api.ProblemCodeInvalidRequest},
		{method: "DELETE", path: "/sessions?id=01", status: 400, code: api.ProblemCodeInvalidRequest},
		{method: "PUT", path: "/sessions/01", body: `{"data":"` + secret, headers: []string{"Content-Type", typeJSON}, status: 400, code: api.ProblemCodeInvalidRequest},
		{method: "PUT", path: "/sessions/01", body: `{"` + hex.EncodeToString([]byte(secret)) + `":1}`, headers: []string{"Content-Type", typeJSON}, status: 400, code: api.ProblemCodeInvalidRequest},
		{method: "GET", path: "/sessions/02", status: 404, code: api.ProblemCodeSessionNotFound},
		{method: "DELETE", path: "/ticket-keys/" + strings.Repeat("0", 32), status: 404, code: api.ProblemCodeKeyNotFound},
		{method: "DELETE", path: "/consumers/edge/web", status: 404, code: api.ProblemCodeConsumerNotFound},
		{method: "GET", path: "/nothing", status: 404, code: api.ProblemCodeRouteNotFound},
		{method: "GET", path: "/sessions/", status: 404, code: api.ProblemCodeRouteNotFound},
		{method: "GET", path: "/docs/nothing.js", status: 404, code: api.ProblemCodeRouteNotFound},
		{method: "GET", path: "/console/nothing.js", status: 404, code: api.ProblemCodeRouteNotFound},
		{method: "GET", path: "/console/index.html", status: 404, code: api.ProblemCodeRouteNotFound},
		{method: "GET", path: "/docs/index.html", status: 404, code: api.ProblemCodeRouteNotFound},
		{method: "POST", path: "/sessions/01", status: 405, code: api.ProblemCodeMethodNotAllowed, wantHeader: [2]string{"Allow", "GET, HEAD, PUT, DELETE"}},
		{method: "PUT", path: "/ticket-keys", status: 405, code: api.ProblemCodeMethodNotAllowed, wantHeader: [2]string{"Allow", "GET, HEAD, POST"}},
		{method: "PATCH", path: "/ticket-keys/rotate", status: 405, code: api.ProblemCodeMethodNotAllowed, wantHeader: [2]string{"Allow", "POST, DELETE"}},
		{method: "OPTIONS", path: "/status", status: 405, code: api.ProblemCodeMethodNotAllowed, wantHeader: [2]string{"Allow", "GET, HEAD"}},
		{method: "BREW", path: "/status", status: 405, code: api.ProblemCodeMethodNotAllowed, wantHeader: [2]string{"Allow", "GET, HEAD"}},
		{method: "BREW", path: "/nothing", status: 404, code: api.ProblemCodeRouteNotFound},
		{method: "GET", path: "/sessions/01", headers: []string{"Accept", "image/png"}, status: 406, code: api.ProblemCodeNotAcceptable},
		{method: "GET", path: "/status", headers: []string{"Accept", "application/json;q=0"}, status: 406, code: api.ProblemCodeNotAcceptable},
		{method: "PUT", path: "/sessions/01", body: "x", headers: []string{"Content-Type", typeBytes, "If-None-Match", "*"}, status: 412, code: api.ProblemCodePreconditionFailed},
		{method: "PUT", path: "/sessions/01", body: strings.Repeat(secret, 1000), headers: []string{"Content-Type", typeBytes}, status: 413, code: api.ProblemCodeSessionTooLarge},
		{method: "PUT", path: "/sessions/01", body: secret, status: 415, code: api.ProblemCodeUnsupportedMediaType, wantHeader: [2]string{"Accept", "application/octet-stream, application/x-pem-file, application/json"}},
		{method: "POST", path: "/ticket-keys", body: secret, status: 415, code: api.ProblemCodeUnsupportedMediaType, wantHeader: [2]string{"Accept", "application/octet-stream, application/json"}},
		{method: "GET", path: "/sessions/01", headers: []string{"Accept", typeBytes, "Range", "bytes=99-"}, status: 416, code: api.ProblemCodeRangeNotSatisfiable, wantHeader: [2]string{"Content-Range", "bytes */6"}},
		{method: "PUT", path: "/sessions/01", body: secret, headers: []string{"Content-Type", typePEM}, status: 422, code: api.ProblemCodeInvalidSession},
		{method: "POST", path: "/ticket-keys", body: secret, headers: []string{"Content-Type", typeBytes}, status: 422, code: api.ProblemCodeInvalidTicketKeys},
		{on: broken, method: "GET", path: "/metrics", status: 500, code: api.ProblemCodeInternal},
		{on: busy, method: "GET", path: "/status", status: 503, code: api.ProblemCodeOverloaded, wantHeader: [2]string{"Retry-After", "1"}},
		{on: off, method: "GET", path: "/sessions/01", status: 503, code: api.ProblemCodeCacheDisabled},
		{on: off, method: "PUT", path: "/sessions/01", body: "x", headers: []string{"Content-Type", typeBytes}, status: 503, code: api.ProblemCodeCacheDisabled},
		{on: off, method: "DELETE", path: "/sessions/01", status: 503, code: api.ProblemCodeCacheDisabled},
		{on: off, method: "GET", path: "/sessions", status: 503, code: api.ProblemCodeCacheDisabled},
		{on: off, method: "DELETE", path: "/sessions", status: 503, code: api.ProblemCodeCacheDisabled},
	} {
		if test.on == nil {
			test.on = s
		}
		got := test.on.request(test.method, test.path, []byte(test.body), append(test.headers, "X-Request-Id", "req-1")...)
		p := got.wantProblem(t, test.status, test.code)
		reached[test.code] = true
		if p.RequestID != "req-1" {
			t.Errorf("%s %s: request_id %q", test.method, test.path, p.RequestID)
		}
		got.wantHeader(t, "Cache-Control", "no-store")
		if test.wantHeader[0] != "" {
			got.wantHeader(t, test.wantHeader[0], test.wantHeader[1])
		}
		for _, form := range []string{secret, hex.EncodeToString([]byte(secret))} {
			if strings.Contains(string(got.body), form) || strings.Contains(test.on.log.String(), form) {
				t.Errorf("%s %s: a secret is in the answer or the log", test.method, test.path)
			}
		}
	}
	busy.get("/livez", "*/*").want(t, 200) // needs no slot

	if strings.Contains(broken.log.String(), panicSecret) || !strings.Contains(broken.log.String(), `"request_id":"req-1"`) ||
		!strings.Contains(broken.log.String(), "panicking") {
		t.Errorf("a panic is logged as %s", broken.log)
	}

	beside := []api.ProblemCode{
		api.ProblemCodeUnauthenticated, api.ProblemCodeForbidden,
		api.ProblemCodeTooManyRequests, api.ProblemCodeTooManyConsumers, api.ProblemCodeConsumersBehind, api.ProblemCodeBackendUnavailable,
	}
	for _, code := range contract.Load(t).Doc.Components.Schemas["ProblemCode"].Value.Enum {
		code := api.ProblemCode(code.(string))
		if !reached[code] && !slices.Contains(beside, code) {
			t.Errorf("no request reaches %s", code)
		}
	}
}

// A client's request ID is taken only when it is fit for a log.
func TestRequestID(t *testing.T) {
	t.Parallel()
	s := startService(t, func(c *handlers.Config) { c.AccessLog = true })
	for _, bad := range []string{"", strings.Repeat("x", 65), "a b", "a\tb", "ä", `"`} {
		p := s.request("GET", "/nothing", nil, "X-Request-Id", bad).wantProblem(t, 404, api.ProblemCodeRouteNotFound)
		if p.RequestID == bad || len(p.RequestID) < 20 {
			t.Errorf("%q is answered with request_id %q", bad, p.RequestID)
		}
		if !strings.Contains(s.log.String(), p.RequestID) {
			t.Errorf("request_id %q is not in the access log", p.RequestID)
		}
	}
}

// The access log has routes and no session IDs.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	s := startService(t, func(c *handlers.Config) { c.AccessLog = true })
	s.put("/sessions/abcdef0123", typeBytes, []byte("opaque session")).want(t, 201)
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(s.log.String(), `"route":"/sessions/{id}","status":201`) {
		if time.Now().After(deadline) {
			t.Fatalf("the log is %s", s.log)
		}
		time.Sleep(time.Millisecond)
	}
	if strings.Contains(s.log.String(), "abcdef0123") {
		t.Errorf("the log has a session ID: %s", s.log)
	}
}

// A method may be as long as headers may, and is not in the log.
func TestAccessLogOfMethod(t *testing.T) {
	t.Parallel()
	s := startService(t, func(c *handlers.Config) { c.AccessLog = true })
	method := strings.Repeat("M", 5000)
	r := httptest.NewRequest(method, s.URL+"/status", nil)
	s.api.Handler().ServeHTTP(httptest.NewRecorder(), r)
	if log := s.log.String(); !strings.Contains(log, `"method":"MMM`) || strings.Contains(log, method[:64]) {
		t.Errorf("the log is %s", log)
	}
}

const panicSecret = "secret-of-a-panic"

// panicking is a handler with a fault.
type panicking struct{}

func (panicking) ServeHTTP(http.ResponseWriter, *http.Request) { panic(panicSecret) }

// slowMetrics takes its time to answer.
type slowMetrics struct{ entered, release chan struct{} }

func (m slowMetrics) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	close(m.entered)
	<-m.release
	w.Header().Set("Content-Type", "text/plain")
}

// What the page of another origin makes a browser send is refused as the
// contract says.
func TestForeignPages(t *testing.T) {
	s := startService(t)
	if got := s.request(http.MethodPost, "/ticket-keys/rotate", nil, "Sec-Fetch-Site", "cross-site"); got.StatusCode != http.StatusForbidden {
		t.Errorf("another origin: %d", got.StatusCode)
	}
	request, err := http.NewRequest(http.MethodGet, s.URL+"/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "evil.example"
	if got := s.do(request); got.StatusCode != http.StatusForbidden {
		t.Errorf("another name: %d", got.StatusCode)
	}
}
