package e2e_test

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

// collector receives spans over OTLP.
type collector struct {
	url string

	mu     sync.Mutex // guards what follows
	bodies [][]byte   // of all requests, decompressed
	tokens []string   // the Authorization header of each
	spans  []*tracev1.Span
}

func newCollector(tb testing.TB) *collector {
	c := &collector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := c.receive(r)
		if err != nil {
			tb.Error(err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(body)
	}))
	tb.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *collector) receive(r *http.Request) ([]byte, error) {
	if r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		return nil, fmt.Errorf("%s %s", r.URL, r.Header)
	}
	reader := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		reader = unzipped
	}
	body, err := io.ReadAll(reader)
	if err != nil {
		return nil, err
	}
	var request collectorv1.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &request); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bodies, c.tokens = append(c.bodies, body), append(c.tokens, r.Header.Get("Authorization"))
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	return proto.Marshal(&collectorv1.ExportTraceServiceResponse{})
}

// chain is the names of a span and its parents, the root first.
func (c *collector) chain(s *tracev1.Span) string {
	for _, parent := range c.spans {
		if bytes.Equal(parent.SpanId, s.ParentSpanId) && bytes.Equal(parent.TraceId, s.TraceId) {
			return c.chain(parent) + " > " + s.Name
		}
	}
	return s.Name
}

