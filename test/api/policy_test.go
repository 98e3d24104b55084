package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/test/contract"
)

// policy is one with an identity for each role, and tokens for them.
type policy struct {
	atomic.Pointer[auth.Policy]
	text   strings.Builder
	tokens map[string]string
}

var policyRoles = []string{"session-read", "session-write", "key-publish", "key-consume", "observe", "admin"}

func newPolicy(tb testing.TB, clock func() time.Time) *policy {
	p := &policy{tokens: map[string]string{}}
	p.text.WriteString("identities:\n")
	for _, role := range policyRoles {
		token, hash := auth.NewToken()
		expired, old := auth.NewToken()
		p.tokens[role], p.tokens[role+" expired"] = token, expired
		fmt.Fprintf(&p.text, "  - name: %s\n    roles: [%s]\n    tokens: [{sha256: \"%x\"}, {sha256: \"%x\", expires: %s}]\n",
			role, role, hash, old, clock().Add(-time.Second).UTC().Format(time.RFC3339))
	}
	p.set(tb, p.text.String())
	return p
}

func (p *policy) set(tb testing.TB, text string) {
	tb.Helper()
	parsed, err := auth.Parse([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	p.Store(parsed)
}

// underPolicy has a service go by the policy. The clock of the limit stands
// still for the service and leaps for the limit, so that no failure is one too
// many.
func underPolicy(tb testing.TB) (*policy, func(*handlers.Config)) {
	p := newPolicy(tb, time.Now)
	start := time.Now()
	var leaps atomic.Int64
	return p, func(c *handlers.Config) {
		c.Auth = auth.New(p.Load, func() time.Time { return start.Add(time.Duration(leaps.Add(1)) * time.Minute) })
	}
}

// TestPolicyMatrix holds every operation, by every role, with no, wrong, expired
// and right credentials, against what docs/policy.md says of it.
func TestPolicyMatrix(t *testing.T) {
	p, configure := underPolicy(t)
	s := startService(t, configure)
	name := func() string { return s.ring.Description().Keys[0].Name.String() }
	anyone := append([]string{""}, policyRoles...)
	sessionJSON, keysJSON := []string{"session-read", "observe"}, []string{"key-publish", "key-consume", "observe"}
	covered, consumer := map[string]bool{}, 0
	for _, test := range []struct {
		method, route, query string
		headers              []string
		body                 []byte
		permitted            []string
	}{
		{method: "GET", route: "/sessions"},
		{method: "DELETE", route: "/sessions"},
		{method: "GET", route: "/sessions/{id}", permitted: sessionJSON},
		{method: "GET", route: "/sessions/{id}", headers: []string{"Accept", "*/*"}, permitted: sessionJSON},
		{method: "GET", route: "/sessions/{id}", headers: []string{"Accept", typeBytes}, permitted: []string{"session-read"}},
		{method: "GET", route: "/sessions/{id}", headers: []string{"Accept", "application/json;q=0.5, " + typeBytes}, permitted: []string{"session-read"}},
		{method: "GET", route: "/sessions/{id}", headers: []string{"Accept", typePEM + ", application/octet-stream;q=0.5, application/json;q=0.1"}, permitted: []string{"session-read"}},
		{method: "GET", route: "/sessions/{id}", query: "?max_bytes=0", permitted: []string{"session-read"}},
		{method: "HEAD", route: "/sessions/{id}", permitted: sessionJSON},
		{method: "HEAD", route: "/sessions/{id}", headers: []string{"Accept", typeBytes}, permitted: []string{"session-read"}},
		{method: "PUT", route: "/sessions/{id}", headers: []string{"Content-Type", typeBytes}, body: []byte("opaque"), permitted: []string{"session-write"}},
		{method: "DELETE", route: "/sessions/{id}", permitted: []string{"session-write"}},
		{method: "GET", route: "/ticket-keys", permitted: keysJSON},
		{method: "HEAD", route: "/ticket-keys", permitted: keysJSON},
		{method: "GET", route: "/ticket-keys", query: "?format=ats", permitted: []string{"key-consume"}},
		{method: "GET", route: "/ticket-keys", query: "?%66ormat=ats", permitted: []string{"key-consume"}},
		{method: "HEAD", route: "/ticket-keys", query: "?format=ats", permitted: []string{"key-consume"}},
		{method: "POST", route: "/ticket-keys", headers: []string{"Content-Type", typeBytes}, body: record(), permitted: []string{"key-publish"}},
		{method: "POST", route: "/ticket-keys/rotate", permitted: []string{"key-publish"}},
		{method: "DELETE", route: "/ticket-keys/{name}", permitted: []string{"key-publish"}},
		{method: "POST", route: "/v3/discovery:secrets", headers: []string{"Content-Type", typeJSON}, body: []byte("{}"), permitted: []string{"key-consume"}},
		{method: "GET", route: "/consumers", permitted: []string{"key-consume", "observe"}},
		{method: "PUT", route: "/consumers/{host}/{target}", headers: []string{"Content-Type", typeJSON}, body: reportBody("nginx", 1, "current", 10), permitted: []string{"key-consume"}},
		{method: "DELETE", route: "/consumers/{host}/{target}"},
		{method: "HEAD", route: "/events", permitted: []string{"observe"}},
		{method: "GET", route: "/status", permitted: []string{"observe"}},
		{method: "GET", route: "/metrics", permitted: []string{"observe"}},
		{method: "GET", route: "/openapi.yaml", permitted: anyone},
		{method: "GET", route: "/openapi.json", permitted: anyone},
		{method: "GET", route: "/", permitted: anyone},
		{method: "GET", route: "/console", permitted: anyone},
		{method: "GET", route: "/console/{file}", permitted: anyone},
		{method: "GET", route: "/docs", permitted: anyone},
		{method: "GET", route: "/docs/{file}", permitted: anyone},
		{method: "GET", route: "/livez", permitted: anyone},
		{method: "GET", route: "/readyz", permitted: anyone},
	} {
		covered[test.method+" "+test.route] = true
		ask := func(token string) answer {
			t.Helper()
			id, err := cache.ParseID("01")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.cache.Put(id, []byte("opaque"), cache.PutOptions{ExpiresAt: s.clock.Now().Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
			consumer++ // each of its own, for names have owners
			host := strconv.Itoa(consumer)
			if test.method == "DELETE" {
				if err := s.consumers.Put(t.Context(), host+"/web", "", consumers.Report{Kind: "nginx", State: consumers.Current, ExpiresIn: time.Minute}); err != nil {
					t.Fatal(err)
				}
			}
			path := strings.NewReplacer("/console/{file}", "/console/icon.svg", "{id}", "01", "{name}", name(), "{file}", "redoc.standalone.js", "{host}", host, "{target}", "web").Replace(test.route) + test.query
			headers := test.headers
			if token != "" {
				headers = append(slices.Clone(headers), "Authorization", "Bearer "+token)
			}
			return s.request(test.method, path, test.body, headers...)
		}
		public := slices.Contains(test.permitted, "")
		what := test.method + " " + test.route + test.query
		denied := func(a answer, status int) string {
			t.Helper()
			if public {
				if a.StatusCode != http.StatusOK {
					t.Errorf("%s, which is public: %d", what, a.StatusCode)
				}
				return ""
			}
			if a.StatusCode != status || (a.Header.Get("WWW-Authenticate") != "") != (status == 401) {
				t.Errorf("%s: %d %v, want %d", what, a.StatusCode, a.Header, status)
			}
			if len(a.body) == 0 {
				return ""
			}
			return decode[api.Problem](t, a).Detail
		}
		unknown, _ := auth.NewToken()
		details := map[string]bool{
			denied(ask(""), 401):      true,
			denied(ask(unknown), 401): true,
			denied(ask("x"), 401):     true,
		}
		for _, role := range policyRoles {
			details[denied(ask(p.tokens[role+" expired"]), 401)] = true
			a := ask(p.tokens[role])
			switch {
			case role == "admin" || slices.Contains(test.permitted, role):
				if a.StatusCode > 299 {
					t.Errorf("%s by %s: %d %s", what, role, a.StatusCode, a.body)
				}
			default:
				denied(a, 403)
			}
		}
		if len(details) != 1 {
			t.Errorf("%s: 401 tells what was wrong: %v", what, details)
		}
	}
	covered["GET /events"] = true // like HEAD; a stream has no end
	for path, item := range contract.Load(t).Doc.Paths.Map() {
		for method := range item.Operations() {
			if !covered[method+" "+path] {
				t.Errorf("%s %s is not in the matrix", method, path)
			}
		}
	}
	// Where there is nothing, there is nothing to permit.
	s.request("GET", "/nothing", nil).wantProblem(t, 404, api.ProblemCodeRouteNotFound)
	s.request("POST", "/sessions", nil).wantProblem(t, 405, api.ProblemCodeMethodNotAllowed)
	// A body is not read for somebody who may not send it.
	s.put("/sessions/01", typeBytes, make([]byte, 2*maxSession)).wantProblem(t, 401, api.ProblemCodeUnauthenticated)
	for _, token := range p.tokens {
		if strings.Contains(s.log.String(), token) {
			t.Error("a token is in the log")
		}
	}
}

// Profiles are for administrators.
func TestPolicyOfProfiles(t *testing.T) {
	p, configure := underPolicy(t)
	s := startService(t, configure)
	s.Server = httptest.NewServer(s.api.OpsHandler())
	defer s.Server.Close()
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/symbol"} {
		s.request("GET", path, nil).want(t, 401)
		s.request("GET", path, nil, "Authorization", "Bearer "+p.tokens["observe"]).want(t, 403)
		s.request("GET", path, nil, "Authorization", "Bearer "+p.tokens["admin"]).want(t, 200)
	}
}

// Who has lost a role while waiting gets no keys.
func TestPolicyOfWaiters(t *testing.T) {
	for _, change := range []struct {
		name, from, to string
		status         int
	}{
		{"role", "roles: [key-consume]", "roles: [observe]", 403},
		{"identity", "name: key-consume\n    roles: [key-consume]\n    tokens: [", "name: key-consume\n    roles: [key-consume]\n    uids: [4000000000]\n    tokens: [] # [", 401},
		{"nothing", "identities", "identities", 200},
	} {
		t.Run(change.name, func(t *testing.T) {
			p, configure := underPolicy(t)
			s := startService(t, configure)
			p.set(t, p.text.String())
			key := "Bearer " + p.tokens["key-consume"]
			etag := s.get("/ticket-keys", typeJSON, "Authorization", key).want(t, 200).Header.Get("ETag")
			held := make(chan answer, 1)
			go func() {
				held <- s.get("/ticket-keys?format=ats", typeBytes, "Authorization", key,
					"If-None-Match", etag, "Prefer", "wait="+strconv.Itoa(slow))
			}()
			s.awaitWaiters(t, 1)
			changed := strings.Replace(p.text.String(), change.from, change.to, 1)
			p.set(t, changed)
			s.post("/ticket-keys/rotate", "", nil, "Authorization", "Bearer "+p.tokens["admin"]).want(t, 200)
			a := (<-held).want(t, change.status)
			if keys := a.Header.Get("Content-Type") == typeBytes; keys != (change.status == 200) {
				t.Errorf("%d of type %s", a.StatusCode, a.Header.Get("Content-Type"))
			}
		})
	}
}

// The source that fails too often is told when to come back.
func TestPolicyLimit(t *testing.T) {
	p := newPolicy(t, time.Now)
	s := startService(t, func(c *handlers.Config) { c.Auth = auth.New(p.Load, c.Now) })
	status := func(token string) answer { return s.get("/status", typeJSON, "Authorization", "Bearer "+token) }
	for range 20 {
		status("x").want(t, 401)
	}
	a := status(p.tokens["observe"])
	a.wantProblem(t, 429, api.ProblemCodeTooManyRequests)
	a.wantHeader(t, "Retry-After", "3")
	s.get("/status", typeJSON).want(t, 401) // without a token nothing is guessed, and nothing is limited
	s.clock.advance(3 * time.Second)
	status(p.tokens["observe"]).want(t, 200)
}

// clientCertificate is one that is its own authority.
func clientCertificate(tb testing.TB, dns string) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{dns}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// Client certificates count over HTTP/1.1 and HTTP/2 when the listener verified
// them, and only then.
func TestPolicyOfCertificates(t *testing.T) {
	p, configure := underPolicy(t)
	p.set(t, "identities: [{name: edge, roles: [observe], certificates: [{dns: edge.example.org}]}]")
	cert := clientCertificate(t, "edge.example.org")
	s := startService(t, configure)
	for _, test := range []struct {
		verify tls.ClientAuthType
		http2  bool
		status int
	}{
		{tls.VerifyClientCertIfGiven, false, 200},
		{tls.VerifyClientCertIfGiven, true, 200},
		{tls.RequestClientCert, false, 401},
	} {
		server := httptest.NewUnstartedServer(s.api.Handler())
		server.EnableHTTP2 = test.http2
		server.TLS = &tls.Config{ClientAuth: test.verify, ClientCAs: x509.NewCertPool()}
		server.TLS.ClientCAs.AddCert(cert.Leaf)
		server.StartTLS()
		client := server.Client()
		transport := client.Transport.(*http.Transport)
		transport.TLSClientConfig.Certificates = []tls.Certificate{cert}
		response, err := client.Get(server.URL + "/status")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != test.status || (response.ProtoMajor == 2) != test.http2 {
			t.Errorf("%v: %s %d", test.verify, response.Proto, response.StatusCode)
		}
		server.Close()
	}
}

// The user at the other end of a Unix socket is known, also on a connection that
// was held and given back.
func TestPolicyOfUsers(t *testing.T) {
	p, configure := underPolicy(t)
	me := fmt.Sprintf("identities: [{name: me, roles: [admin], uids: [%d]}]", os.Getuid())
	p.set(t, me)
	s := startService(t, configure)
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s.api.Handler(), ConnContext: auth.ConnContext, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	dials := 0
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		dials++
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	ask := func(target string, status int, headers ...string) string {
		t.Helper()
		request, err := http.NewRequest(http.MethodGet, "http://localhost"+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			request.Header.Set(headers[i], headers[i+1])
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, response.Body) // or the connection is not used again
		response.Body.Close()
		if err != nil || response.StatusCode != status {
			t.Errorf("%s: %d, want %d", target, response.StatusCode, status)
		}
		return response.Header.Get("ETag")
	}
	etag := ask("/ticket-keys", 200)
	for range 2 {
		ask("/ticket-keys?format=ats", 304, "If-None-Match", etag, "Prefer", "wait=1")
		ask("/status", 200)
	}
	if dials != 1 {
		t.Errorf("%d connections", dials)
	}
	p.set(t, strings.Replace(me, strconv.Itoa(os.Getuid()), "4000000000", 1))
	ask("/status", 401)
}
