package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/sessapi/sessapi"
	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	s := startService(t)
	s.put("/sessions/01", typeBytes, []byte("opaque")).want(t, 201)
	s.get("/sessions/01", typeBytes).want(t, 200)
	s.get("/sessions/02", typeBytes).want(t, 404)
	s.clock.advance(90 * time.Second)
	status := decode[api.Status](t, s.get("/status", "*/*").want(t, 200))
	if status.UptimeSeconds != 90 || status.Version != "v0.0.0-test" || status.TicketKeyFile != nil {
		t.Errorf("status is %+v", status)
	}
	c := status.Cache
	if !c.Enabled || *c.Entries != 1 || *c.Hits != 1 || *c.Misses != 1 || *c.Stored != 1 || *c.CapacityBytes != 8<<20 || *c.Bytes <= 0 || c.MaxSessions != nil {
		t.Errorf("cache is %s", s.get("/status", "*/*").body)
	}
	if status.TicketKeys.Generation != s.ring.Description().Generation {
		t.Errorf("ticket keys are %+v", status.TicketKeys)
	}

	off := startService(t, func(c *handlers.Config) { c.Cache = nil })
	if status := decode[api.Status](t, off.get("/status", "*/*").want(t, 200)); status.Cache.Enabled || status.Cache.Entries != nil {
		t.Errorf("a cache that is off is %+v", status.Cache)
	}
	off.post("/ticket-keys", typeBytes, record()).want(t, 200)
}

func TestHealth(t *testing.T) {
	t.Parallel()
	s := startService(t)
	s.get("/livez", "*/*").want(t, 200)
	if h := decode[api.Health](t, s.get("/readyz", "*/*").want(t, 200)); h.Status != api.Ok || len(h.Checks) != 1 {
		t.Errorf("ready is %+v", h)
	}
	s.api.Drain()
	if h := decode[api.Health](t, s.get("/readyz", "*/*").want(t, 503)); h.Status != api.Failing {
		t.Errorf("draining is %+v", h)
	}
	s.get("/livez", "*/*").want(t, 200)
	s.get("/status", "*/*").want(t, 200)
	for _, path := range []string{"/livez", "/status", "/sessions", "/ticket-keys", "/openapi.json"} {
		if head := s.request(http.MethodHead, path, nil).want(t, 200); len(head.body) != 0 {
			t.Errorf("HEAD %s has a body", path)
		}
	}
}

// The status has the checks of /readyz, and says who asks: a page offers what its user
// may do.
func TestStatusOfHealthAndIdentity(t *testing.T) {
	t.Parallel()
	p, configure := underPolicy(t)
	why := ""
	s := startService(t, configure, func(c *handlers.Config) {
		c.Checks = []handlers.Check{{Name: "disk", Degraded: func() string { return why }}}
	})
	for _, why = range []string{"", "it is full"} {
		for _, role := range []string{"observe", "admin"} {
			bearer := []string{"Authorization", "Bearer " + p.tokens[role]}
			status := decode[api.Status](t, s.request(http.MethodGet, "/status", nil, bearer...).want(t, 200))
			if i := status.Identity; i == nil || i.Name != role || len(i.Roles) != 1 || string(i.Roles[0]) != role {
				t.Errorf("the identity of %s is %+v", role, i)
			}
			if ready := decode[api.Health](t, s.get("/readyz", "*/*").want(t, 200)); !reflect.DeepEqual(status.Health, ready) || (ready.Status == api.Ok) != (why == "") {
				t.Errorf("the health is %+v, but /readyz has %+v", status.Health, ready)
			}
		}
	}
	if status := decode[api.Status](t, startService(t).get("/status", "*/*").want(t, 200)); status.Identity != nil {
		t.Errorf("without a policy the identity is %+v", status.Identity)
	}
}

// The console is by the contract, and asked for again only when it has changed.
func TestConsolePage(t *testing.T) {
	t.Parallel()
	s := startService(t)
	page := s.get("/console", "text/html").want(t, 200)
	names := regexp.MustCompile(`"(console/[^"]+)"`).FindAllSubmatch(page.body, -1)
	if len(names) == 0 {
		t.Error("the page names no file")
	}
	for _, name := range names {
		s.get("/"+string(name[1]), "*/*").want(t, 200)
	}
	s.request(http.MethodGet, "/console", nil, "If-None-Match", page.Header.Get("ETag")).want(t, 304)
	if head := s.request(http.MethodHead, "/console", nil).want(t, 200); len(head.body) != 0 {
		t.Error("HEAD has a body")
	}
}

