package app

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/files"
)

// identity is a certificate with its key, as PEM and for crypto/tls.
type identity struct {
	cert, key []byte
	pair      tls.Certificate
}

// newIdentity makes a certificate for localhost and for clients, signed by the parent
// or by itself.
func newIdentity(t *testing.T, name string, parent *identity) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost", "sessapi.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, IsCA: parent == nil,
	}
	signer, signKey := template, any(key)
	if parent != nil {
		signer, signKey = parent.pair.Leaf, parent.pair.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, key.Public(), signKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	id := identity{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
	if id.pair, err = tls.X509KeyPair(id.cert, id.key); err != nil {
		t.Fatal(err)
	}
	return id
}

func (id identity) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(id.pair.Leaf)
	return pool
}

// write writes data to path atomically.
func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// tlsSettings are those of a service with this certificate.
func tlsSettings(t *testing.T, id identity) config.Config {
	t.Helper()
	dir := t.TempDir()
	c := settings()
	c.TLSCert, c.TLSKey = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, c.TLSCert, id.cert)
	write(t, c.TLSKey, id.key)
	return c
}

func (a *App) address(listener int) string { return a.servers[listener].Addr().String() }

// handshake connects, makes a request so that TLS 1.3 tickets arrive, and returns the
// connection state.
func handshake(t *testing.T, address string, c *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", address, c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return conn.ConnectionState(), err
	}
	_, err = io.ReadAll(conn)
	return conn.ConnectionState(), err
}

func TestTLS(t *testing.T) {
	id := newIdentity(t, "server", nil)
	c := tlsSettings(t, id)
	c.OpsListen = &config.Address{Network: "tcp", Address: "127.0.0.1:0"}
	s := start(t, c)
	for i := range s.servers {
		for _, http2 := range []bool{false, true} {
			var protocols http.Protocols
			protocols.SetHTTP1(!http2)
			protocols.SetHTTP2(http2)
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: id.pool()}, Protocols: &protocols}}
			path := []string{"/livez", "/status"}[i]
			response, err := client.Get("https://" + s.address(i) + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusOK || (response.ProtoMajor == 2) != http2 {
				t.Errorf("listener %d: %s %d", i, response.Proto, response.StatusCode)
			}
			client.CloseIdleConnections()
		}
		if _, err := handshake(t, s.address(i), &tls.Config{RootCAs: id.pool(), MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
			t.Error("TLS 1.1 is served")
		}
	}
	_, body := do(t, &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: id.pool()}}}, "GET", "https://"+s.address(0)+"/metrics", nil)
	for _, want := range []string{"sessapi_tls_reload_failures_total 0", "sessapi_tls_certificate_not_after_timestamp_seconds 1."} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("there is no %s", want)
		}
	}
}

// The keys of the ring cannot make a ticket that the service accepts. A server that
// uses these keys accepts it.
func TestRingKeysForgeNoTicket(t *testing.T) {
	id := newIdentity(t, "server", nil)
	s := start(t, tlsSettings(t, id))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: id.pool()}}}
	status, body := do(t, client, "GET", "https://"+s.address(0)+"/ticket-keys?format=go", nil)
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	var seeds [][32]byte
	for line := range strings.Lines(body) {
		seed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, [32]byte(seed))
	}
	forgery := &tls.Config{Certificates: []tls.Certificate{id.pair}, NextProtos: []string{"http/1.1"}}
	forgery.SetSessionTicketKeys(seeds)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", forgery)
	if err != nil {
		t.Fatal(err)
	}
	forger := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = forger.Serve(listener) }()
	t.Cleanup(func() { _ = forger.Close() })

	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := &tls.Config{
			RootCAs: id.pool(), ServerName: "localhost", NextProtos: []string{"http/1.1"},
			MinVersion: version, MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1),
		}
		for i, test := range []struct {
			address string
			resumes bool
		}{
			{listener.Addr().String(), false},
			{listener.Addr().String(), true}, // the ticket is good
			{s.address(0), false},            // not for the service
			{s.address(0), true},             // the service has its own tickets
		} {
			state, err := handshake(t, test.address, c)
			if err != nil {
				t.Fatal(err)
			}
			if state.DidResume != test.resumes || state.Version != version {
				t.Errorf("%x, step %d: resumed %v", version, i, state.DidResume)
			}
		}
	}
}

