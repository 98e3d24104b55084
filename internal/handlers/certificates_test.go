package handlers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
)

func TestRequireClientCertificate(t *testing.T) {
	a := newAPI(t)
	a.cfg.RequireClientCertificate = true
	verified := func(c *x509.Certificate) *tls.ConnectionState {
		return &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{c}}}
	}
	valid := &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}
	former := &x509.Certificate{NotAfter: valid.NotAfter}
	a.cfg.TrustsClient = func(chains [][]*x509.Certificate) bool { return chains[0][0] != former }
	for _, test := range []struct {
		path string
		tls  *tls.ConnectionState
		want int
	}{
		{"/ticket-keys?format=go", &tls.ConnectionState{}, 401},
		{"/ticket-keys?format=go", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}, 401},
		{"/nothing", &tls.ConnectionState{}, 401},
		{"/debug/pprof/", &tls.ConnectionState{}, 401},
		{"/livez", &tls.ConnectionState{}, 200},
		{"/readyz", &tls.ConnectionState{}, 200},
		{"/ticket-keys?format=go", verified(valid), 200},
		{"/ticket-keys?format=go", verified(&x509.Certificate{NotAfter: time.Now().Add(-time.Second)}), 401},
		{"/ticket-keys?format=go", verified(former), 401},
		{"/ticket-keys?format=go", nil, 200}, // the loopback or a Unix socket
	} {
		r := httptest.NewRequest(http.MethodGet, test.path, nil)
		r.TLS = test.tls
		for name, h := range map[string]http.Handler{"main": a.Handler(), "operations": a.OpsHandler()} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != test.want && (name == "main" || test.want == 401) {
				t.Errorf("%s %s %v: %d, want %d", name, test.path, test.tls != nil, w.Code, test.want)
			}
		}
	}
}

// A client that waited for a change and is no longer trusted does not get the keys.
func TestTrustEndsWhileWaiting(t *testing.T) {
	a := newAPI(t)
	a.cfg.RequireClientCertificate = true
	var trusted atomic.Bool
	trusted.Store(true)
	a.cfg.TrustsClient = func([][]*x509.Certificate) bool { return trusted.Load() }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/ticket-keys?format=go", nil)
	r.Header.Set("If-None-Match", generationETag(a.cfg.Ring.Generation()))
	r.Header.Set("Prefer", "wait=600")
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{NotAfter: time.Now().Add(time.Hour)}}}}
	w := httptest.NewRecorder()
	answered := make(chan struct{})
	go func() { a.Handler().ServeHTTP(w, r); close(answered) }()
	for a.Waiting() == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	trusted.Store(false)
	if _, err := a.cfg.Ring.Rotate(t.Context(), keys.Update{}); err != nil {
		t.Fatal(err)
	}
	<-answered
	if w.Code != http.StatusUnauthorized {
		t.Errorf("answered %d", w.Code)
	}
}