// Two nodes export the spans of requests, Redis, the state file and the ticket keys, each
// under its parent; and nothing in them tells of a session, a key or a token.
func TestTraces(t *testing.T) {
	t.Parallel()
	path, redis, c, dir := buildCommand(t, "-tags=otlp"), redistest.Start(t), newCollector(t), t.TempDir()
	sealKey := newSealKey(t)
	token, hash := auth.NewToken()
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, fmt.Appendf(nil, "identities: [{name: the-name-of-the-operator, roles: [admin], tokens: [{sha256: \"%x\"}]}]\n", hash), 0o600); err != nil {
		t.Fatal(err)
	}
	nodes := make([]*service, 2)
	for i := range nodes {
		cmd := exec.Command(path, "serve", "--listen=127.0.0.1:0", "--cache-memory=8MiB", "--policy="+policy,
			"--redis="+redis.URL(), "--redis-read-timeout=2s", "--namespace=the-namespace", "--seal-key-file="+sealKey, fmt.Sprintf("--state-file=%s/state%d", dir, i),
			"--otlp-endpoint="+c.url)
		cmd.Env = append(os.Environ(), "OTEL_EXPORTER_OTLP_HEADERS=Authorization=Bearer%20collector", "OTEL_EXPORTER_OTLP_COMPRESSION=gzip")
		p := startCommand(t, cmd)
		nodes[i] = &service{process: p, addr: p.out.await(t, `"name":"main","address":"([^"]+)"`)[1]}
		p.out.await(t, `"msg":"serving"`)
	}

	// A trace of the caller, which is sampled, and one which is not.
	const sampled, dropped = "0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c"
	auth := []string{"Authorization", "Bearer " + token}
	with := func(trace, flags string) []string {
		return append([]string{"traceparent", "00-" + trace + "-b7ad6b7169203331-" + flags}, auth...)
	}
	const id = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	session, key := make([]byte, 160), make([]byte, 48)
	_, _ = rand.Read(session)
	_, _ = rand.Read(key)
	name := hex.EncodeToString(key[:16])
	const consumer = "edge-with-a-name"
	report := `{"kind":"nginx","generation":1,"state":"current","expires_in_seconds":60}`
	for i, step := range []struct {
		node         int
		method, path string
		body         []byte
		headers      []string
		want         int
	}{
		{0, "PUT", "/sessions/" + id, session, with(sampled, "01"), http.StatusCreated},
		{1, "GET", "/sessions/" + id, nil, with(sampled, "01"), http.StatusOK},
		{1, "GET", "/sessions/" + id, nil, with(dropped, "00"), http.StatusOK},
		{1, "DELETE", "/sessions/" + id, nil, auth, http.StatusNoContent},
		{1, "DELETE", "/sessions/" + id, nil, auth, http.StatusNotFound},
		{0, "POST", "/ticket-keys", key, auth, http.StatusOK},
		{1, "DELETE", "/ticket-keys/" + name, nil, auth, http.StatusOK},
		{0, "PUT", "/consumers/" + consumer + "/web", []byte(report), append([]string{"Content-Type", "application/json"}, auth...), http.StatusNoContent},
		{0, "DELETE", "/sessions", nil, auth, http.StatusOK},
		{0, "GET", "/no/such-path", nil, auth, http.StatusNotFound},
		{0, "GET", "/sessions/" + id, nil, nil, http.StatusUnauthorized},
		{0, "SECRET-METHOD", "/sessions/" + id, nil, auth, http.StatusMethodNotAllowed},
	} {
		if a := nodes[step.node].ask(t, step.method, step.path, step.body, step.headers...); a.status != step.want {
			t.Fatalf("step %d: %s: %d, want %d", i, step.method, a.status, step.want)
		}
	}
	for _, node := range nodes {
		node.stop(t, syscall.SIGTERM) // which exports the rest
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	got := make(map[string]bool)
	for _, s := range c.spans {
		got[c.chain(s)] = true
		switch trace := hex.EncodeToString(s.TraceId); {
		case trace == dropped:
			t.Errorf("%s is exported, against the decision of its parent", s.Name)
		case trace == sampled && s.Kind == tracev1.Span_SPAN_KIND_SERVER && hex.EncodeToString(s.ParentSpanId) != "b7ad6b7169203331":
			t.Errorf("%s has the parent %x", s.Name, s.ParentSpanId)
		}
	}
	for _, want := range []string{
		"PUT /sessions/{id} > redis set",
		"GET /sessions/{id} > redis get",
		"GET /sessions/{id}",
		"DELETE /sessions/{id} > redis delete",
		"POST /ticket-keys > update ticket keys > redis ticket keys look",
		"POST /ticket-keys > update ticket keys > redis ticket keys update",
		"POST /ticket-keys > update ticket keys > save ticket keys",
		"DELETE /ticket-keys/{name} > update ticket keys > redis ticket keys update",
		"PUT /consumers/{host}/{target} > redis replace",
		"DELETE /sessions > flush sessions > redis flush",
		"GET",
		"_OTHER",
	} {
		if !got[want] {
			t.Errorf("no span %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%d spans: %v", len(c.spans), got)
	}
	for i, body := range c.bodies {
		if c.tokens[i] != "Bearer collector" {
			t.Errorf("the collector got the token %q", c.tokens[i])
		}
		for what, secret := range map[string][]byte{
			"session": session, "start of the session": session[:16], "key": key[16:32], "AES key": key[32:],
			"token": []byte(token), "identity": []byte("the-name-of-the-operator"), "namespace": []byte("the-namespace"), "address of Redis": []byte(redis.Addr()),
			"session ID": []byte(id), "start of the session ID": []byte(id[:16]), "key name": []byte(name),
			"consumer": []byte(consumer), "path": []byte("such-path"), "method": []byte("SECRET"), "collector's token": []byte("Bearer"),
		} {
			forms := [][]byte{secret, []byte(hex.EncodeToString(secret)), []byte(base64.RawStdEncoding.EncodeToString(secret))}
			if raw, err := hex.DecodeString(string(secret)); err == nil {
				forms = append(forms, raw)
			}
			for _, form := range forms {
				if bytes.Contains(bytes.ToLower(body), bytes.ToLower(form)) {
					t.Errorf("payload %d contains the %s", i, what)
				}
			}
		}
	}
}

// A collector that fails, hangs or is missing costs nothing but spans: requests are
// answered, there is one line in the log, and the service stops in time.
func TestTracesLost(t *testing.T) {
	t.Parallel()
	path := buildCommand(t, "-tags=otlp")
	release := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer hangs.Close()
	defer close(release)
	fails := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "\x1b[31mno", http.StatusForbidden)
	}))
	defer fails.Close()
	for _, test := range []struct{ name, url, want string }{
		{"hangs", hangs.URL, ""},
		{"fails", fails.URL, "cannot export spans"},
		{"is missing", "http://127.0.0.1:" + freePort(t), ""}, // is tried for longer than the test lasts
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command(path, "serve", "--listen=127.0.0.1:0", "--cache-memory=8MiB", "--otlp-endpoint="+test.url)
			cmd.Env = append(os.Environ(), "OTEL_BSP_SCHEDULE_DELAY=10", "OTEL_BSP_MAX_QUEUE_SIZE=16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=8")
			p := startCommand(t, cmd)
			s := &service{process: p, addr: p.out.await(t, `"name":"main","address":"([^"]+)"`)[1]}
			for i := range 200 {
				put(t, s, fmt.Sprintf("%04x", i), []byte("session"))
			}
			if test.want != "" {
				p.out.await(t, test.want)
			}
			p.stop(t, syscall.SIGTERM)
			if p.err != nil {
				t.Error(p.err)
			}
			if n := strings.Count(p.out.String(), "cannot export spans"); n > 1 || strings.Contains(p.out.String(), "\x1b") {
				t.Errorf("%d lines:\n%s", n, p.out)
			}
		})
	}
}
