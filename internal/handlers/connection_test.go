package handlers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// routeRecorder has the route and status of each request.
type routeRecorder struct {
	discardRecorder
	mu     sync.Mutex
	routes []string
}

func (r *routeRecorder) Request(route, _ string, status int, _ time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.routes = append(r.routes, fmt.Sprint(route, " ", status))
}

// overHTTP serves the API over one of the protocols.
func overHTTP(t *testing.T, a *API, http2 bool) (server *httptest.Server, client *http.Client) {
	t.Helper()
	server = httptest.NewUnstartedServer(a.Handler())
	server.Config.ConnContext = ConnContext
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(!http2)
	server.Config.Protocols.SetUnencryptedHTTP2(http2)
	server.Start()
	t.Cleanup(server.Close)
	client = &http.Client{Transport: &http.Transport{Protocols: server.Config.Protocols}, Timeout: time.Minute}
	t.Cleanup(client.CloseIdleConnections)
	return server, client
}

// Requests of a connection share nothing that shows: neither those of HTTP/1, one
// after the other, nor those of HTTP/2 at a time.
func TestRequestsOfAConnection(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %t", http2), func(t *testing.T) {
			a := newAPI(t)
			recorder := &routeRecorder{}
			a.cfg.Recorder = recorder
			server, client := overHTTP(t, a, http2)
			do := func(method, path, body string) string {
				request, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return ""
				}
				request.Header.Set("Content-Type", mediaBytes)
				request.Header.Set("Accept", mediaBytes)
				response, err := client.Do(request)
				if err != nil {
					t.Error(err)
					return ""
				}
				defer response.Body.Close()
				got, err := io.ReadAll(response.Body)
				if err != nil {
					t.Error(err)
				}
				return string(got)
			}
			do(http.MethodGet, "/sessions/00", "")
			do(http.MethodGet, "/nothing", "")
			do(http.MethodPost, "/status", "")
			do(http.MethodDelete, "/sessions/00", "")
			want := []string{"/sessions/{id} 404", " 404", " 405", "/sessions/{id} 404"}
			if !slices.Equal(recorder.routes, want) {
				t.Errorf("the routes are %q, want %q", recorder.routes, want)
			}
			var clients sync.WaitGroup
			for i := range 32 {
				clients.Go(func() {
					path, session := fmt.Sprintf("/sessions/%02x", i), fmt.Sprint("session ", i)
					for range 50 {
						do(http.MethodPut, path, session)
						if got := do(http.MethodGet, path, ""); got != session {
							t.Errorf("%s is %q, want %q", path, got, session)
						}
					}
				})
			}
			clients.Wait()
		})
	}
}

// delayedConn counts its requests, and for how long it is delayed.
type delayedConn struct {
	net.Conn
	reached int
	ended   bool
	delay   time.Duration
}

func (c *delayedConn) Reached() (late bool) {
	c.reached++
	return c.ended
}

func (c *delayedConn) Delay(d time.Duration) { c.delay += d }

// A request whose stream was reset before its turn is not served, and its connection
// pays for it.
func TestResetBeforeItsTurn(t *testing.T) {
	a := newAPI(t)
	recorder := &routeRecorder{}
	a.cfg.Recorder = recorder
	conn := &delayedConn{}
	ctx, reset := context.WithCancel(ConnContext(t.Context(), conn))
	r := httptest.NewRequest(http.MethodGet, "/status", nil).WithContext(ctx)
	r.ProtoMajor, r.ProtoMinor = 2, 0
	h := a.Handler()
	h.ServeHTTP(httptest.NewRecorder(), r)
	if len(recorder.routes) != 1 || a.Reset() != 0 || conn.delay != 0 || conn.reached != 1 {
		t.Errorf("before: %q, %d were reset, delayed by %v, told of %d", recorder.routes, a.Reset(), conn.delay, conn.reached)
	}
	shared := connectionOf(r)
	for range maxServed {
		shared.served <- struct{}{}
	}
	for range maxLate {
		shared.late <- struct{}{}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}()
	until(t, func() bool { return a.Queued() == 1 })
	reset()
	<-done
	if len(recorder.routes) != 1 || a.Reset() != 1 || conn.delay != resetDelay {
		t.Errorf("while it waits: %q, %d were reset, delayed by %v", recorder.routes, a.Reset(), conn.delay)
	}
	h.ServeHTTP(httptest.NewRecorder(), r)
	if len(recorder.routes) != 1 || a.Reset() != 2 || conn.delay != 2*resetDelay {
		t.Errorf("before it is looked at: %q, %d were reset, delayed by %v", recorder.routes, a.Reset(), conn.delay)
	}
	conn.ended = true
	h.ServeHTTP(httptest.NewRecorder(), r)
	if conn.reached != 4 || a.Reset() != 2 {
		t.Errorf("the connection was told of %d requests; %d were reset, one of which it has counted", conn.reached, a.Reset())
	}
}