// New files are served without a restart, broken ones are not.
func TestTLSReload(t *testing.T) {
	one, two := newIdentity(t, "one", nil), newIdentity(t, "two", nil)
	c := tlsSettings(t, one)
	s := start(t, c)
	served := func() string {
		state, err := handshake(t, s.address(0), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].Subject.CommonName
	}
	await := func(what string, condition func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s did not happen", what)
			}
		}
	}
	write(t, c.TLSCert, two.cert) // its key is still missing
	await("a failure", func() bool { return s.tls.Status().Failures == 1 })
	if got := served(); got != "one" {
		t.Errorf("half a pair is served: %s", got)
	}
	write(t, c.TLSKey, two.key)
	await("the new certificate", func() bool { return served() == "two" })
	write(t, c.TLSCert, []byte("no certificate"))
	await("a failure", func() bool { return s.tls.Status().Failures == 2 })
	s.tls.Reload()
	if got := s.tls.Status().Failures; got != 3 {
		t.Errorf("a reload that was asked for: %d failures", got)
	}
	if got := served(); got != "two" {
		t.Errorf("a broken certificate put %s in place", got)
	}
}

// The audit log records the initial ticket keys, and each certificate and CA before it
// is served. Those that it cannot record are not served.
func TestAuditedByItself(t *testing.T) {
	one, two := newIdentity(t, "one", nil), newIdentity(t, "two", nil)
	c := tlsSettings(t, one)
	c.TLSClientCA, c.AuditLog = filepath.Join(t.TempDir(), "ca.pem"), filepath.Join(t.TempDir(), "audit.log")
	write(t, c.TLSClientCA, one.cert)
	s := start(t, c)
	events := func() (all []audit.Event) {
		t.Helper()
		data, err := os.ReadFile(c.AuditLog)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			var e audit.Event
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		return all
	}
	hash := func(id identity) string { return fmt.Sprintf("%x", sha256.Sum256(id.pair.Leaf.Raw)) }
	got := events()
	if len(got) != 2 {
		t.Fatalf("%+v", got)
	}
	if e := got[0]; e.Operation != "ticket keys" || e.Outcome != audit.Applied || e.Source != "start" ||
		e.Before != nil || e.After.Generation != s.handlers.Ring.Generation() || len(e.After.Fingerprints) != 3 {
		t.Errorf("%+v", e)
	}
	if e := got[1]; e.Operation != "tls certificate" || e.Outcome != audit.Applied || !strings.Contains(e.Detail, hash(one)) {
		t.Errorf("%+v", e)
	}
	write(t, c.TLSClientCA, two.cert)
	s.tls.Reload()
	if got = events(); len(got) != 3 || !strings.Contains(got[2].Detail, fmt.Sprintf("%x", sha256.Sum256(two.cert))) {
		t.Errorf("%+v", got)
	}
	if err := s.handlers.Audit.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, c.TLSClientCA, one.cert)
	s.tls.Reload()
	if s.tls.Status().Failures == 0 || len(events()) != 3 || s.tls.Trusts([][]*x509.Certificate{{one.pair.Leaf}}) {
		t.Error("a CA is taken that was not recorded")
	}
}

// Without a policy, everything except health needs a client certificate. One signed by
// a former CA is rejected, and so is a session that it began.
func TestClientCertificates(t *testing.T) {
	server, ca, other := newIdentity(t, "server", nil), newIdentity(t, "CA", nil), newIdentity(t, "other CA", nil)
	c := tlsSettings(t, server)
	c.TLSClientCA = filepath.Join(t.TempDir(), "ca.pem")
	write(t, c.TLSClientCA, ca.cert)
	s := start(t, c)
	get := func(path string, sessions tls.ClientSessionCache, certs ...tls.Certificate) (int, error) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
			RootCAs: server.pool(), Certificates: certs, ClientSessionCache: sessions,
		}, DisableKeepAlives: true}}
		response, err := client.Get("https://" + s.address(0) + path)
		if err != nil {
			return 0, err
		}
		_, _ = io.Copy(io.Discard, response.Body)
		return response.StatusCode, response.Body.Close()
	}
	good, bad := newIdentity(t, "client", &ca).pair, newIdentity(t, "client", &other).pair
	sessions := tls.NewLRUClientSessionCache(1)
	for _, test := range []struct {
		path  string
		certs []tls.Certificate
		want  int
	}{
		{"/ticket-keys", nil, 401},
		{"/readyz", nil, 200},
		{"/ticket-keys", []tls.Certificate{good}, 200},
	} {
		if status, err := get(test.path, nil, test.certs...); status != test.want {
			t.Errorf("%s with %d certificates: %d %v", test.path, len(test.certs), status, err)
		}
	}
	if status, err := get("/ticket-keys", sessions, good); status != 200 { // for a session to resume
		t.Errorf("%d %v", status, err)
	}
	// Go's client leaves out a certificate of a CA that the server does not name.
	if status, _ := get("/ticket-keys", nil, bad); status == 200 {
		t.Error("a certificate of another CA is taken")
	}
	write(t, c.TLSClientCA, other.cert)
	s.tls.Reload()
	if status, _ := get("/ticket-keys", sessions, good); status == 200 {
		t.Error("a certificate of a former CA is taken")
	}
	if status, err := get("/ticket-keys", nil, bad); status != 200 {
		t.Errorf("a certificate of the new CA: %d %v", status, err)
	}
}

