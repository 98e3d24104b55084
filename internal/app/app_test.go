package app

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/logtest"
	"github.com/sessapi/sessapi/internal/seal"
	"github.com/sessapi/sessapi/internal/state"
)

// settings returns the settings of a service on a free port.
func settings() config.Config {
	return config.Config{
		Listen:            config.Address{Network: "tcp", Address: "127.0.0.1:0"},
		Cache:             true,
		CacheMemory:       1 << 20,
		SessionMaxBytes:   16 << 10,
		SessionDefaultTTL: time.Minute,
		SessionMaxTTL:     time.Hour,
		MaxConnections:    64,
	}
}

func start(t *testing.T, c config.Config) *App {
	t.Helper()
	a, err := New(c, "v0.0.0-test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a.Start(nil)
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func (a *App) url(listener int) string {
	return "http://" + a.address(listener)
}

// do makes a request and returns the status and the body.
func do(t *testing.T, client *http.Client, method, url string, body []byte) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// A person who types only the address is redirected to the console, a program to the
// documentation.
func TestRoot(t *testing.T) {
	url := start(t, settings()).url(0) + "/"
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for accept, want := range map[string]string{
		"": "/docs", "*/*": "/docs", "application/json": "/docs", "text/html;q=0": "/docs", "text/html": "/console",
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "/console",
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", accept)
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if got := response.Header.Get("Location"); response.StatusCode != http.StatusFound || got != want {
			t.Errorf("GET / with Accept %q: %d to %q, want %q", accept, response.StatusCode, got, want)
		}
	}
}

// Counters for alerts exist before the first event: otherwise the first increase would
// be invisible.
func TestCountersFromTheStart(t *testing.T) {
	_, metrics := do(t, new(http.Client), "GET", start(t, settings()).url(0)+"/metrics", nil)
	for _, code := range []string{"overloaded", "internal", "unauthenticated"} {
		if !strings.Contains(metrics, `sessapi_http_problems_total{code="`+code+`"} 0`) {
			t.Errorf("no counter of %s", code)
		}
	}
}

// Two services in one process share nothing.
func TestTwoServices(t *testing.T) {
	a, b := start(t, settings()), start(t, settings())
	client := &http.Client{}
	if status, _ := do(t, client, "PUT", a.url(0)+"/sessions/01", []byte("x")); status != 201 {
		t.Fatalf("PUT: %d", status)
	}
	if status, _ := do(t, client, "GET", b.url(0)+"/sessions/01", nil); status != 404 {
		t.Errorf("the other service has the session: %d", status)
	}
	_, metricsA := do(t, client, "GET", a.url(0)+"/metrics", nil)
	_, metricsB := do(t, client, "GET", b.url(0)+"/metrics", nil)
	if !strings.Contains(metricsA, "\nsessapi_cache_entries 1\n") || !strings.Contains(metricsB, "\nsessapi_cache_entries 0\n") {
		t.Error("the services share their metrics")
	}
}

func TestOpsListener(t *testing.T) {
	c := settings()
	c.OpsListen = &config.Address{Network: "tcp", Address: "127.0.0.1:0"}
	s := start(t, c)
	const ops, main = 0, 1
	client := &http.Client{}
	for _, test := range []struct {
		path      string
		ops, main int
	}{
		{"/metrics", 200, 404},
		{"/livez", 200, 404},
		{"/readyz", 200, 404},
		{"/debug/pprof/", 200, 404},
		{"/debug/pprof/heap", 200, 404},
		{"/debug/pprof/nothing", 404, 404},
		{"/debug/vars", 404, 404},
		{"/status", 200, 200},
		{"/consumers", 200, 200},
		{"/console", 200, 200},
		{"/console/nothing.js", 404, 404},
		{"/console/index.html", 404, 404},
		{"/sessions", 404, 200},
		{"/ticket-keys", 404, 200},
		{"/docs", 200, 200},
		{"/", 200, 200}, // redirects to /docs
	} {
		if status, _ := do(t, client, "GET", s.url(ops)+test.path, nil); status != test.ops {
			t.Errorf("%s on the operations listener: %d, want %d", test.path, status, test.ops)
		}
		if status, _ := do(t, client, "GET", s.url(main)+test.path, nil); status != test.main {
			t.Errorf("%s on the main listener: %d, want %d", test.path, status, test.main)
		}
	}
	if status, _ := do(t, client, "GET", start(t, settings()).url(0)+"/debug/pprof/", nil); status != 404 {
		t.Errorf("profiles are on the only listener: %d", status)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	c := settings()
	c.Listen = config.Address{Network: "unix", Address: path}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()

	// A dead process has left its socket behind.
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()

	start(t, c)
	if status, _ := do(t, client, "GET", "http://localhost/livez", nil); status != 200 {
		t.Errorf("/livez: %d", status)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v (%v)", info.Mode(), err)
	}
	if _, err := New(c, "", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a socket that is served was taken over")
	}
	if status, _ := do(t, client, "GET", "http://localhost/livez", nil); status != 200 {
		t.Errorf("/livez after another start: %d", status)
	}

	file := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Listen.Address = file
	if _, err := New(c, "", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "precious exists and is not a socket") {
		t.Errorf("in the place of a file: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// h2c is served besides HTTP/1.1.
func TestHTTP2Cleartext(t *testing.T) {
	s := start(t, settings())
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url(0)+"/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.ProtoMajor != 2 || response.StatusCode != http.StatusOK {
		t.Errorf("%s %d", response.Proto, response.StatusCode)
	}
}

// Headers beyond the limit are rejected.
func TestHeaderLimit(t *testing.T) {
	s := start(t, settings())
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url(0)+"/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Large", strings.Repeat("x", 20<<10))
	response, err := (&http.Client{}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d", response.StatusCode)
	}
}

// A request in flight at shutdown is finished. Meanwhile probes see the service drain.
func TestDrain(t *testing.T) {
	c := settings()
	c.OpsListen = &config.Address{Network: "tcp", Address: "127.0.0.1:0"}
	s, err := New(c, "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.Start(nil)
	ops, main := s.url(0), s.url(1)

	conn, err := net.Dial("tcp", strings.TrimPrefix(main, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "PUT /sessions/01 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	for range 2 { // the service requests the body: the request is in flight
		if line, err := answers.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" && line != "\r\n" {
			t.Fatalf("%q %v", line, err)
		}
	}
	stopped := make(chan error)
	go func() { stopped <- s.Stop() }()
	client := &http.Client{}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		status, body := do(t, client, "GET", ops+"/readyz", nil)
		if status == 503 && strings.Contains(body, "draining") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz: %d %s", status, body)
		}
	}
	client.CloseIdleConnections()
	if _, err := io.WriteString(conn, "abcd"); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(answers)
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 201 ")) {
		t.Errorf("the request under way is answered with %q", answer)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// --insecure-listen permits exactly what its help says.
func TestInsecurity(t *testing.T) {
	for _, test := range []struct {
		c    config.Config
		want string
	}{
		{config.Config{}, "anyone who can connect"},
		{config.Config{TLSCert: "c"}, "anyone who can connect"},
		{config.Config{Policy: "p"}, "network path"},
		{config.Config{TLSCert: "c", Policy: "p"}, "no effect"},
		{config.Config{TLSCert: "c", TLSClientCA: "ca"}, "no effect"},
	} {
		if got := insecurity(test.c); !strings.Contains(got, test.want) {
			t.Errorf("%+v: %s", test.c, got)
		}
	}
}

// Files that others can change are warned about.
func TestLooseFiles(t *testing.T) {
	dir := t.TempDir()
	id := newIdentity(t, "server", nil)
	c := tlsSettings(t, id)
	c.AuditLog, c.StateFile, c.SealKeyFile = filepath.Join(dir, "audit"), filepath.Join(dir, "state"), filepath.Join(dir, "seal")
	c.TLSClientCA, c.Policy = filepath.Join(dir, "ca"), filepath.Join(dir, "policy")
	write(t, c.SealKeyFile, seal.GenerateKey())
	write(t, c.TLSClientCA, id.cert)
	write(t, c.Policy, []byte("identities: [{name: a, roles: [admin], uids: [0]}]"))
	for _, path := range []string{"", c.AuditLog, c.StateFile, c.StateFile + ".sessions", c.SealKeyFile, c.TLSClientCA, c.Policy, c.TLSKey} {
		if path != "" { // after the first start all files exist
			if err := os.Chmod(path, 0o622); err != nil {
				t.Fatal(err)
			}
		}
		var out logtest.Buffer
		s, err := New(c, "", slog.New(slog.NewTextHandler(&out, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "level=WARN"); path == "" && got != 0 || path != "" && (got != 1 || !strings.Contains(out.String(), "path="+path+" mode=-rw--w--w-")) {
			t.Errorf("%s: %s", path, &out)
		}
		if path != "" {
			_ = os.Chmod(path, 0o600)
		}
	}
}

// A call that hangs is abandoned at the deadline. One that ends before returns its
// error.
func TestWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), stopTimeout)
		defer cancel()
		release := make(chan struct{})
		defer close(release)
		if err := within(ctx, func() error { <-release; return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := within(t.Context(), func() error { return os.ErrInvalid }); !errors.Is(err, os.ErrInvalid) {
			t.Error(err)
		}
	})
}

// A start that fails leaves nothing behind.
func TestFailedStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	c := settings()
	c.OpsListen = &config.Address{Network: "tcp", Address: address}
	c.Listen.Address = taken.Addr().String()
	if _, err := New(c, "", slog.New(slog.DiscardHandler)); err == nil {
		t.Fatal("an address that is in use was taken")
	}
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Errorf("the other listener was left behind: %v", err)
	} else {
		_ = again.Close()
	}
}

// A state that can be unsealed but is invalid causes an error that says what to do.
func TestInvalidState(t *testing.T) {
	c := settings()
	dir := t.TempDir()
	c.StateFile, c.SealKeyFile = filepath.Join(dir, "state"), filepath.Join(dir, "seal.key")
	if err := os.WriteFile(c.SealKeyFile, seal.GenerateKey(), 0o600); err != nil {
		t.Fatal(err)
	}
	sealKeys, err := readSealKeys(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f, err := state.Open(c.StateFile, sealKeys, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Save(t.Context(), []byte("not a state")), f.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = New(c, "", slog.New(slog.DiscardHandler))
	if !errors.Is(err, keys.ErrInvalidState) || !strings.Contains(err.Error(), c.StateFile) || !strings.Contains(err.Error(), "move it away") {
		t.Error(err)
	}
}

func TestTicketKeyFileAtStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ticket.key")
	c := settings()
	c.TicketKeyFile = path
	if _, err := New(c, "", slog.New(slog.DiscardHandler)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing key file: %v", err)
	}
	record := make([]byte, 48)
	_, _ = rand.Read(record)
	if err := os.WriteFile(path, record[:47], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(c, "", slog.New(slog.DiscardHandler)); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a broken key file: %v", err)
	}
	if err := os.WriteFile(path, record, 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, c)
	if _, body := do(t, &http.Client{}, "GET", s.url(0)+"/ticket-keys", nil); !strings.Contains(body, `"source":"file"`) {
		t.Errorf("/ticket-keys: %s", body)
	}
}
