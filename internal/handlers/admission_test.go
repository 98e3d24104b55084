package handlers

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/keys"
)

// overHTTP serves the API over one of the protocols.
func overHTTP(t *testing.T, a *API, http2 bool) (server *httptest.Server, client *http.Client) {
	t.Helper()
	server = httptest.NewUnstartedServer(a.Handler())
	server.Config.ConnContext = auth.ConnContext
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(!http2)
	server.Config.Protocols.SetUnencryptedHTTP2(http2)
	server.Start()
	t.Cleanup(server.Close)
	client = &http.Client{Transport: &http.Transport{Protocols: server.Config.Protocols}, Timeout: time.Minute}
	t.Cleanup(client.CloseIdleConnections)
	return server, client
}

// until waits for the condition.
func until(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the condition does not hold")
		}
	}
}

// A request beyond the slots gets 503 with Retry-After. Health needs no slot.
func TestSlots(t *testing.T) {
	a := newAPI(t)
	h := a.Handler()
	for range cap(a.slots) {
		a.slots <- struct{}{}
	}
	for _, request := range [][2]string{
		{http.MethodGet, "/sessions/01"},
		{http.MethodPut, "/sessions/01"},
		{http.MethodGet, "/ticket-keys"},
		{http.MethodPost, "/ticket-keys"},
		{http.MethodGet, "/metrics"},
	} {
		w := serve(h, request[0], request[1], strings.NewReader("x"), "Content-Type", mediaBytes)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), `"overloaded"`) {
			t.Errorf("%s: %d %s", request, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if w := serve(h, http.MethodGet, path, nil); w.Code != http.StatusOK {
			t.Errorf("%s: %d", path, w.Code)
		}
		if w := serve(a.OpsHandler(), http.MethodGet, path, nil); w.Code != http.StatusOK {
			t.Errorf("%s of the operations listener: %d", path, w.Code)
		}
	}
	for range cap(a.slots) {
		<-a.slots
	}
	if w := serve(h, http.MethodPut, "/sessions/01", strings.NewReader("x"), "Content-Type", mediaBytes); w.Code != http.StatusCreated || len(a.slots) != 0 || a.open.Load() != 0 {
		t.Errorf("with slots: %d, %d in use, %d open", w.Code, len(a.slots), a.open.Load())
	}
}

// With a single slot, requests are served while others wait for their body, for their
// client to read the response, or for ticket keys.
func TestSlowClientsHoldNoSlot(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %t", http2), func(t *testing.T) {
			a := newAPI(t)
			a.slots = make(chan struct{}, 1)
			server, client := overHTTP(t, a, http2)
			do := func(method, path string, body io.Reader, headers ...string) int {
				request, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, body)
				if err != nil {
					t.Error(err)
					return 0
				}
				request.Header.Set("Content-Type", mediaBytes)
				for i := 0; i < len(headers); i += 2 {
					request.Header.Set(headers[i], headers[i+1])
				}
				response, err := client.Do(request)
				if err != nil {
					t.Error(err)
					return 0
				}
				defer response.Body.Close()
				_, _ = io.Copy(io.Discard, response.Body)
				return response.StatusCode
			}
			var waiters sync.WaitGroup
			body, upload := io.Pipe()
			put := make(chan int)
			go func() { put <- do(http.MethodPut, "/sessions/01", body) }()
			etag := generationETag(a.cfg.Ring.Generation())
			for range 3 {
				waiters.Go(func() {
					if status := do(http.MethodGet, "/ticket-keys?format=go", nil, "If-None-Match", etag, "Prefer", "wait=600"); status != http.StatusOK {
						t.Errorf("the request that waited: %d", status)
					}
				})
			}
			if http2 {
				untaken(t, server.Listener.Addr().String(), "/openapi.yaml", 5)
			}
			until(t, func() bool { return a.Waiting() == 3 })
			until(t, func() bool { return do(http.MethodGet, "/sessions/00", nil) == http.StatusNotFound })
			_, _ = upload.Write([]byte("session"))
			_ = upload.Close()
			if status := <-put; status != http.StatusCreated {
				t.Errorf("PUT: %d", status)
			}
			if _, err := a.cfg.Ring.Rotate(t.Context(), keys.Update{}); err != nil {
				t.Fatal(err)
			}
			waiters.Wait()
			until(t, func() bool { return len(a.slots) == 0 })
		})
	}
}

// untaken makes requests over HTTP/2 with a flow control window of zero (RFC 9113,
// sections 3.4 and 6.5), whose responses are larger than net/http's buffers.
func untaken(t *testing.T, address, path string, n int) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	wire := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00")
	// :method GET, :scheme http, :path and :authority (RFC 7541, appendix A).
	fields := "\x82\x86\x04" + string(rune(len(path))) + path + "\x01\x09localhost"
	for i := range n {
		wire = append(wire, 0, 0, byte(len(fields)), 0x1, 0x5)
		wire = binary.BigEndian.AppendUint32(wire, uint32(2*i+1))
		wire = append(wire, fields...)
	}
	if _, err := conn.Write(wire); err != nil {
		t.Fatal(err)
	}
}

// Beyond the limit on open requests of any kind, the next one gets 503, except health
// checks. Far beyond it, there is no response.
func TestOpenRequestsAreBounded(t *testing.T) {
	for _, path := range []string{"/openapi.yaml", "/nothing"} {
		a := newAPI(t)
		a.cfg.MaxOpen = 4
		server, client := overHTTP(t, a, true)
		untaken(t, server.Listener.Addr().String(), path, 4)
		until(t, func() bool { return a.open.Load() == 4 })
		get := func(path string) int {
			response, err := client.Get(server.URL + path)
			if err != nil {
				return 0
			}
			_ = response.Body.Close()
			return response.StatusCode
		}
		if got := get("/status"); got != http.StatusServiceUnavailable {
			t.Errorf("beside answers of %s: got %d", path, got)
		}
		if got := get("/livez"); got != http.StatusOK {
			t.Errorf("health beside answers of %s: got %d", path, got)
		}
		a.open.Add(maxRefused)
		if got := get("/status"); got != 0 {
			t.Errorf("far beyond the bound: got %d", got)
		}
	}
}

// A wait whose announced body may never arrive is answered at once.
func TestNoWaitForABody(t *testing.T) {
	a := newAPI(t)
	body, sender := io.Pipe()
	defer func() { _ = sender.Close() }()
	r := httptest.NewRequest(http.MethodGet, "/ticket-keys", body)
	r.ContentLength = 9
	r.Header.Set("If-None-Match", fmt.Sprintf(`"%d"`, a.cfg.Ring.Generation()))
	r.Header.Set("Prefer", "wait=600")
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusNotModified {
		t.Errorf("got %d", w.Code)
	}
}

// A session that is too large does not affect other requests of an HTTP/2 connection.
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