// Removing a CA also ends the trust in its certificates on open connections. Other
// connections are unaffected.
func TestFormerCAOnKeptConnections(t *testing.T) {
	server, former, kept := newIdentity(t, "server", nil), newIdentity(t, "former CA", nil), newIdentity(t, "CA", nil)
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, policy, []byte("identities: [{name: a, roles: [admin], certificates: [{dns: sessapi.example}]}]"))
	for _, policy := range []string{"", policy} {
		c := tlsSettings(t, server)
		c.Policy = policy
		c.TLSClientCA = filepath.Join(t.TempDir(), "ca.pem")
		write(t, c.TLSClientCA, append(bytes.Clone(former.cert), kept.cert...))
		s := start(t, c)
		for _, http2 := range []bool{false, true} {
			write(t, c.TLSClientCA, append(bytes.Clone(former.cert), kept.cert...))
			s.tls.Reload()
			var protocols http.Protocols
			protocols.SetHTTP1(!http2)
			protocols.SetHTTP2(http2)
			client := func(has *identity) func() int {
				client := &http.Client{Transport: &http.Transport{Protocols: &protocols, TLSClientConfig: &tls.Config{
					RootCAs:              server.pool(),
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &has.pair, nil },
				}}}
				t.Cleanup(client.CloseIdleConnections)
				return func() int {
					status, _ := do(t, client, "GET", "https://"+s.address(0)+"/ticket-keys", nil)
					return status
				}
			}
			ofFormer, ofKept := newIdentity(t, "client", &former), newIdentity(t, "client", &kept)
			one, two := client(&ofFormer), client(&ofKept)
			if one() != 200 || two() != 200 {
				t.Fatal("the certificates are not taken")
			}
			write(t, c.TLSClientCA, kept.cert)
			s.tls.Reload()
			if got := one(); got != 401 {
				t.Errorf("policy %q, HTTP/2 %v: of a former CA: %d", policy, http2, got)
			}
			if got := two(); got != 200 {
				t.Errorf("policy %q, HTTP/2 %v: of a CA that stays: %d", policy, http2, got)
			}
			ofFormer = ofKept
			if got := one(); got != 200 {
				t.Errorf("policy %q, HTTP/2 %v: with the next certificate: %d", policy, http2, got)
			}
		}
	}
}

func TestTLSFails(t *testing.T) {
	id := newIdentity(t, "server", nil)
	for name, change := range map[string]func(c *config.Config){
		"no certificate": func(c *config.Config) { c.TLSCert += ".missing" },
		"no key":         func(c *config.Config) { c.TLSKey += ".missing" },
		"other key":      func(c *config.Config) { write(t, c.TLSKey, newIdentity(t, "other", nil).key) },
		"no CA":          func(c *config.Config) { c.TLSClientCA = c.TLSKey + ".missing" },
		"key as CA":      func(c *config.Config) { c.TLSClientCA = c.TLSKey },
		"empty CA":       func(c *config.Config) { c.TLSClientCA = os.DevNull },
		"large": func(c *config.Config) {
			write(t, c.TLSCert, bytes.Repeat([]byte{'\n'}, files.MaxPEM+1))
		},
	} {
		c := tlsSettings(t, id)
		change(&c)
		if _, err := loadTLS(c, slog.New(slog.DiscardHandler), nil); err == nil || !strings.HasPrefix(err.Error(), "--tls-") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// healthcheck trusts only the certificate in the settings.
func TestHealthcheckTLS(t *testing.T) {
	id := newIdentity(t, "server", nil)
	c := tlsSettings(t, id)
	c.TLSClientCA = c.TLSCert
	s := start(t, c)
	c.Listen.Address = s.address(0)
	if err := Healthcheck(t.Context(), c); err != nil {
		t.Error(err)
	}
	other := tlsSettings(t, newIdentity(t, "server", nil))
	other.Listen.Address = s.address(0)
	if err := Healthcheck(t.Context(), other); err == nil {
		t.Error("another certificate is trusted")
	}
	plain := c
	plain.TLSCert, plain.TLSKey, plain.TLSClientCA = "", "", ""
	if err := Healthcheck(t.Context(), plain); err == nil || !strings.Contains(err.Error(), "answers 400 Bad Request: healthcheck needs the service's settings") {
		t.Errorf("without --tls-cert: %v", err)
	}
}

// Only the host names in the settings and the certificate are accepted.
func TestServiceNames(t *testing.T) {
	id := newIdentity(t, "server", nil)
	c := tlsSettings(t, id)
	c.AllowedHosts = []string{"allowed.example"}
	s := start(t, c)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: id.pool(), ServerName: "localhost"}}}
	for host, want := range map[string]int{"sessapi.example": 200, "allowed.example:1": 200, "evil.example": 403} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.address(0)+"/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %d, want %d", host, response.StatusCode, want)
		}
	}
}
