package kubernetes

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// fakeServer answers with what the test sets. The tests with a real API server are in
// test/e2e.
type fakeServer struct {
	*httptest.Server
	status int
	header [2]string
	answer string

	request *http.Request
	body    string
}

func newFakeServer(t *testing.T) (*fakeServer, *Config) {
	t.Helper()
	f := &fakeServer{status: http.StatusOK}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		f.request, f.body = r, string(body)
		if f.header[0] != "" {
			w.Header().Set(f.header[0], f.header[1])
		}
		w.WriteHeader(f.status)
		_, _ = io.WriteString(w, f.answer)
	}))
	t.Cleanup(f.Close)
	dir := t.TempDir()
	c := &Config{Server: f.URL, ca: source{path: filepath.Join(dir, "ca.pem")}, token: source{path: filepath.Join(dir, "token")}}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	for path, data := range map[string][]byte{c.ca.path: ca, c.token.path: []byte("first")} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f, c
}

var secret = Reference{Secret, "edge", "keys"}

func TestGet(t *testing.T) {
	f, config := newFakeServer(t)
	c := New(config, time.Minute)
	f.answer = `{"kind": "Secret", "metadata": {"resourceVersion": "7", "annotations": {"a/b": "c"}, "managedFields": [
		{"manager": "me", "operation": "Apply", "fieldsV1": {"f:data": {".": {}, "f:two": {}, "f:one": {}}, "f:metadata": {}}},
		{"manager": "me", "operation": "Update", "fieldsV1": {"f:data": {"f:three": {}}}},
		{"manager": "other", "operation": "Apply", "fieldsV1": {"f:data": {"f:one": {}}}}]},
		"data": {"one": "YQ==", "text": "8m", "empty": ""}}`
	o, err := c.Get(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	if f.request.Method != http.MethodGet || f.request.URL.String() != "/api/v1/namespaces/edge/secrets/keys" || f.request.Header.Get("Authorization") != "Bearer first" {
		t.Errorf("%+v", f.request)
	}
	if o.Version() != "7" || o.Annotation("a/b") != "c" || o.Annotation("a") != "" {
		t.Errorf("%q %q", o.Version(), o.annotations)
	}
	for _, test := range []struct {
		name, content string
		want          bool
	}{{"one", "a", true}, {"one", "b", false}, {"one", "", false}, {"text", "8m", false}, {"empty", "", true}, {"none", "", false}} {
		if got := o.Has(Entry{test.name, []byte(test.content)}); got != test.want {
			t.Errorf("%s %q: %v", test.name, test.content, got)
		}
	}
	if got := o.Applied("me"); !reflect.DeepEqual(got, []string{"one", "two"}) {
		t.Errorf("applied %q", got)
	}
	if got := o.Appliers("one"); !reflect.DeepEqual(got, []string{"me", "other"}) {
		t.Errorf("appliers %q", got)
	}
	if got := o.Appliers("three"); got != nil {
		t.Errorf("appliers %q", got)
	}
	o.Wipe()
	if o.Has(Entry{"one", []byte("a")}) {
		t.Error("a wiped entry is there")
	}

	f.status, f.answer = http.StatusNotFound, `{"kind": "Status", "message": "secrets \"keys\" not found"}`
	if o, err := c.Get(t.Context(), secret); o != nil || err != nil || o.Version() != "" {
		t.Errorf("%+v, %v", o, err)
	}
	f.status, f.answer = http.StatusOK, `{"data": "secret"}`
	if o, err := c.Get(t.Context(), secret); o != nil || err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%+v, %v", o, err)
	}
	f.answer = strings.Repeat(" ", maxAnswer+1)
	if o, err := c.Get(t.Context(), secret); o != nil || err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%+v, %v", o, err)
	}
	f.status, f.header, f.answer = http.StatusFound, [2]string{"Location", f.URL + "/elsewhere"}, ""
	if o, err := c.Get(t.Context(), secret); o != nil || err == nil || f.request.URL.Path == "/elsewhere" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestApply(t *testing.T) {
	f, config := newFakeServer(t)
	entries := []Entry{{"one", []byte("a")}, {"two", bytes.Repeat([]byte{0xff}, 80)}}
	if err := New(config, time.Minute).Apply(t.Context(), Reference{ConfigMap, "edge", "keys"}, "me", "7", map[string]string{"a/b": `"c"`, "d": "e"}, entries); err != nil {
		t.Fatal(err)
	}
	if f.request.Method != http.MethodPatch || f.request.URL.String() != "/api/v1/namespaces/edge/configmaps/keys?fieldManager=me&fieldValidation=Strict&force=true" ||
		f.request.Header.Get("Content-Type") != "application/apply-patch+yaml" {
		t.Errorf("%+v", f.request)
	}
	want := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"keys","namespace":"edge","resourceVersion":"7","annotations":{"a/b":"\"c\"","d":"e"}},` +
		`"data":{"one":"YQ==","two":"` + strings.Repeat("////", 26) + `//8="}}`
	if f.body != want || !json.Valid([]byte(f.body)) {
		t.Errorf("got  %s\nwant %s", f.body, want)
	}
	body := marshal(secret, "7", nil, entries)
	if cap(body) > len(body)+len(body)/4+64 {
		t.Errorf("%d bytes in %d", len(body), cap(body))
	}
}

