package handlers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/sessapi/sessapi"
	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/keys"
)

type discardRecorder struct{}

func (discardRecorder) Request(string, string, int, time.Duration) {}
func (discardRecorder) Problem(string)                             {}

// newAPI is an API that keeps sessions of up to 1 KiB.
func newAPI(tb testing.TB) *API {
	tb.Helper()
	c, err := cache.New(cache.Config{Memory: 1 << 20, MaxSessionBytes: 1 << 10})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return New(Config{
		Cache: c, MaxSessionBytes: 1 << 10, DefaultTTL: time.Hour, MaxTTL: time.Hour,
		Ring: keys.NewRing(time.Now, keys.Lifecycle{}), Consumers: consumers.New(time.Now, nil), Log: slog.New(slog.DiscardHandler), Recorder: discardRecorder{},
		Metrics:      http.NotFoundHandler(),
		AllowedHosts: []string{"example.com"}, // which httptest's requests are to
	})
}

// serve answers a request; headers are pairs of name and value.
func serve(h http.Handler, method, target string, body io.Reader, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, body)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Each code of the contract has a kind, and the writer sends its document and headers,
// even for codes that no request reaches without credentials or a backend.
func TestProblemKinds(t *testing.T) {
	a := newAPI(t)
	for _, code := range contractCodes(t) {
		kind, ok := problemKinds[code]
		if !ok {
			t.Errorf("%s has no kind", code)
			continue
		}
		w := httptest.NewRecorder()
		a.fail(w, httptest.NewRequest(http.MethodGet, "/", nil), &problem{code: code})
		var p api.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		if w.Code != kind.status || p.Status != kind.status || p.Code != code || p.Title == "" || p.Detail == "" || p.RequestID == "" ||
			w.Header().Get("Content-Type") != "application/problem+json" || w.Header().Get("X-Request-Id") != p.RequestID {
			t.Errorf("%s: %d %s %v", code, w.Code, w.Body, w.Header())
		}
		for status, header := range map[int]string{401: "WWW-Authenticate", 429: "Retry-After"} {
			if kind.status == status && w.Header().Get(header) == "" {
				t.Errorf("%s: no %s", code, header)
			}
		}
	}
	for _, code := range []api.ProblemCode{api.ProblemCodeOverloaded, api.ProblemCodeBackendUnavailable} {
		if problemKinds[code].header[0] != "Retry-After" {
			t.Errorf("%s: no Retry-After", code)
		}
	}
}

// contractCodes are the codes that openapi.yaml lists.
func contractCodes(t *testing.T) []api.ProblemCode {
	t.Helper()
	var document struct {
		Components struct {
			Schemas struct {
				ProblemCode struct {
					Enum []api.ProblemCode `yaml:"enum"`
				} `yaml:"ProblemCode"`
			} `yaml:"schemas"`
		} `yaml:"components"`
	}
	if err := yaml.Unmarshal(sessapi.OpenAPI, &document); err != nil {
		t.Fatal(err)
	}
	codes := document.Components.Schemas.ProblemCode.Enum
	if len(codes) != len(problemKinds) {
		t.Errorf("%d codes in the contract, %d kinds", len(codes), len(problemKinds))
	}
	return codes
}

// A lent buffer holds nothing when it is lent again.
func TestBuffersAreWiped(t *testing.T) {
	p := newBufferPool(100)
	b := p.get()
	*b = append(*b, "secret"...)
	whole := (*b)[:cap(*b)]
	p.put(b)
	if !bytes.Equal(whole, make([]byte, cap(whole))) {
		t.Error("something is left in it")
	}
}

