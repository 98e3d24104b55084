package handlers

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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

// Requests of a connection share nothing that shows: neither those of HTTP/1, one
// after the other, nor those of HTTP/2 at a time.
func TestRequestsOfAConnection(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %t", http2), func(t *testing.T) {
			a := newAPI(t)
			recorder := &routeRecorder{}
			a.cfg.Recorder = recorder
			server := httptest.NewUnstartedServer(a.Handler())
			server.Config.ConnContext = ConnContext
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetHTTP1(!http2)
			server.Config.Protocols.SetUnencryptedHTTP2(http2)
			server.Start()
			defer server.Close()
			client := http.Client{Transport: &http.Transport{Protocols: server.Config.Protocols}}
			defer client.CloseIdleConnections()
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

// delayedConn counts for how long it is delayed.
type delayedConn struct {
	net.Conn
	delay time.Duration
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
	if len(recorder.routes) != 1 || a.Reset() != 0 || conn.delay != 0 {
		t.Errorf("before: %q, %d were reset, delayed by %v", recorder.routes, a.Reset(), conn.delay)
	}
	reset()
	h.ServeHTTP(httptest.NewRecorder(), r)
	if len(recorder.routes) != 1 || a.Reset() != 1 || conn.delay != resetDelay {
		t.Errorf("after: %q, %d were reset, delayed by %v", recorder.routes, a.Reset(), conn.delay)
	}
}
