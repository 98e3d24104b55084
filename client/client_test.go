package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// described is a set of one key as the service describes it.
const described = `{"generation":7,"updated_at":"2026-11-24T20:31:02Z","source":"api","keys":[` +
	`{"name":"5c3a7f0e9b2d4c618f0a1b2c3d4e5f60","role":"current","bits":256,"fingerprint":"422d51ad3eb9527559044e224a606b0f","created_at":"2026-11-24T20:31:02Z"}]}`

// serve returns a client of a service that answers with the handler.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	c, err := New(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAddress(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:8440", "localhost:8440", "ftp://host", "http://", "unix:", "http://\x00", "http://user:password@host"} {
		if _, err := New(address); err == nil || strings.Contains(err.Error(), "password") {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := New("unix:/run/s.sock", WithHTTPClient(&http.Client{})); err == nil {
		t.Error("a Unix socket is taken along with an HTTP client that knows nothing of it")
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, described)
	})}}
	s.Start()
	defer s.Close()
	c, err := New("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := c.TicketKeys(t.Context()); err != nil || d.Generation != 7 {
		t.Errorf("%+v %v", d, err)
	}
}

// The token is that in the file at the time, and goes over no network in the
// clear.
func TestToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	var got string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		_, _ = io.WriteString(w, described)
	}))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	options := []Option{WithTokenFile(path), WithTLSConfig(&tls.Config{RootCAs: roots})}
	if _, err := New(s.URL, options...); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	write("")
	if _, err := New(s.URL, options...); err == nil {
		t.Error("an empty file has a token")
	}
	write("zero")
	c, err := New(s.URL, options...)
	if err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]string{"one\n": "Bearer one", "two": "Bearer two", "": "", "a b": "", strings.Repeat("x", maxToken+1): ""} {
		write(content)
		got = ""
		_, err := c.TicketKeys(t.Context())
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%.10q: sent %q, %v", content, got, err)
		}
	}
	write("last")
	for address, ok := range map[string]bool{"http://10.0.0.1": false, "http://localhost": true, "http://[::1]:1": true, "https://10.0.0.1": true, "unix:s": true} {
		if _, err := New(address, WithTokenFile(path)); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := New(s.URL, WithHTTPClient(s.Client()), WithTLSConfig(&tls.Config{})); err == nil {
		t.Error("TLS settings are taken along with an HTTP client that knows nothing of them")
	}
}

// What is asked of the service, and with what.
func TestRequests(t *testing.T) {
	for _, test := range []struct {
		name, want string
		do         func(context.Context, *Client) error
	}{
		{"describe", "GET /ticket-keys", func(ctx context.Context, c *Client) error {
			_, err := c.TicketKeys(ctx)
			return err
		}},
		{"format", "GET /ticket-keys?format=ats", func(ctx context.Context, c *Client) error {
			_, err := c.Format(ctx, "ats", nil)
			return err
		}},
		{"key", "GET /ticket-keys?format=nginx&key=2", func(ctx context.Context, c *Client) error {
			_, err := c.Format(ctx, "nginx", new(2))
			return err
		}},
		{"push", "POST /ticket-keys?format=ats application/octet-stream keys", func(ctx context.Context, c *Client) error {
			_, err := c.Push(ctx, "ats", []byte("keys"))
			return err
		}},
		{"push text", `POST /ticket-keys?format=haproxy text/plain "7" keys`, func(ctx context.Context, c *Client) error {
			_, err := c.Push(ctx, "haproxy", []byte("keys"), IfGeneration(7))
			return err
		}},
		{"rotate", `POST /ticket-keys/rotate "7"`, func(ctx context.Context, c *Client) error {
			_, err := c.Rotate(ctx, IfGeneration(7))
			return err
		}},
		{"revoke", "DELETE /ticket-keys/00ff", func(ctx context.Context, c *Client) error {
			_, err := c.Revoke(ctx, "00ff")
			return err
		}},
		{"revoke what is no name", "DELETE /ticket-keys/..%2F..%2Fsessions%3F", func(ctx context.Context, c *Client) error {
			_, err := c.Revoke(ctx, "../../sessions?")
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = strings.Join(strings.Fields(r.Method+" "+r.RequestURI+" "+r.Header.Get("Content-Type")+" "+r.Header.Get("If-Match")+" "+string(body)), " ")
				if format := r.URL.Query().Get("format"); format != "" && r.Method == http.MethodGet {
					w.Header().Set("Content-Type", contentType(format))
				}
				_, _ = io.WriteString(w, described)
			})
			if err := test.do(t.Context(), c); err != nil || got != test.want {
				t.Errorf("%s (%v), want %s", got, err, test.want)
			}
		})
	}
}

