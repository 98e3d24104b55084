package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// roundTripper is a service without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, etag, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Etag": {etag}, "Content-Type": {"application/octet-stream"}}, Body: io.NopCloser(strings.NewReader(body))}
}

// hold is a service that waits until something has changed, which is never.
func hold(r *http.Request) (*http.Response, error) {
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case <-time.After(wait):
		return answer(http.StatusNotModified, "", ""), nil
	}
}

// watched is what happened while a set was watched.
type watched struct {
	began []time.Duration // when the requests were made
	etags []string        // what they sent as If-None-Match
	taken []string
}

// watch follows a service for a time. It answers the i-th request.
func watch(t *testing.T, d time.Duration, service func(i int, r *http.Request) (*http.Response, error), take func(string) error) (w watched) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, errStop)
	defer cancel()
	start := time.Now()
	c, err := New("http://sessapi", WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if got := r.Header.Get("Prefer"); got != "wait=60" {
			t.Errorf("Prefer: %s", got)
		}
		w.began = append(w.began, time.Since(start))
		w.etags = append(w.etags, r.Header.Get("If-None-Match"))
		return service(len(w.began)-1, r)
	})}))
	if err != nil {
		t.Fatal(err)
	}
	var kept []byte
	err = c.Watch(ctx, "ats", nil, func(data []byte) error {
		w.taken = append(w.taken, string(data))
		kept = data
		if take != nil {
			return take(string(data))
		}
		return nil
	})
	if err != errStop || time.Since(start) != d {
		t.Errorf("the watch ended after %v with %v", time.Since(start), err)
	}
	if !bytes.Equal(kept, make([]byte, len(kept))) {
		t.Error("what was taken is not wiped")
	}
	return w
}

var errStop = errors.New("it is enough")

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, 3*time.Minute, func(i int, r *http.Request) (*http.Response, error) {
			switch i {
			case 0:
				return answer(200, `"1"`, "first"), nil
			case 1, 2:
				time.Sleep(20 * time.Second)
				return answer(200, fmt.Sprintf(`"%d"`, i+1), "next"), nil
			}
			return hold(r)
		}, nil)
		if want := []string{"first", "next", "next"}; !slices.Equal(w.taken, want) {
			t.Errorf("taken %q", w.taken)
		}
		if want := []string{"", `"1"`, `"2"`, `"3"`, `"3"`, `"3"`}; !slices.Equal(w.etags, want) {
			t.Errorf("sent the ETags %q", w.etags)
		}
		const s, first = time.Second, settle // after the first set
		if want := []time.Duration{0, first, first + 20*s, first + 40*s, first + 100*s, first + 160*s}; !slices.Equal(w.began, want) {
			t.Errorf("asked at %v", w.began)
		}
	})
}

// A service that does not hold requests, has no conditions, or changes all the
// time, is not asked all the time.
func TestWatchDoesNotSpin(t *testing.T) {
	for name, test := range map[string]struct {
		service         func(i int) *http.Response
		requests, taken int // in a minute
	}{
		"without Prefer": {func(i int) *http.Response {
			if i == 0 {
				return answer(200, `"1"`, "keys")
			}
			return answer(304, `"1"`, "")
		}, 61, 1},
		"without conditions": {func(int) *http.Response { return answer(200, `"1"`, "keys") }, 61, 1},
		"always changing":    {func(i int) *http.Response { return answer(200, fmt.Sprintf(`"%d"`, i), "keys") }, 1200, 1200},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, time.Minute-time.Millisecond, func(i int, _ *http.Request) (*http.Response, error) { return test.service(i), nil }, nil)
				if len(w.began) != test.requests || len(w.taken) != test.taken {
					t.Errorf("%d requests in a minute, %d sets taken", len(w.began), len(w.taken))
				}
			})
		})
	}
}

// Every kind of failure is tried again, later and later, and not counted once it
// is over. The watch goes on from what was taken last.
func TestWatchBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const failures = 12
		w := watch(t, 10*time.Minute, func(i int, r *http.Request) (*http.Response, error) {
			switch {
			case i == 0 || i == failures+1:
				return answer(200, fmt.Sprintf(`"%d"`, i), "keys"), nil
			case i == failures+2:
				return nil, errors.New("gone again")
			case i > failures+2:
				return hold(r)
			}
			switch i % 4 {
			case 0:
				return nil, errors.New("connection refused")
			case 1:
				return answer(503, "", ""), nil
			case 2:
				return answer(200, "", "no ETag"), nil
			}
			return answer(200, `"x"`, strings.Repeat("x", maxBody+1)), nil
		}, nil)
		if len(w.taken) != 2 || w.etags[failures+1] != `"0"` || w.etags[failures+2] != `"13"` {
			t.Errorf("taken %q, sent the ETags %q", w.taken, w.etags)
		}
		for i := range failures {
			longest := min(firstBackoff<<i, maxBackoff)
			if pause := w.began[i+2] - w.began[i+1]; pause <= longest/2 || pause > longest {
				t.Errorf("pause %v after failure %d", pause, i+1)
			}
		}
		if pause := w.began[failures+3] - w.began[failures+2]; pause > firstBackoff {
			t.Errorf("pause %v after the first failure of a new row", pause)
		}
	})
}