// A key file that breaks is shown everywhere, and the keys from before stay.
func TestTicketKeyFileStatus(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ticket.key")
	if err := os.WriteFile(path, record(), 0o600); err != nil {
		t.Fatal(err)
	}
	ring := keys.NewRing(time.Now, keys.Lifecycle{})
	file, err := keys.OpenFile(path, ring, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := startService(t, func(c *handlers.Config) {
		c.Ring, c.KeyFile, c.Checks = ring, file, []handlers.Check{{Name: "ticket_key_file", Degraded: file.Health}}
	})
	if status := decode[api.Status](t, s.get("/status", "*/*")); status.TicketKeyFile == nil || status.TicketKeyFile.Path != path ||
		status.TicketKeyFile.LastError != nil || status.TicketKeys.Source != api.File {
		t.Errorf("status is %s", s.get("/status", "*/*").body)
	}
	before := s.get("/ticket-keys?format=ats", "*/*").body
	if err := os.WriteFile(path, record()[:47], 0o600); err != nil {
		t.Fatal(err)
	}
	file.Reload()
	status := decode[api.Status](t, s.get("/status", "*/*"))
	if f := status.TicketKeyFile; f.LastError == nil || f.FailedAt == nil || f.Failures != 1 {
		t.Errorf("a broken file is shown as %+v", f)
	}
	if h := decode[api.Health](t, s.get("/readyz", "*/*").want(t, 200)); h.Status != api.Degraded {
		t.Errorf("a broken file is %+v", h)
	}
	if !bytes.Equal(s.get("/ticket-keys?format=ats", "*/*").body, before) {
		t.Error("a broken file changed the keys")
	}
}

func TestOpenAPIServed(t *testing.T) {
	t.Parallel()
	s := startService(t)
	if got := s.get("/openapi.yaml", "*/*").want(t, 200); !bytes.Equal(got.body, sessapi.OpenAPI) {
		t.Error("/openapi.yaml is another document")
	}
	var fromYAML any
	if err := yaml.Unmarshal(sessapi.OpenAPI, &fromYAML); err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(fromYAML)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal(want, &a) != nil || json.Unmarshal(s.get("/openapi.json", "*/*").want(t, 200).body, &b) != nil {
		t.Fatal("no JSON")
	}
	canonical := func(v any) string { text, _ := json.Marshal(v); return string(text) }
	if canonical(a) != canonical(b) {
		t.Error("/openapi.json is another document")
	}
}

func TestMetricsServed(t *testing.T) {
	t.Parallel()
	s := startService(t)
	s.put("/sessions/0123456789abcdef", typeBytes, []byte("opaque")).want(t, 201)
	got := s.get("/metrics", "*/*").want(t, 200)
	if !bytes.Contains(got.body, []byte(`sessapi_http_requests_total{code="201",method="PUT",route="/sessions/{id}"} 1`)) {
		t.Error("the request is not counted")
	}
	if bytes.Contains(got.body, []byte("0123456789abcdef")) {
		t.Error("a session ID is in the metrics")
	}
	open := s.get("/metrics", "application/openmetrics-text; version=1.0.0").want(t, 200)
	if !strings.HasPrefix(open.Header.Get("Content-Type"), "application/openmetrics-text") {
		t.Errorf("OpenMetrics is %s", open.Header.Get("Content-Type"))
	}
}

// The reference page renders in a browser that can reach nothing but the
// service.
func TestDocsPage(t *testing.T) {
	t.Parallel()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("chromium is not installed")
		}
		t.Skip("chromium is not installed; make test installs it on Debian as root")
	}
	s := startService(t)
	page := s.get("/docs", "text/html").want(t, 200)
	policy := page.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "http") || strings.Contains(policy, "unsafe-eval") {
		t.Errorf("Content-Security-Policy: %s", policy)
	}
	for _, script := range []string{"redoc.standalone.js", "init.js"} {
		s.get("/docs/"+script, "*/*").want(t, 200)
	}
	if _, noScript, _ := strings.Cut(string(page.body), "<noscript>"); !strings.Contains(noScript, "operationId: putSession") {
		t.Error("without JavaScript the page shows nothing")
	}
	cmd := exec.CommandContext(t.Context(), chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--user-data-dir="+t.TempDir(),
		"--virtual-time-budget=20000", "--timeout=40000", "--dump-dom", s.URL+"/docs")
	cmd.Stderr = io.Discard
	dom, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Store a session", "Rotate the ticket keys by one step", `id="section/Problems/invalid_ticket_keys"`} {
		if !bytes.Contains(dom, []byte(want)) {
			t.Errorf("the page has no %q", want)
		}
	}
}

// The licence that the reference page's script names is served beside it.
func TestLicencesOfDocs(t *testing.T) {
	t.Parallel()
	s := startService(t)
	const script = "/docs/redoc.standalone.js"
	if !bytes.Contains(s.get(script, "*/*").want(t, 200).body, []byte("redoc.standalone.js.LICENSE.txt")) {
		t.Error("the script names another file")
	}
	for path, want := range map[string]string{script + ".LICENSE.txt": "@license", "/docs/redoc.LICENSE.txt": "MIT License"} {
		a := s.get(path, "*/*").want(t, 200)
		if !bytes.Contains(a.body, []byte(want)) || a.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s: %s %.100s", path, a.Header.Get("Content-Type"), a.body)
		}
	}
}