func TestProblem(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"code":"invalid_ticket_keys","detail":"The set is refused.","errors":[{"field":"keys[0]","reason":"is weak"},{"field":"next","reason":"is too"}]}`)
	})
	_, err := c.Push(t.Context(), "ats", []byte("x"))
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != 422 || e.Code != "invalid_ticket_keys" || e.Detail != "The set is refused." || e.RetryAfter != 3*time.Second || len(e.Fields) != 2 {
		t.Errorf("%+v", err)
	}
	if want := "the service answers 422 invalid_ticket_keys: The set is refused. keys[0] is weak; next is too"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

// What comes from something that is not the service, or from one that lies.
func TestHostileAnswers(t *testing.T) {
	for _, test := range []struct {
		name, want string
		handler    http.HandlerFunc
	}{
		{"proxy", "the service answers 502 Bad Gateway", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"detail":"not ours"}`, http.StatusBadGateway)
		}},
		{"problem that is none", "the service answers 500 Internal Server Error", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "{")
		}},
		{"redirect", "the service answers 307 Temporary Redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}},
		{"not modified", "the service answers 304 Not Modified", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotModified)
		}},
		{"huge", "larger than 65536 bytes", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		}},
		{"huge header", "exceeded", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", strings.Repeat("x", 1<<20))
		}},
		{"page", "text/html", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }},
		{"empty", "0 bytes", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
		}},
		{"cut off", "unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "96")
			_, _ = w.Write(make([]byte, 48))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			data, err := serve(t, test.handler).Format(t.Context(), "ats", nil)
			if err == nil || !strings.Contains(err.Error(), test.want) || data != nil {
				t.Errorf("%d bytes, %v", len(data), err)
			}
		})
	}
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") })
	if _, err := c.TicketKeys(t.Context()); err == nil {
		t.Error("a page is taken for a description")
	}
}

// The largest answer that is taken is taken whole.
func TestLargestAnswer(t *testing.T) {
	want := bytes.Repeat([]byte("k"), maxBody)
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(want)
	})
	if data, err := c.Format(t.Context(), "ats", nil); err != nil || !bytes.Equal(data, want) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "99999999999999999999": 0,
		"Wed, 21 Oct 2015 07:28:00 GMT": 0,
	} {
		if got := retryAfter(value); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
	if got := retryAfter(time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)); got < 59*time.Minute || got > time.Hour {
		t.Errorf("in an hour: %v", got)
	}
}

func FuzzError(f *testing.F) {
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		e := newError(&http.Response{StatusCode: http.StatusBadRequest, Header: http.Header{"Content-Type": {contentType}}}, body)
		if e.Code != "" && !json.Valid(body) {
			t.Errorf("%q is read as %+v", body, e)
		}
		_ = e.Error()
	})
}

// Files are all of one generation, and no more than there are.
func TestFiles(t *testing.T) {
	requests := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests++
		generation := min(requests, 4) // it moves three times
		if r.URL.Query().Get("key") > "2" {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"code": "key_not_found"}`)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, generation))
		_, _ = fmt.Fprintf(w, "key %s of %d", r.URL.Query().Get("key"), generation)
	})
	for n, want := range map[int]string{2: "key 0 of 4,key 1 of 4", 9: "key 0 of 4,key 1 of 4,key 2 of 4"} {
		requests = 0
		files, err := c.Files(t.Context(), "nginx", n)
		if got := string(bytes.Join(files, []byte(","))); err != nil || got != want {
			t.Errorf("%d files: %q, %v", n, got, err)
		}
	}
}