// A set that cannot be taken is not passed over.
func TestWatchTakesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := true
		w := watch(t, time.Minute, func(_ int, r *http.Request) (*http.Response, error) {
			if r.Header.Get("If-None-Match") == `"1"` {
				return hold(r)
			}
			return answer(200, `"1"`, "keys"), nil
		}, func(string) error {
			defer func() { full = false }()
			if full {
				return errors.New("the disk is full")
			}
			return nil
		})
		if len(w.taken) != 2 {
			t.Errorf("taken %q", w.taken)
		}
	})
}

func TestWatchRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{"20": 20 * time.Second, "100000": maxRetryAfter} {
		synctest.Test(t, func(t *testing.T) {
			w := watch(t, 6*time.Minute, func(i int, r *http.Request) (*http.Response, error) {
				if i == 0 {
					busy := answer(503, "", "")
					busy.Header.Set("Retry-After", value)
					return busy, nil
				}
				return hold(r)
			}, nil)
			if w.began[1] != want {
				t.Errorf("Retry-After: %s: asked again after %v", value, w.began[1])
			}
		})
	}
}

// A service that never comes to the end of its answer is left.
func TestWatchSlowService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, 3*time.Minute, func(_ int, r *http.Request) (*http.Response, error) {
			slow := answer(200, `"1"`, "")
			slow.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
				select {
				case <-r.Context().Done():
					return 0, r.Context().Err()
				case <-time.After(time.Second):
					return copy(p, "x"), nil
				}
			}))
			return slow, nil
		}, nil)
		if len(w.taken) != 0 || len(w.began) != 3 {
			t.Errorf("taken %d, asked at %v", len(w.taken), w.began)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func seedLine(seed byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{seed}, seedSize)) + "\n"
}

func TestParseSeeds(t *testing.T) {
	a, b := seedLine('a'), seedLine('b')
	for _, good := range []string{a + b, strings.ReplaceAll(a+b, "\n", "\r\n"), strings.TrimSuffix(a+b, "\n")} {
		seeds, err := parseSeeds([]byte(good))
		if err != nil || len(seeds) != 2 || seeds[0][0] != 'a' || seeds[1][31] != 'b' {
			t.Errorf("%q: %v", good, err)
		}
	}
	for name, bad := range map[string]string{
		"empty":         "",
		"empty line":    a + "\n" + b,
		"short":         a + b[:40] + "\n",
		"31 bytes":      base64.StdEncoding.EncodeToString(make([]byte, 31)),
		"33 bytes":      base64.StdEncoding.EncodeToString(make([]byte, 33)),
		"two in a line": strings.TrimSuffix(a, "\n") + b,
		"no base64":     strings.Repeat("!", 44),
		"stray bits":    a[:42] + "F=\n",
		"too many":      strings.Repeat(a, maxSeeds+1),
		"page":          "<html><body>log in</body></html>",
	} {
		if _, err := parseSeeds([]byte(bad)); err == nil || strings.Contains(err.Error(), a[:8]) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseSeeds(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		seeds, err := parseSeeds(data)
		if err != nil {
			return
		}
		var again strings.Builder
		for _, seed := range seeds {
			again.WriteString(base64.StdEncoding.EncodeToString(seed[:]) + "\n")
		}
		normal := strings.ReplaceAll(string(data), "\r", "")
		if again.String() != strings.TrimSuffix(normal, "\n")+"\n" {
			t.Errorf("%q is read as %q", data, again.String())
		}
	})
}

// keyService hands out the format go, and holds requests until it changes.
type keyService struct {
	mu         sync.Mutex
	generation int
	lines      string
	changed    chan struct{}
}

