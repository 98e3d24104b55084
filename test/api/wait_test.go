package api_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
)

// slow is longer than anything here takes on a busy machine, and short enough
// for a test that fails.
const slow = 60

// wait asks for the path in the background, with the generation that it has and
// how many seconds to wait.
func (s *service) wait(path, etag string, seconds int) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		answers <- s.get(path, "*/*, application/octet-stream", "If-None-Match", etag, "Prefer", "wait="+strconv.Itoa(seconds))
	}()
	return answers
}

// awaitWaiters returns once so many requests are being held.
func (s *service) awaitWaiters(tb testing.TB, want int) {
	tb.Helper()
	for deadline := time.Now().Add(slow * time.Second); s.api.Waiting() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("%d requests are held, want %d", s.api.Waiting(), want)
		}
	}
}

func TestWaitForChange(t *testing.T) {
	s := startService(t)
	for _, path := range []string{"/ticket-keys", "/ticket-keys?format=ats", "/ticket-keys?format=nginx&key=1"} {
		etag := s.get("/ticket-keys", typeJSON).want(t, 200).Header.Get("ETag")
		held := s.wait(path, etag, slow)
		s.awaitWaiters(t, 1)
		rotated := s.post("/ticket-keys/rotate", "", nil).want(t, 200)
		a := (<-held).want(t, 200).wantHeader(t, "Preference-Applied", "wait="+strconv.Itoa(slow))
		a.wantHeader(t, "ETag", rotated.Header.Get("ETag"))
		s.awaitWaiters(t, 0)

		// The client that is behind is answered at once.
		(<-s.wait(path, etag, slow)).want(t, 200)
		// One that has it all is told so when its time is over.
		start := time.Now()
		(<-s.wait(path, a.Header.Get("ETag"), 1)).want(t, 304).wantHeader(t, "Preference-Applied", "wait=1")
		if took := time.Since(start); took < time.Second {
			t.Errorf("%s: answered after %v", path, took)
		}
	}
}

// TestWaitIsNoChange has an update that changes nothing while somebody waits.
func TestWaitIsNoChange(t *testing.T) {
	s := startService(t)
	set := slices.Concat(record(), record())
	etag := s.post("/ticket-keys", typeBytes, set).want(t, 200).Header.Get("ETag")
	held := s.wait("/ticket-keys", etag, slow)
	s.awaitWaiters(t, 1)
	s.post("/ticket-keys", typeBytes, set).want(t, 200)
	s.post("/ticket-keys", typeBytes, set[1:]).want(t, 422)
	s.awaitWaiters(t, 1)
	s.post("/ticket-keys", typeBytes, record()).want(t, 200)
	(<-held).want(t, 200)
}

func TestPrefer(t *testing.T) {
	s := startService(t)
	etag := s.get("/ticket-keys", typeJSON).Header.Get("ETag")
	for _, test := range []struct {
		prefer, applied string
		status          int
	}{
		{"wait=0", "", 304},
		{"respond-async", "", 304},
		{"WAIT = 1", "wait=1", 304},
		{`respond-async, wait="1"; x=y, wait=50`, "wait=1", 304},
		{"wait", "", 400},
		{"wait=soon", "", 400},
		{"wait=-1", "", 400},
		{"wait=1.5", "", 400},
	} {
		a := s.get("/ticket-keys", typeJSON, "If-None-Match", etag, "Prefer", test.prefer).want(t, test.status)
		if test.status == 400 {
			a.wantProblem(t, 400, api.ProblemCodeInvalidRequest)
		}
		a.wantHeader(t, "Preference-Applied", test.applied)
	}
	// Without a generation there is nothing to wait for.
	s.get("/ticket-keys", typeJSON, "Prefer", "wait=600").want(t, 200).wantHeader(t, "Preference-Applied", "")
	// More than the longest wait is the longest wait.
	s.get("/ticket-keys", typeJSON, "If-None-Match", `"1"`, "Prefer", "wait=99999999999999999999").want(t, 200).
		wantHeader(t, "Preference-Applied", "wait=600")
}