func TestErrors(t *testing.T) {
	f, config := newFakeServer(t)
	c := New(config, time.Minute)
	for _, test := range []struct {
		status     int
		retryAfter string
		message    string
		want       string
		wait       time.Duration
	}{
		{http.StatusUnauthorized, "", "Unauthorized", "does not accept the credentials (401)", 0},
		{http.StatusForbidden, "", `User \"u\" cannot get resource \"secrets\"`, `does not allow it (403): User "u" cannot get resource "secrets"`, 0},
		{http.StatusTooManyRequests, "7", "too many", "is busy (429): too many", 7 * time.Second},
		{http.StatusTooManyRequests, "soon", "too many", "is busy (429): too many", 0},
		{http.StatusConflict, "", "modified", "answers 409: modified", 0},
		{http.StatusInternalServerError, "", "\\u001b[31m", "answers 500: �[31m", 0},
		{http.StatusServiceUnavailable, "1", "", "answers 503: Service Unavailable", time.Second},
	} {
		f.status, f.header, f.answer = test.status, [2]string{"Retry-After", test.retryAfter}, `{"message": "`+test.message+`"}`
		_, err := c.Get(t.Context(), secret)
		e, ok := errors.AsType[*Error](err)
		if !ok || !strings.HasSuffix(e.Error(), test.want) && test.status != http.StatusUnauthorized || !strings.Contains(e.Error(), test.want) || e.RetryAfter != test.wait ||
			e.Conflict() != (test.status == http.StatusConflict) {
			t.Errorf("%d: %v, want %q", test.status, err, test.want)
		}
	}
	f.answer = "<html>"
	if _, err := c.Get(t.Context(), secret); err == nil || !strings.Contains(err.Error(), "Service Unavailable") {
		t.Errorf("%v", err)
	}
}

// Credentials and certificates are those that the files have now.
func TestFilesAreReadAgain(t *testing.T) {
	f, config := newFakeServer(t)
	c := New(config, time.Minute)
	write := func(path string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := os.ReadFile(config.ca.path)
	if err != nil {
		t.Fatal(err)
	}
	f.answer = "{}"
	for _, token := range []string{"first", "second\n"} {
		write(config.token.path, []byte(token))
		if _, err := c.Get(t.Context(), secret); err != nil || f.request.Header.Get("Authorization") != "Bearer "+strings.TrimSpace(token) {
			t.Errorf("%v", err)
		}
	}
	stranger, _ := selfSigned(t)
	write(config.ca.path, stranger)
	f.CloseClientConnections()
	_, err = c.Get(t.Context(), secret)
	if err == nil || !strings.Contains(err.Error(), "unknown authority; the certificates to trust are those of "+config.ca.path) {
		t.Errorf("%v", err)
	}
	write(config.ca.path, ca)
	if _, err := c.Get(t.Context(), secret); err != nil {
		t.Error(err)
	}
	if err := os.Remove(config.token.path); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), secret); err == nil || !strings.HasPrefix(err.Error(), config.token.path+": ") {
		t.Errorf("%v", err)
	}
	f.Close()
	write(config.token.path, []byte("third"))
	if _, err := c.Get(t.Context(), secret); err == nil || !strings.HasPrefix(err.Error(), "API server "+f.URL+": ") || strings.Contains(err.Error(), "/api/v1") {
		t.Errorf("%v", err)
	}
}

// A client certificate that has been renewed replaces the one of a connection that is open.
func TestRenewedClientCertificate(t *testing.T) {
	var accepted []byte
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !bytes.Equal(r.TLS.PeerCertificates[0].Raw, accepted) {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = io.WriteString(w, "{}")
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	dir := t.TempDir()
	config := &Config{
		Server: server.URL, ca: source{data: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})},
		cert: source{path: filepath.Join(dir, "cert.pem")}, key: source{path: filepath.Join(dir, "key.pem")},
	}
	renew := func() {
		t.Helper()
		cert, key := selfSigned(t)
		for path, data := range map[string][]byte{config.cert.path: cert, config.key.path: key} {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		block, _ := pem.Decode(cert)
		accepted = block.Bytes
	}
	renew()
	c := New(config, time.Minute)
	if _, err := c.Get(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	renew()
	if _, err := c.Get(t.Context(), secret); err == nil || !strings.Contains(err.Error(), "(401)") {
		t.Errorf("with the certificate of before: %v", err)
	}
	if _, err := c.Get(t.Context(), secret); err != nil {
		t.Error(err)
	}
}

// Requests and connections to a server that accepts connections and never answers end.
func TestSilentServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c := New(&Config{Server: "https://" + listener.Addr().String()}, 100*time.Millisecond)
	if _, err := c.Get(t.Context(), secret); err == nil || !strings.Contains(err.Error(), "exceeded") {
		t.Errorf("%v", err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays open")
	}
}

// selfSigned returns a certificate that has signed no other, and its key.
func selfSigned(t *testing.T) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func FuzzParseObject(f *testing.F) {
	f.Add([]byte(`{"metadata": {"managedFields": [{"manager": "m", "operation": "Apply", "fieldsV1": {"f:data": {"f:a": {}}}}]}, "data": {"a": "YQ=="}}`))
	f.Add([]byte(`{"data": {"a": null, "b": 1}}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		o, err := parseObject(data)
		if err != nil {
			return
		}
		o.Has(Entry{"a", []byte("a")})
		o.Applied("m")
		o.Appliers("a")
		o.Wipe()
	})
}