func (s *keyService) set(lines string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	s.lines = lines
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

func (s *keyService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for {
		s.mu.Lock()
		etag, lines, changed := fmt.Sprintf("%q", fmt.Sprint(s.generation)), s.lines, s.changed
		s.mu.Unlock()
		if r.Header.Get("If-None-Match") != etag {
			w.Header().Set("ETag", etag)
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, lines)
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// Two servers that follow the same keys resume each other's sessions: one that
// serves with the configuration itself, and one of net/http, which copies it.
func TestFollowTicketKeys(t *testing.T) {
	service := &keyService{}
	service.set("not keys")
	c := serve(t, service.ServeHTTP)
	ctx, cancel := context.WithCancelCause(t.Context())
	var following sync.WaitGroup
	defer func() { cancel(errStop); following.Wait() }()

	pair := testCertificate(t)
	follow := func() *tls.Config {
		config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		following.Go(func() {
			if err := c.FollowTicketKeys(ctx, config); err != errStop {
				t.Errorf("following ended with %v", err)
			}
		})
		return config
	}
	a, b := follow(), follow()
	serverA := serveHTTPS(t, func(s *http.Server, l net.Listener) error { return s.Serve(tls.NewListener(l, a)) })
	serverB := serveHTTPS(t, func(s *http.Server, l net.Listener) error {
		s.TLSConfig = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return b, nil }}
		return s.ServeTLS(l, "", "")
	})

	// Keys that are none leave each server with Go's own: it resumes its own
	// sessions, and nobody else's.
	session := tls.NewLRUClientSessionCache(1)
	visit(t, serverA, session)
	if !visit(t, serverA, session) {
		t.Error("a server does not resume its own session before keys arrive")
	}
	if visit(t, serverB, tlsCopy(session)) {
		t.Fatal("servers without common keys resume each other's sessions")
	}

	random := func() string {
		seed := make([]byte, seedSize)
		_, _ = rand.Read(seed)
		return base64.StdEncoding.EncodeToString(seed) + "\n"
	}
	first, second := random(), random()
	service.set(first)
	await(t, func() bool {
		session := tls.NewLRUClientSessionCache(1)
		visit(t, serverA, session)
		return visit(t, serverB, session)
	}, "B resumes what A began")

	// After a rotation old tickets still resume.
	old := tls.NewLRUClientSessionCache(1)
	visit(t, serverA, old)
	service.set(second + first)
	await(t, func() bool { return visit(t, serverB, tlsCopy(old)) }, "a ticket under the previous key resumes")

	// Broken keys leave those that there are.
	service.set(first[:40])
	for range 20 {
		if !visit(t, serverB, tlsCopy(old)) {
			t.Fatal("broken keys took the place of good ones")
		}
	}
	// And are got over.
	service.set(random())
	await(t, func() bool { return !visit(t, serverB, tlsCopy(old)) }, "a ticket under a key that is gone does not resume")
}

func await(t *testing.T, holds func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is not so that %s", what)
		}
	}
}

// tlsCopy copies a cache of one session, which a visit would replace.
func tlsCopy(cache tls.ClientSessionCache) tls.ClientSessionCache {
	state, _ := cache.Get("sessapi")
	other := tls.NewLRUClientSessionCache(1)
	other.Put("sessapi", state)
	return other
}

func testCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return s.TLS.Certificates[0]
}

// serveHTTPS makes a server serve a listener, until the test ends, and returns
// its address.
func serveHTTPS(t *testing.T, serve func(*http.Server, net.Listener) error) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go func() { _ = serve(server, listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}

// visit makes a request and reports whether its connection resumed a session.
func visit(t *testing.T, address string, session tls.ClientSessionCache) bool {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, ServerName: "sessapi", ClientSessionCache: session,
	}}}
	response, err := client.Get("https://" + address)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return response.TLS.DidResume
}

// The log says whether the service or what takes the keys fails, and when it is over.
func TestWatchLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errStop)
		defer cancel()
		var log bytes.Buffer
		requests, applied := 0, 0
		c, err := New("http://sessapi", WithLogger(slog.New(slog.NewTextHandler(&log, nil))), WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			switch requests++; {
			case requests <= 2:
				return nil, errors.New("connection refused")
			case r.Header.Get("If-None-Match") != "":
				return hold(r)
			}
			return answer(200, `"1"`, "keys"), nil
		})}))
		if err != nil {
			t.Fatal(err)
		}
		err = c.Watch(ctx, "ats", nil, func([]byte) error {
			if applied++; applied == 1 {
				return errors.New("exit status 7")
			}
			return nil
		})
		if err != errStop || applied != 2 {
			t.Errorf("applied %d times, %v", applied, err)
		}
		var got []string
		for line := range strings.Lines(log.String()) {
			fields := regexp.MustCompile(`level=(\w+) msg="([^"]*)".*?(error=.*|failures=.*)\n`).FindStringSubmatch(line)
			got = append(got, strings.Join(fields[1:], ", "))
		}
		fetch := `WARN, cannot fetch the ticket keys; keeping the last ones, error="Get \"http://sessapi/ticket-keys?format=ats\": connection refused"`
		if want := []string{fetch, fetch, `WARN, cannot apply the ticket keys, error="exit status 7"`, "INFO, the ticket keys are up to date again, failures=3"}; !slices.Equal(got, want) {
			t.Errorf("logged %q", got)
		}
	})
}