// TestWaitersGo has clients that hang up, and a service that stops.
func TestWaitersGo(t *testing.T) {
	s := startService(t)
	etag := s.get("/ticket-keys", typeJSON).Header.Get("ETag")
	ctx, cancel := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/ticket-keys", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("If-None-Match", etag)
	request.Header.Set("Prefer", "wait=600")
	gone := make(chan error)
	go func() {
		response, err := s.Client().Do(request)
		if err == nil {
			response.Body.Close()
		}
		gone <- err
	}()
	s.awaitWaiters(t, 1)
	cancel()
	if err := <-gone; err == nil {
		t.Error("an answer for a client that hung up")
	}
	s.awaitWaiters(t, 0)

	held := s.wait("/ticket-keys", etag, 600)
	s.awaitWaiters(t, 1)
	s.api.Drain()
	(<-held).want(t, 304)
}

// TestWaitersLeaveRoom has more requests wait than may be served at a time, and all
// but one of those that may be open.
func TestWaitersLeaveRoom(t *testing.T) {
	s := startService(t, func(c *handlers.Config) { c.MaxInFlight, c.MaxOpen = 1, 4 })
	etag := s.get("/ticket-keys", typeJSON).Header.Get("ETag")
	var held []<-chan answer
	for i := range 3 {
		held = append(held, s.wait("/ticket-keys", etag, slow))
		s.awaitWaiters(t, i+1)
	}
	s.get("/ticket-keys", typeJSON).want(t, 200)
	held = append(held, s.wait("/ticket-keys", etag, slow))
	s.awaitWaiters(t, 4)
	s.get("/ticket-keys", typeJSON).wantProblem(t, 503, api.ProblemCodeOverloaded)
	s.get("/livez", typeJSON).want(t, 200)
	if _, err := s.ring.Rotate(t.Context(), keys.Update{}); err != nil {
		t.Fatal(err)
	}
	for _, a := range held {
		(<-a).want(t, 200)
	}
}

// TestManyRounds follows the keys on connections that are kept, while they change
// twice at a time, so that the second change finds clients that were answered and
// ask again. None may be lost, and none may miss a change.
func TestManyRounds(t *testing.T) {
	s := startService(t)
	const clients, rounds = 20, 100
	first := s.get("/ticket-keys", typeJSON).Header.Get("ETag")
	last := make(chan struct{}) // closed when no more changes come
	var running sync.WaitGroup
	for range clients {
		running.Go(func() {
			for etag := first; ; {
				request, err := http.NewRequest(http.MethodGet, s.URL+"/ticket-keys", nil)
				if err != nil {
					t.Error(err)
					return
				}
				request.Header.Set("If-None-Match", etag)
				request.Header.Set("Prefer", "wait="+strconv.Itoa(slow))
				response, err := s.Client().Transport.RoundTrip(request) // without a second try
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if err != nil || response.StatusCode != http.StatusOK {
					t.Errorf("status %d, %v", response.StatusCode, err)
					return
				}
				etag = response.Header.Get("ETag")
				select {
				case <-last:
					if etag == generationTag(s) {
						return
					}
				default:
				}
			}
		})
	}
	rotate := func() {
		if _, err := s.ring.Rotate(t.Context(), keys.Update{}); err != nil {
			t.Error(err)
		}
	}
	for range rounds {
		s.awaitWaiters(t, clients)
		rotate()
		time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
		rotate()
	}
	s.awaitWaiters(t, clients)
	close(last)
	rotate()
	running.Wait()
}

func generationTag(s *service) string {
	return strconv.Quote(strconv.FormatUint(s.ring.Generation(), 10))
}

