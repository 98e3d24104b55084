package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const describedSession = `{"id":"%s","size":10,"format":"openssl","stored_at":"2026-11-24T12:00:00.000Z","expires_at":"2026-11-24T14:00:00.000Z"}`

func answerJSON(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", mediaJSON)
	_, _ = io.WriteString(w, text)
}

// All pages of a listing are followed, to the end or until the caller has enough.
func TestSessions(t *testing.T) {
	requests := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests++
		page, next := map[string]string{"": "01", "a": "02", "b": "03"}[r.URL.Query().Get("cursor")], map[string]string{"": "a", "a": "b"}[r.URL.Query().Get("cursor")]
		if next != "" {
			next = `,"next_cursor":"` + next + `"`
		}
		answerJSON(w, `{"sessions":[`+fmt.Sprintf(describedSession, page)+`]`+next+`}`)
	})
	var ids []string
	for s, err := range c.Sessions(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, s.ID)
	}
	if strings.Join(ids, " ") != "01 02 03" || requests != 3 {
		t.Errorf("%v in %d requests", ids, requests)
	}
	for _, err := range c.Sessions(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if requests != 4 {
		t.Errorf("%d requests", requests)
	}
}

// A session is stored, fetched and removed with the requests of the contract.
func TestSessionRequests(t *testing.T) {
	var got string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = strings.Join([]string{r.Method, r.URL.String(), r.Header.Get("Accept"), r.Header.Get("Content-Type"), string(body)}, " ")
		switch r.Method {
		case http.MethodPut:
			w.WriteHeader(map[bool]int{true: http.StatusCreated, false: http.StatusNoContent}[r.URL.RawQuery != ""])
		case http.MethodDelete:
			if r.URL.Path == "/sessions" {
				answerJSON(w, `{"removed":7}`)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("Content-Type", r.Header.Get("Accept"))
			_, _ = io.WriteString(w, "the bytes")
		}
	})
	ctx := t.Context()
	for want, do := range map[string]func() (bool, error){
		"PUT /sessions/0a?ttl_seconds=90  application/octet-stream data": func() (bool, error) { return c.PutSession(ctx, "0a", []byte("data"), 90*time.Second) },
		"PUT /sessions/0a  application/octet-stream data": func() (bool, error) {
			created, err := c.PutSession(ctx, "0a", []byte("data"), 0)
			return !created, err
		},
		"GET /sessions/0a application/octet-stream  ": func() (bool, error) {
			data, err := c.SessionBytes(ctx, "0a")
			return string(data) == "the bytes" && cap(data) <= len(data)+1, err
		},
		"GET /sessions/0a application/x-pem-file  ": func() (bool, error) {
			data, err := c.SessionPEM(ctx, "0a")
			return string(data) == "the bytes", err
		},
		"DELETE /sessions/0a   ": func() (bool, error) { return true, c.DeleteSession(ctx, "0a") },
		"DELETE /sessions   ":    func() (bool, error) { n, err := c.FlushSessions(ctx); return n == 7, err },
	} {
		if ok, err := do(); !ok || err != nil || got != want {
			t.Errorf("%q: %t, %v, sent %q", want, ok, err, got)
		}
	}
}

// An answer that breaks the contract is an error, which holds nothing that a terminal acts on.
func TestSessionAnswers(t *testing.T) {
	var contentType, body string
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	})
	list := func(ctx context.Context) error {
		for _, err := range c.Sessions(ctx) {
			return err
		}
		return nil
	}
	get := func(ctx context.Context) error { _, err := c.Session(ctx, "01"); return err }
	fetch := func(ctx context.Context) error { _, err := c.SessionBytes(ctx, "01"); return err }
	good := fmt.Sprintf(describedSession, "01")
	for _, test := range []struct {
		name, contentType, body string
		do                      func(context.Context) error
	}{
		{"a page of HTML", "text/html", "<html>", list},
		{"no JSON", mediaJSON, "<html>", list},
		{"a cursor for the terminal", mediaJSON, `{"sessions":[],"next_cursor":"\u001b[2J"}`, list},
		{"an ID for the terminal", mediaJSON, `{"sessions":[` + strings.Replace(good, "01", `\u001b[2J`, 1) + `]}`, list},
		{"a format for the terminal", mediaJSON, strings.Replace(good, "openssl", `\u001b[2J`, 1), get},
		{"a session of HTML", "text/html", "<html>", fetch},
		{"no session", mediaBytes, "", fetch},
		{"a session that is too large", mediaBytes, strings.Repeat("x", maxSessionBody+1), fetch},
	} {
		contentType, body = test.contentType, test.body
		if err := test.do(t.Context()); err == nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	contentType, body = mediaJSON, strings.Replace(good, "}", `,"openssl":{"protocol":"\u001b[2J","server_name":"\u001b[2J"}}`, 1)
	if s, err := c.Session(t.Context(), "01"); err != nil || strings.Contains(s.Openssl.Protocol+*s.Openssl.ServerName, "\x1b") {
		t.Errorf("%+v, %v", s, err)
	}
}

// An address with the wrong scheme is told from a service that is not there.
func TestScheme(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, described) })
	plain, secure := httptest.NewServer(answer), httptest.NewTLSServer(answer)
	defer plain.Close()
	defer secure.Close()
	for address, want := range map[string]error{
		strings.Replace(plain.URL, "http:", "https:", 1):  ErrPlainHTTP,
		strings.Replace(secure.URL, "https:", "http:", 1): ErrTLS,
	} {
		c, err := New(address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.TicketKeys(t.Context()); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", address, err, want)
		}
	}
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(bytes.Repeat([]byte("Client "), 100))
	})
	if _, err := c.TicketKeys(t.Context()); errors.Is(err, ErrTLS) {
		t.Error(err)
	}
}
