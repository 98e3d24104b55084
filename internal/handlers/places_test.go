package handlers

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Clients that are slow to send a body, more of them than there are places, keep
// nobody out, and what they cost is counted.
func TestSlowBodiesGiveWay(t *testing.T) {
	a := newAPI(t)
	a.inFlight = newPlaces(4)
	server := httptest.NewServer(a.Handler())
	defer server.Close()
	for range 8 {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
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