// Of the requests of a connection of HTTP/2 some are served at a time. Others wait for
// those, but no longer than patience for each as many.
func TestServedOfAConnection(t *testing.T) {
	a := newAPI(t)
	server, client := overHTTP(t, a, true)
	put := func(path string, body io.Reader) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL+path, body)
		if err != nil {
			t.Error(err)
			return
		}
		request.Header.Set("Content-Type", mediaBytes)
		response, err := client.Do(request)
		if err != nil {
			t.Error(err)
			return
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusCreated {
			t.Error(response.Status)
		}
	}
	served := func() int { return cap(a.inFlight.free) - len(a.inFlight.free) }
	var clients sync.WaitGroup
	var bodies []*io.PipeWriter
	began := time.Now()
	const late = 3 // times maxLate
	const all = maxServed + late*maxLate
	for n := range all {
		body, w := io.Pipe()
		bodies = append(bodies, w)
		clients.Go(func() { put(fmt.Sprintf("/sessions/%02x", n), body) })
	}
	until(t, func() bool { return served() == all })
	if took := time.Since(began); took < late*patience {
		t.Errorf("%d are served at a time after %v", all, took)
	}
	if n := a.Queued(); n != late*maxLate {
		t.Errorf("%d waited, want %d", n, late*maxLate)
	}
	// What they waited is not their client's fault.
	var first, last int64
	for i := range a.inFlight.all {
		switch since := a.inFlight.all[i].since.Load(); {
		case since == 0:
		case first == 0:
			first, last = since, since
		default:
			first, last = min(first, since), max(last, since)
		}
	}
	if apart := time.Duration(last - first); apart < late*patience {
		t.Errorf("their places are theirs within %v", apart)
	}
	for _, body := range bodies {
		_, _ = body.Write([]byte("a session"))
		_ = body.Close()
	}
	clients.Wait()
	if n := served(); n != 0 {
		t.Errorf("%d are served in the end", n)
	}
	put("/sessions/ff", strings.NewReader("a session"))
	if n := a.Queued(); n != late*maxLate {
		t.Error("one alone waits")
	}
}

// Those who wait for other ticket keys are not served meanwhile.
func TestWaitersOfAConnection(t *testing.T) {
	a := newAPI(t)
	server, client := overHTTP(t, a, true)
	get := func(path string, headers ...string) int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		for i := 0; i < len(headers); i += 2 {
			request.Header.Set(headers[i], headers[i+1])
		}
		response, err := client.Do(request)
		if err != nil {
			t.Error(err)
			return 0
		}
		defer response.Body.Close()
		return response.StatusCode
	}
	const waiters = 2 * maxServed
	current := fmt.Sprintf("%q", fmt.Sprint(a.cfg.Ring.Generation()))
	var clients sync.WaitGroup
	for range waiters {
		clients.Go(func() {
			if status := get("/ticket-keys", "If-None-Match", current, "Prefer", "wait=60"); status != http.StatusNotModified {
				t.Errorf("a waiter gets %d", status)
			}
		})
	}
	until(t, func() bool { return a.Waiting() == waiters })
	if status := get("/sessions/00"); status != http.StatusNotFound {
		t.Errorf("another gets %d", status)
	}
	a.Drain()
	clients.Wait()
}

// until waits for the condition.
func until(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to that")
		}
	}
}

