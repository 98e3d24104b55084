package handlers

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
)

// Clients that are slow to send a body, more of them than there are places, keep
// nobody out, and what they cost is counted.
func TestSlowBodiesGiveWay(t *testing.T) {
	a := newAPI(t)
	a.inFlight = newPlaces(4)
	server := httptest.NewServer(a.Handler())
	defer server.Close()
	start := time.Now()
	var slow []net.Conn
	for range 8 {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		slow = append(slow, conn)
		_, err = fmt.Fprintf(conn, "PUT /sessions/01 HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 9\r\n\r\nslow", mediaBytes)
		if err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); len(a.inFlight.free) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the slow clients do not take the places")
		}
	}
	for i := range 20 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL+"/sessions/02", strings.NewReader("whole"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", mediaBytes)
		response, err := server.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode/100 != 2 {
			t.Errorf("PUT %d of another client: %d", i, response.StatusCode)
		}
	}
	if a.CutOff() == 0 {
		t.Error("nobody is said to be cut off")
	}
	// Their connections stay open for a while, and are closed then.
	for _, conn := range slow[:4] {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) < cutOffTime {
			t.Errorf("the connection of a slow client ends after %v: %v", time.Since(start), err)
		}
	}
}

// There are never too many connections that are kept for that.
func TestConnectionsOfCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		a.cutOff = make(chan struct{}, 1)
		start := time.Now()
		go a.keepCutOff()
		synctest.Wait()
		if a.keepCutOff(); time.Since(start) != 0 {
			t.Errorf("the second is kept for %v", time.Since(start))
		}
		time.Sleep(cutOffTime)
		synctest.Wait()
		if len(a.cutOff) != 0 {
			t.Error("the first is kept for more than its time")
		}
	})
}

// Who waited for a place has it for as long as others: the waiting is no reason to be
// cut off.
func TestWaitingForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces(1)
		first, second := httptest.NewRecorder(), httptest.NewRecorder()
		pl := p.take(first, time.Now())
		go func() {
			time.Sleep(4 * patience)
			p.leave(pl, first)
		}()
		came := time.Now()
		pl = p.take(second, came)
		if pl == nil {
			t.Fatal("it finds no place")
		}
		if waited := time.Since(came); waited < 4*patience || pl.since.Load() != time.Now().UnixNano() {
			t.Errorf("after %v it is in the place since %d, now is %d", waited, pl.since.Load(), time.Now().UnixNano())
		}
	})
}

// Clients that do not take their answers, over HTTP/2 with a window of nothing,
// give way too.
func TestUntakenAnswersGiveWay(t *testing.T) {
	a := newAPI(t)
	a.inFlight = newPlaces(4)
	server := httptest.NewUnstartedServer(a.Handler())
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The preface and SETTINGS with an INITIAL_WINDOW_SIZE of 0 (RFC 9113,
	// sections 3.4 and 6.5), then HEADERS of GETs of what is larger than net/http
	// buffers: :method GET, :scheme http, :path and :authority (RFC 7541, appendix A).
	wire := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00"
	fields := "\x82\x86\x04\x0d/openapi.yaml\x01\x09localhost"
	for i := range 4 {
		wire += "\x00\x00" + string(rune(len(fields))) + "\x01\x05\x00\x00\x00" + string(rune(2*i+1)) + fields
	}
	if _, err := conn.Write([]byte(wire)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); len(a.inFlight.free) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the streams do not take the places")
		}
	}
	response, err := server.Client().Get(server.URL + "/ticket-keys")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK || a.CutOff() == 0 {
		t.Errorf("another client gets %d, %d were cut off", response.StatusCode, a.CutOff())
	}
}

// slowStore is a disk that takes its time.
type slowStore struct{ saving, saved chan struct{} }

func (slowStore) Load() ([]byte, error) { return nil, nil }

func (s slowStore) Save([]byte) error {
	s.saving <- struct{}{}
	<-s.saved
	return nil
}

// An update of the ticket keys that waits for the disk is no slow client: it is
// answered. One whose client was cut off while it sent the body is not made.
func TestUpdatesAreSpared(t *testing.T) {
	a := newAPI(t)
	a.inFlight = newPlaces(1)
	store := slowStore{make(chan struct{}), make(chan struct{})}
	go func() { <-store.saving; store.saved <- struct{}{} }() // the first keys
	ring, err := keys.OpenRing(time.Now, keys.Lifecycle{}, store)
	if err != nil {
		t.Fatal(err)
	}
	a.cfg.Ring = ring
	server := httptest.NewServer(a.Handler())
	defer server.Close()
	generation := ring.Generation()
	answer := make(chan string)
	go func() {
		response, err := server.Client().Post(server.URL+"/ticket-keys/rotate", "", nil)
		if err != nil {
			answer <- err.Error()
			return
		}
		_ = response.Body.Close()
		answer <- response.Status
	}()
	<-store.saving
	time.Sleep(2 * patience) // by now it would be cut off
	response, err := server.Client().Get(server.URL + "/ticket-keys")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a request without a place gets %s", response.Status)
	}
	store.saved <- struct{}{}
	if got := <-answer; got != "200 OK" || a.CutOff() != 0 || ring.Generation() == generation {
		t.Errorf("the update gets %q, %d were cut off", got, a.CutOff())
	}

	w := httptest.NewRecorder()
	pl := a.inFlight.take(w, time.Now())
	pl.since.Store(0) // as cutting it off does
	if err := a.inFlight.spare(w, func() error { t.Error("a change is made that nobody is told of"); return nil }); !errors.Is(err, errCutOff) {
		t.Errorf("after it was cut off: %v", err)
	}
	a.inFlight.leave(pl, w)

	// However many changes wait for a disk, others find a place.
	many := newPlaces(16)
	made := 0
	var nested func(left int) error
	nested = func(left int) error {
		w := httptest.NewRecorder()
		pl := many.take(w, time.Now())
		defer many.leave(pl, w)
		return many.spare(w, func() error {
			made++
			return nested(left - 1)
		})
	}
	if err := nested(16); !errors.Is(err, errTooManyChanges) || made != 2 {
		t.Errorf("%d changes wait at a time: %v", made, err)
	}

	// Once the change is made, a client that does not take the answer can be cut off.
	pl = a.inFlight.take(w, time.Now())
	if err := a.inFlight.spare(w, func() error { return nil }); err != nil || pl.since.Load() == 0 {
		t.Errorf("after it was spared: %v, since %d", err, pl.since.Load())
	}
}