// A body of any kind and size is answered. One over the limit gets 413, with or without
// a declared size.
func TestBodyLimits(t *testing.T) {
	a := newAPI(t)
	h := a.Handler()
	largest := maxUploadBytes(a.cfg.MaxSessionBytes)
	for mediaType, limit := range map[string]int{mediaBytes: a.cfg.MaxSessionBytes, mediaPEM: largest, mediaJSON: largest} {
		for _, size := range []int{1, limit - 1, limit, limit + 1, 2 * limit, 1 << 20} {
			for _, chunked := range []bool{false, true} {
				r := httptest.NewRequest(http.MethodPut, "/sessions/01", bytes.NewReader(bytes.Repeat([]byte{'x'}, size)))
				if chunked {
					r.ContentLength = -1
				}
				r.Header.Set("Content-Type", mediaType)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if tooLarge := w.Code == http.StatusRequestEntityTooLarge; tooLarge != (size > limit) {
					t.Errorf("%s of %d bytes, limit %d, chunked %v: %d %s", mediaType, size, limit, chunked, w.Code, w.Body)
				}
			}
		}
	}
	for _, size := range []int{maxKeysBody - 1, maxKeysBody, maxKeysBody + 1, 1 << 20} {
		if w := serve(h, http.MethodPost, "/ticket-keys", bytes.NewReader(make([]byte, size)), "Content-Type", mediaBytes); w.Code != 422 {
			t.Errorf("keys of %d bytes: %d", size, w.Code)
		}
	}
}

// Accept selects the representation of a resource.
func TestNegotiate(t *testing.T) {
	for _, test := range []struct{ accept, want string }{
		{"", mediaJSON},
		{" ", mediaJSON},
		{"*/*", mediaJSON},
		{mediaPEM, mediaPEM},
		{"application/*", mediaJSON},
		{"application/json; charset=utf-8", mediaJSON},
		{"," + mediaBytes + ",", mediaBytes},
		{"*/*, application/json;q=0.1", mediaJSON},
		{"application/json;q=0, */*", ""},
		{"application/json;q=0.5, application/octet-stream", mediaBytes},
		{mediaJSON + ";q=0.5, " + mediaPEM + ";q=0.9", mediaPEM},
		{mediaPEM + ", " + mediaJSON, mediaPEM},
		{"text/html", ""},
		{"*/*;q=0", ""},
		// Unreadable ranges are ignored.
		{"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", mediaJSON}, // of Java 8
		{"application/json;q=2", mediaJSON},
		{"text", mediaJSON},
		{"a/b;q", mediaJSON},
		{"text, text/html", ""},
		{"application/json;q=x, " + mediaBytes, mediaBytes},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept", test.accept)
		if got, err := negotiate(r, mediaJSON, mediaBytes, mediaPEM); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("Accept: %q gives %q, %v, want %q", test.accept, got, err, test.want)
		}
	}
}

// An error unknown to the domain is internal, and the response does not reveal the
// cause.
func TestUnknownError(t *testing.T) {
	a := newAPI(t)
	var log bytes.Buffer
	a.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	w := httptest.NewRecorder()
	a.fail(w, httptest.NewRequest(http.MethodGet, "/", nil), fmt.Errorf("disk %d is on fire", 7))
	if w.Code != 500 || strings.Contains(w.Body.String(), "fire") || !strings.Contains(log.String(), "disk 7 is on fire") {
		t.Errorf("%d %s, log %s", w.Code, w.Body, &log)
	}
}

// A panic after the first byte aborts the response: the client must not take a part for
// the whole.
func TestPanicBehindFirstByte(t *testing.T) {
	a := newAPI(t)
	h := a.observe(a.recoverPanics(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("a part"))
		panic("late")
	})))
	server := httptest.NewServer(chiContext(h))
	defer server.Close()
	response, err := server.Client().Get(server.URL)
	if err == nil {
		_, err = io.ReadAll(response.Body)
		_ = response.Body.Close()
	}
	if err == nil {
		t.Error("the answer looks whole")
	}
}