// A session that is too large costs the other requests of an HTTP/2 connection nothing.
func TestTooLargeKeepsTheConnection(t *testing.T) {
	server, client := overHTTP(t, newAPI(t), true)
	dials := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) {
			if !got.Reused {
				dials++
			}
		},
	})
	for range 20 {
		request, err := http.NewRequestWithContext(ctx, http.MethodPut, server.URL+"/sessions/00", strings.NewReader(strings.Repeat("x", 1<<10+1)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", mediaBytes)
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if response.StatusCode != http.StatusRequestEntityTooLarge || err != nil || !strings.Contains(string(body), "session_too_large") {
			t.Fatalf("%s: %q, %v", response.Status, body, err)
		}
	}
	if dials != 1 {
		t.Errorf("%d connections were needed", dials)
	}
}

// When too many requests are alive, a connection of HTTP/2 may have its share, and what is
// more is reset; other connections have theirs. What is held does not count.
func TestShareOfAConnection(t *testing.T) {
	a := newAPI(t)
	server, client := overHTTP(t, a, true)
	done := make(chan error, minShare+1)
	do := func(client *http.Client, method, path string, body io.Reader, header ...string) error {
		request, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, body)
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", mediaBytes)
		for i := 0; i < len(header); i += 2 {
			request.Header.Set(header[i], header[i+1])
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		return errors.Join(err, response.Body.Close())
	}
	get := func(client *http.Client) error { return do(client, http.MethodGet, "/status", nil) }
	if err := get(client); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return a.alive.Load() == 0 && a.aliveOn.Load() == 0 })

	const others = maxAlive // each with one, so that the share is minShare
	a.alive.Add(others)
	a.aliveOn.Add(others)
	generation := fmt.Sprintf("%q", fmt.Sprint(a.cfg.Ring.Generation()))
	go func() {
		done <- do(client, http.MethodGet, "/ticket-keys", nil, "If-None-Match", generation, "Prefer", "wait=600")
	}()
	until(t, func() bool { return a.Waiting() == 1 })
	var uploads []*io.PipeWriter
	for i := range minShare {
		body, upload := io.Pipe()
		uploads = append(uploads, upload)
		go func() { done <- do(client, http.MethodPut, fmt.Sprintf("/sessions/%02x", i), body) }()
	}
	until(t, func() bool { return a.alive.Load() == others+minShare })
	if err := get(client); err == nil || a.Refused() != 1 {
		t.Errorf("one more request of the connection: %v, %d were refused", err, a.Refused())
	}
	other := &http.Client{Transport: client.Transport.(*http.Transport).Clone(), Timeout: time.Minute}
	defer other.CloseIdleConnections()
	if err := get(other); err != nil {
		t.Errorf("a request of another: %v", err)
	}
	a.alive.Add(-others) // the bound is not reached any more
	if err := get(client); err != nil {
		t.Errorf("when there are few: %v", err)
	}
	for _, upload := range uploads {
		_, _ = upload.Write([]byte("session"))
		_ = upload.Close()
	}
	a.Drain()
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	until(t, func() bool { return a.alive.Load() == 0 && a.aliveOn.Load() == others })
}

// When there may be many of them, a request is alive until its client has taken the answer.
func TestAnswersThatAreNotTaken(t *testing.T) {
	for _, many := range []bool{false, true} {
		t.Run(fmt.Sprint(many), func(t *testing.T) {
			a := newAPI(t)
			recorder := &routeRecorder{}
			a.cfg.Recorder = recorder
			if many {
				end := make(chan struct{})
				defer close(end)
				for range manyGoroutines {
					go func() { <-end }()
				}
			}
			server, _ := overHTTP(t, a, true)
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			// SETTINGS_INITIAL_WINDOW_SIZE is 0. The request is a GET of /, which answers 404.
			if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+
				"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00"+
				"\x00\x00\x0e\x01\x05\x00\x00\x00\x01\x82\x86\x84\x01\x09localhost"); err != nil {
				t.Fatal(err)
			}
			until(t, func() bool {
				recorder.mu.Lock()
				defer recorder.mu.Unlock()
				return len(recorder.routes) == 1
			})
			if !many {
				until(t, func() bool { return a.alive.Load() == 0 })
				return
			}
			// The headers of the answer come when it is flushed, or the handler has ended.
			var header [9]byte
			for header[3] != 1 {
				if _, err := io.ReadFull(conn, header[:]); err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, conn, int64(header[1])<<8|int64(header[2])); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(20 * time.Millisecond) // and then it would not be alive for long
			if n := a.alive.Load(); n != 1 {
				t.Errorf("%d are alive", n)
			}
			_ = conn.Close()
			until(t, func() bool { return a.alive.Load() == 0 })
		})
	}
}
