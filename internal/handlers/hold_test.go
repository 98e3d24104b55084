package handlers

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/keys"
)

// What is read early from a connection is read again, in its order, and a
// connection that goes round for long is wrapped once at most.
func TestUnread(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	conn := server
	for _, early := range []string{"", "c", "ab", ""} {
		conn = unread(conn, []byte(early))
	}
	if c, ok := conn.(*rereadConn); !ok || c.Conn != server {
		t.Fatalf("a connection %T", conn)
	}
	got := make([]byte, 3)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "abc" {
		t.Errorf("read %q, %v", got, err)
	}
	if unread(conn, nil) != server {
		t.Error("a connection whose bytes were read stays wrapped")
	}
}

// A panic while an answer is made that was held is a problem like any other.
func TestPanicInHeldAnswer(t *testing.T) {
	a := newAPI(t)
	router := chi.NewRouter()
	router.Use(a.observe, a.recoverPanics)
	router.Get("/", a.limitInFlight(a.inFlight, func(w http.ResponseWriter, r *http.Request) {
		has := generationETag(a.cfg.Ring.Generation())
		list, err := parseETags("If-None-Match", &has)
		if err != nil {
			panic(err)
		}
		a.whenChanged(w, r, list, time.Minute, 0, func(http.ResponseWriter, *http.Request) { panic("a secret") })
	}))
	server := httptest.NewServer(router)
	defer server.Close()
	returning := a.Returning()
	go func() { _ = server.Config.Serve(returning) }()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	for range 2 { // on one connection
		if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		for a.Waiting() != 1 {
			time.Sleep(time.Millisecond)
		}
		if _, err := a.cfg.Ring.Rotate(keys.Update{}); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		var p api.Problem
		err = json.NewDecoder(response.Body).Decode(&p)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusInternalServerError || p.Code != api.ProblemCodeInternal {
			t.Errorf("%d %+v, %v", response.StatusCode, p, err)
		}
	}
}

// A panic in the middle of an answer that was held ends the connection, and nothing
// else.
func TestPanicInMidstOfHeldAnswer(t *testing.T) {
	a := newAPI(t)
	w := &heldResponse{header: http.Header{}}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	whole := a.complete(w, time.Now(), r, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "secret")
		panic("a secret")
	})
	if whole || bytes.Contains(w.body.Bytes(), []byte("secret")) {
		t.Errorf("whole: %t, with %q", whole, w.body.Bytes())
	}
}
