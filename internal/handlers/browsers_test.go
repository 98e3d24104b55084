package handlers

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestHosts(t *testing.T) {
	a := newAPI(t)
	a.cfg.AllowedHosts = []string{"sessapi.example", "*.wild.example"}
	a.cfg.CertificateNames = func() []string { return []string{"cert.example"} }
	h := a.Handler()
	for host, want := range map[string]int{
		"127.0.0.1":                   200,
		"127.0.0.1:8440":              200,
		"10.1.2.3:80":                 200,
		"[::1]":                       200,
		"[2001:db8::1]:8440":          200,
		"localhost":                   200,
		"LocalHost:8440":              200,
		"localhost.:8440":             200,
		"app.localhost:8440":          200,
		"sessapi.example":             200,
		"SESSAPI.example:8440":        200,
		"cert.example:443":            200,
		"a.wild.example":              200,
		"a.b.wild.example":            403,
		"wild.example":                403,
		".wild.example":               403,
		"evil.example":                403,
		"evil.example:8440":           403,
		"notlocalhost":                403,
		"localhost.evil.example":      403,
		"127.0.0.1.evil.example":      403,
		"sessapi.example.evil.com":    403,
		"evil.sessapi.example":        403,
		"1.2.3.4.5":                   403,
		"":                            200,
		"[::1].evil.example":          403,
		"evil.example:80@127.0.0.1:1": 403,
	} {
		r := httptest.NewRequest(http.MethodGet, "/status", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want || want == 403 && !strings.Contains(w.Body.String(), `"code":"forbidden"`) {
			t.Errorf("%q: %d %s, want %d", host, w.Code, w.Body, want)
		}
		for path := range healthPaths {
			health := httptest.NewRequest(http.MethodGet, path, nil)
			health.Host = host
			w := httptest.NewRecorder()
			if h.ServeHTTP(w, health); w.Code != 200 {
				t.Errorf("%s under %q: %d %s", path, host, w.Code, w.Body)
			}
		}
		local := context.WithValue(r.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "s.sock", Net: "unix"})
		w = httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(local))
		if w.Code != 200 {
			t.Errorf("%q over a Unix socket: %d", host, w.Code)
		}
	}
}

func TestCrossOrigin(t *testing.T) {
	a := newAPI(t)
	a.cfg.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	h := a.Handler()
	for _, test := range []struct {
		method, path string
		headers      []string
		want         int
	}{
		{"POST", "/ticket-keys/rotate", nil, 200},
		{"POST", "/ticket-keys/rotate", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"POST", "/ticket-keys/rotate", []string{"Origin", "http://example.com"}, 200},
		{"POST", "/ticket-keys/rotate", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"POST", "/ticket-keys/rotate", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"POST", "/ticket-keys/rotate", []string{"Origin", "http://evil.example"}, 403},
		{"POST", "/ticket-keys/rotate", []string{"Origin", "null"}, 403},
		{"DELETE", "/sessions", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"PUT", "/sessions/01", []string{"Origin", "http://evil.example"}, 403},
		{"GET", "/status", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"GET", "/status", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"GET", "/status", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"GET", "/status", []string{"Sec-Fetch-Site", "none"}, 200},
		{"GET", "/ticket-keys?format=ats", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"HEAD", "/ticket-keys?format=ats", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"GET", "/sessions", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"GET", "/sessions/01", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"GET", "/metrics", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"GET", "/metrics", nil, 200},
		{"GET", "/docs", []string{"Sec-Fetch-Site", "cross-site"}, 200},
		{"GET", "/openapi.json", []string{"Sec-Fetch-Site", "same-site"}, 200},
		{"GET", "/livez", []string{"Sec-Fetch-Site", "cross-site"}, 200},
	} {
		w := serve(h, test.method, test.path, nil, test.headers...)
		if w.Code != test.want {
			t.Errorf("%s %s %v: %d %s, want %d", test.method, test.path, test.headers, w.Code, w.Body, test.want)
		}
		if got := w.Header().Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("another origin may read it: %s", got)
		}
	}
}

// The checks of browsers cost other clients next to nothing.
func TestForeignPagesCost(t *testing.T) {
	a := newAPI(t)
	names := []string{"cert.example", "*.example.net"}
	a.cfg.CertificateNames = func() []string { return names }
	a.cfg.RequireClientCertificate = true
	h := a.refuseForeignPages(a.checkClientCertificate(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	for _, host := range []string{"127.0.0.1:8440", "[2001:db8::1]:8440", "localhost", "cert.example:8440", "a.example.net"} {
		r := httptest.NewRequest(http.MethodPut, "/sessions/01", nil)
		r.Host = host
		w := httptest.NewRecorder()
		if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(w, r) }); n != 0 {
			t.Errorf("%s: %v allocations", host, n)
		}
	}
}

func BenchmarkForeignPages(b *testing.B) {
	h := newAPI(b).refuseForeignPages(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest(http.MethodGet, "/sessions/01", nil)
	r.Host = "127.0.0.1:8440"
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}

// FuzzHost accepts any Host. A host that passes is an address, local, or allowed.
func FuzzHost(f *testing.F) {
	for _, seed := range []string{"127.0.0.1:8440", "[::1]", "[", "]:", ":", "localhost", "a.wild.example:1", "[fe80::1%eth0]:1", "\x00", "1"} {
		f.Add(seed)
	}
	a := newAPI(f)
	a.cfg.AllowedHosts = []string{"sessapi.example", "*.wild.example"}
	f.Fuzz(func(t *testing.T, host string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		if !a.isOwnHost(r) {
			return
		}
		name := strings.ToLower(hostOf(host))
		_, err := netip.ParseAddr(name)
		if name != "" && err != nil && name != "localhost" && name != "sessapi.example" &&
			!strings.HasSuffix(name, ".localhost") && !strings.HasSuffix(name, ".wild.example") {
			t.Errorf("%q is taken for the service's own", host)
		}
	})
}