// TestWaitBeyondTimeouts waits for longer than the listener lets a request take.
func TestWaitBeyondTimeouts(t *testing.T) {
	t.Parallel()
	s := startService(t)
	server := httptest.NewUnstartedServer(s.api.Handler())
	const timeout = 2 * time.Second // a request has to be read by then, too
	server.Config.ReadTimeout, server.Config.WriteTimeout = timeout, timeout
	server.Start()
	defer server.Close()
	etag := s.get("/ticket-keys", typeJSON).Header.Get("ETag")
	request, err := http.NewRequest(http.MethodGet, server.URL+"/ticket-keys", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("If-None-Match", etag)
	request.Header.Set("Prefer", "wait=3")
	for range 2 { // the second on the same connection
		s.do(request).want(t, 304).wantHeader(t, "Preference-Applied", "wait=3")
	}
}

// TestWaitOnAConnection speaks to one connection: it goes on after a request that
// waited, whose next one may come before the answer, is closed when the client
// wants that, and each request is recorded with what was answered.
func TestWaitOnAConnection(t *testing.T) {
	s := startService(t)
	server := httptest.NewServer(s.api.Handler())
	defer server.Close()
	etag := s.get("/ticket-keys", typeJSON).Header.Get("ETag")
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(slow * time.Second)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	send := func(method, extra string) {
		t.Helper()
		if _, err := fmt.Fprintf(conn, "%s /ticket-keys HTTP/1.1\r\nHost: sessapi.test\r\nIf-None-Match: %s\r\n%s\r\n", method, etag, extra); err != nil {
			t.Fatal(err)
		}
	}
	receive := func(method string, status int) (last bool) {
		t.Helper()
		response, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != status || (len(body) > 0) != (method == http.MethodGet && status == 200) {
			t.Fatalf("%d with %d bytes, %v, want %d: %v", response.StatusCode, len(body), err, status, response.Header)
		}
		return response.Close
	}
	rotate := func() {
		t.Helper()
		s.awaitWaiters(t, 1)
		etag = s.post("/ticket-keys/rotate", "", nil).want(t, 200).Header.Get("ETag")
	}
	const wait = "Prefer: wait=60\r\n"
	for range 3 {
		send(http.MethodGet, wait)
		rotate()
		receive(http.MethodGet, 200)
		send(http.MethodGet, "")
		receive(http.MethodGet, 304)
	}
	send(http.MethodHead, wait)
	rotate()
	receive(http.MethodHead, 200)

	// The next request comes while one waits.
	send(http.MethodGet, wait)
	s.awaitWaiters(t, 1)
	send(http.MethodGet, "")
	rotate()
	receive(http.MethodGet, 200)
	receive(http.MethodGet, 200)

	send(http.MethodGet, wait+"Connection: close\r\n")
	rotate()
	if last := receive(http.MethodGet, 200); !last {
		t.Error("the answer does not say that the connection is closed")
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("the connection is not closed: %v", err)
	}
	s.awaitWaiters(t, 0)
	metrics := string(s.get("/metrics", "*/*").body)
	for _, want := range []string{
		`sessapi_http_requests_total{code="200",method="GET",route="/ticket-keys"} 7`, // with the first
		`sessapi_http_requests_total{code="200",method="HEAD",route="/ticket-keys"} 1`,
		`sessapi_http_requests_total{code="304",method="GET",route="/ticket-keys"} 3`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

// TestManyWaiters has many clients wait at once and tells how soon they are
// answered.
func TestManyWaiters(t *testing.T) {
	s := startService(t)
	server := httptest.NewServer(s.api.Handler()) // without the checks of the contract
	defer server.Close()
	client := server.Client()
	client.Transport.(*http.Transport).MaxConnsPerHost = 0
	const waiters = 500
	etag := s.get("/ticket-keys", typeJSON).Header.Get("ETag")
	answered := make([]time.Time, waiters)
	var running sync.WaitGroup
	failed := make(chan error, waiters)
	for i := range waiters {
		running.Go(func() {
			request, err := http.NewRequest(http.MethodGet, server.URL+"/ticket-keys?format=ats", nil)
			if err != nil {
				failed <- err
				return
			}
			request.Header.Set("If-None-Match", etag)
			request.Header.Set("Prefer", "wait="+strconv.Itoa(slow))
			response, err := client.Do(request)
			if err != nil {
				failed <- err
				return
			}
			defer response.Body.Close()
			if answered[i] = time.Now(); response.StatusCode != http.StatusOK {
				failed <- fmt.Errorf("status %d", response.StatusCode)
			}
		})
	}
	s.awaitWaiters(t, waiters)
	start := time.Now()
	s.post("/ticket-keys/rotate", "", nil).want(t, 200)
	running.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	slices.SortFunc(answered, time.Time.Compare)
	t.Logf("%d waiters answered: median after %v, 99 %% after %v", waiters, answered[waiters/2].Sub(start), answered[waiters*99/100].Sub(start))
}