// FuzzGetSession sends any query, Range and conditions. The response is a 4xx, or a
// part of the session that its headers describe and that is no larger than the room for
// it.
func FuzzGetSession(f *testing.F) {
	for _, seed := range [][4]string{
		{"max_bytes=0", "", "", ""},
		{"max_bytes=5", "", "", ""},
		{"max_bytes=-1", "", "", ""},
		{"max_bytes=9223372036854775808", "", "", ""},
		{"max_bytes=1;2", "", "", ""},
		{"", "bytes=0-0", "", ""},
		{"", "bytes=-5", "", ""},
		{"", "bytes=3-", `"x"`, ""},
		{"", "bytes=3-2", "", ""},
		{"", "bytes=0-1,2-3", "", `"x", W/"y"`},
		{"max_bytes=3", "bytes=0-1", "", "*"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	a := newAPI(f)
	h := a.Handler()
	session := []byte("0123456789abcdef")
	if w := serve(h, http.MethodPut, "/sessions/01", bytes.NewReader(session), "Content-Type", mediaBytes); w.Code != 201 {
		f.Fatal(w.Code)
	}
	f.Fuzz(func(t *testing.T, query, rang, ifRange, ifNoneMatch string) {
		r := httptest.NewRequest(http.MethodGet, "/sessions/01", nil)
		r.URL.RawQuery = query
		r.Header.Set("Accept", mediaBytes)
		for name, value := range map[string]string{"Range": rang, "If-Range": ifRange, "If-None-Match": ifNoneMatch} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		body := w.Body.Bytes()
		switch w.Code {
		case 200:
			if !bytes.Equal(body, session) {
				t.Errorf("200 with %q", body)
			}
		case 206:
			var first, last, size int
			if _, err := fmt.Sscanf(w.Header().Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size); err != nil ||
				size != len(session) || first > last || !bytes.Equal(body, session[first:last+1]) {
				t.Errorf("206 %s with %q", w.Header().Get("Content-Range"), body)
			}
		case 204, 304:
			if len(body) != 0 {
				t.Errorf("%d with %q", w.Code, body)
			}
		case 400, 416:
			if bytes.Contains(body, session) {
				t.Error("a problem holds the session")
			}
			return
		default:
			t.Fatalf("status %d", w.Code)
		}
		if got := w.Header().Get("Session-Size"); got != strconv.Itoa(len(session)) {
			t.Errorf("Session-Size: %s", got)
		}
		if room, err := strconv.ParseInt(r.URL.Query().Get("max_bytes"), 10, 64); err == nil && int64(len(body)) > room {
			t.Errorf("%d bytes for a room of %d", len(body), room)
		}
		if strings.Contains(query, "max_bytes=") && w.Code == 200 && len(r.URL.Query()) == 0 {
			t.Errorf("%q was passed over", query)
		}
	})
}

// FuzzCursor accepts any text as a cursor. A valid one equals the cursor of its
// position.
func FuzzCursor(f *testing.F) {
	a := newAPI(f)
	a.run = [4]byte{1, 2, 3, 4} // so that seeds stay good
	id, _ := cache.ParseID("0102")
	f.Add(a.cursor(id))
	f.Add("")
	f.Add("AAAAAAAA")
	f.Fuzz(func(t *testing.T, cursor string) {
		after, ok := a.parseCursor(cursor)
		if !ok {
			return
		}
		if again, ok := a.parseCursor(a.cursor(after)); !ok || again != after {
			t.Errorf("%q does not come back", cursor)
		}
	})
}

// FuzzRequestID sends any X-Request-Id. An accepted one is safe to log and send back.
func FuzzRequestID(f *testing.F) {
	for _, seed := range []string{"", "a-b_c.d:1", "a b", "\n", strings.Repeat("x", 65), "é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if saneRequestID(id) && (len(id) == 0 || len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' })) {
			t.Errorf("%q is kept", id)
		}
	})
}

// FuzzDecodeJSON decodes any body. An error never quotes it.
func FuzzDecodeJSON(f *testing.F) {
	for _, seed := range []string{`{"data":"AAAA"}`, `{"data":1}`, `{"data":"*"}`, `{"x":1}`, `{}{}`, ``, `[`, `{"ttl_seconds":1e99}`} {
		f.Add([]byte(seed))
	}
	a := newAPI(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		var v api.SessionUpload
		err := decodeJSON(body, &v)
		if _, ok := errors.AsType[notBase64](err); ok || err == nil {
			return
		}
		if p := a.asProblem(err); problemKinds[p.code].status/100 != 4 || len(p.detail) > 120 {
			t.Errorf("%q gives %v", body, err)
		}
	})
}

// FuzzReplaceTicketKeys sends any body as keys, raw and as JSON. The set is replaced,
// or the body is rejected with a 4xx and the set stays.
func FuzzReplaceTicketKeys(f *testing.F) {
	random := bytes.Repeat([]byte("\x01\x9f\x33\xc7\xaa\x10\xfe\x4d"), 12)
	for _, seed := range [][]byte{nil, random[:47], random[:48], random[:49], random} {
		f.Add(seed, false)
	}
	for _, seed := range []string{
		`{"keys":[]}`, `{"keys":null}`, `{"keys":[{"name":"00","hmac_secret":"*","aes_key":""}]}`,
		`{"keys":[{"name":"000102030405060708090a0b0c0d0e0f","hmac_secret":"AQIDBAUGBwgJCgsMDQ4PEA==","aes_key":"EQIDBAUGBwgJCgsMDQ4PEA=="}],"next":null}`,
	} {
		f.Add([]byte(seed), true)
	}
	a := newAPI(f)
	h := a.Handler()
	f.Fuzz(func(t *testing.T, body []byte, asJSON bool) {
		mediaType := mediaBytes
		if asJSON {
			mediaType = mediaJSON
		}
		before := a.cfg.Ring.Description()
		w := serve(h, http.MethodPost, "/ticket-keys", bytes.NewReader(body), "Content-Type", mediaType)
		after := a.cfg.Ring.Description()
		changed := after.Generation != before.Generation
		if w.Code != 200 && (w.Code/100 != 4 || changed) || changed && after.Generation != max(before.Generation+1, uint64(after.UpdatedAt.UnixMilli())) {
			t.Errorf("%q: status %d, generation %d, then %d", body, w.Code, before.Generation, after.Generation)
		}
	})
}

// BenchmarkGetSession is the hot path without the network.
func BenchmarkGetSession(b *testing.B) {
	a := newAPI(b)
	h := a.Handler()
	serve(h, http.MethodPut, "/sessions/01", bytes.NewReader(make([]byte, 160)), "Content-Type", mediaBytes)
	r := httptest.NewRequest(http.MethodGet, "/sessions/01", nil)
	r.Header.Set("Accept", mediaBytes)
	b.ReportAllocs()
	for b.Loop() {
		w := discardWriter{http.Header{}}
		h.ServeHTTP(w, r)
	}
}

// BenchmarkPutSession is the other hot path.
func BenchmarkPutSession(b *testing.B) {
	a := newAPI(b)
	h := a.Handler()
	data := make([]byte, 160)
	body := bytes.NewReader(data)
	r := httptest.NewRequest(http.MethodPut, "/sessions/01", io.NopCloser(body))
	r.ContentLength = int64(len(data))
	r.Header.Set("Content-Type", mediaBytes)
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(data)
		w := discardWriter{http.Header{}}
		h.ServeHTTP(w, r)
	}
}

type discardWriter struct{ header http.Header }

func (w discardWriter) Header() http.Header         { return w.header }
func (w discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w discardWriter) WriteHeader(int)             {}

// passing is a backend that will make the change later.
type passing struct{ left time.Duration }

func (passing) Error() string               { return "it recovers" }
func (passing) Outcome() string             { return "Later." }
func (passing) Logged() bool                { return true }
func (p passing) RetryAfter() time.Duration { return p.left }

// A backend decides when the client should retry, and says what became of the change.
func TestBackendSaysWhen(t *testing.T) {
	for left, want := range map[time.Duration]string{5100 * time.Millisecond: "6", -time.Second: "1"} {
		a := newAPI(t)
		var log bytes.Buffer
		a.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		w := httptest.NewRecorder()
		a.fail(w, httptest.NewRequest(http.MethodPost, "/ticket-keys/rotate", http.NoBody), fmt.Errorf("%w: %w", keys.ErrUnavailable, passing{left}))
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != want || !strings.Contains(w.Body.String(), "Later.") || log.Len() > 0 {
			t.Errorf("%v left: %d %v %s, logged %q", left, w.Code, w.Header(), w.Body, &log)
		}
	}
}
