package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
)

func TestSessionLifecycle(t *testing.T) {
	t.Parallel()
	s := startService(t)
	id := []byte{0x8b, 0x1f, 0x0a}
	path := "/sessions/" + hexID(id)
	start := s.clock.Now().Truncate(time.Second)
	der := sslSession(id, start, 2*time.Hour)

	s.get(path, "*/*").wantProblem(t, 404, api.ProblemCodeSessionNotFound)
	s.request(http.MethodDelete, path, nil).wantProblem(t, 404, api.ProblemCodeSessionNotFound)

	created := s.put(path, typeBytes, der).want(t, 201)
	created.wantHeader(t, "Location", path).wantHeader(t, "Cache-Control", "no-store")
	tag := created.Header.Get("ETag")
	if len(created.body) != 0 {
		t.Errorf("a body of %d bytes answers a PUT", len(created.body))
	}

	got := s.get(path, typeBytes).want(t, 200)
	if !bytes.Equal(got.body, der) {
		t.Error("the bytes are not those that were stored")
	}
	got.wantHeader(t, "Session-Size", strconv.Itoa(len(der))).wantHeader(t, "ETag", tag)
	got.wantHeader(t, "Content-Type", typeBytes).wantHeader(t, "Cache-Control", "no-store")
	got.wantHeader(t, "Accept-Ranges", "bytes").wantHeader(t, "Content-Length", strconv.Itoa(len(der)))

	s.get("/sessions/"+strings.ToUpper(hexID(id)), typeBytes).want(t, 200)

	for _, accept := range []string{"*/*", "application/*", "application/json", "text/html, application/json;q=0.5"} {
		described := decode[api.Session](t, s.get(path, accept).want(t, 200))
		if described.ID != hexID(id) || described.Size != len(der) || described.Format != api.SessionFormatOpenssl {
			t.Errorf("Accept: %s describes %+v", accept, described)
		}
		o := described.Openssl
		if o == nil || o.Protocol != "TLSv1.2" || o.Cipher != "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" || !o.IDMatches ||
			o.SessionID != hexID(id) || !o.StartedAt.Equal(start) || o.TimeoutSeconds != 7200 {
			t.Errorf("Accept: %s describes %+v", accept, o)
		}
		if !described.ExpiresAt.Equal(start.Add(2 * time.Hour)) {
			t.Errorf("ends at %v, want its own start + timeout", described.ExpiresAt)
		}
	}
	if got := s.request(http.MethodGet, path, nil).want(t, 200); got.Header.Get("Content-Type") != typeJSON {
		t.Errorf("without Accept: %s", got.Header.Get("Content-Type"))
	}

	replaced := s.put(path, typeBytes, []byte("opaque")).want(t, 204)
	if replaced.Header.Get("ETag") == tag || replaced.Header.Get("Location") != "" {
		t.Errorf("replacing answers with %v", replaced.Header)
	}
	described := decode[api.Session](t, s.get(path, typeJSON).want(t, 200))
	if described.Format != api.SessionFormatOpaque || described.Openssl != nil || described.Size != 6 {
		t.Errorf("opaque bytes are described as %+v", described)
	}
	s.get(path, typePEM).wantProblem(t, 406, api.ProblemCodeNotAcceptable)
	s.get(path, typePEM+", "+typeBytes+";q=0.1").want(t, 200).wantHeader(t, "Content-Type", typeBytes)
	s.get(path, "application/json;q=0, */*").wantProblem(t, 406, api.ProblemCodeNotAcceptable)

	s.request(http.MethodDelete, path, nil).want(t, 204)
	s.get(path, typeBytes).wantProblem(t, 404, api.ProblemCodeSessionNotFound)
}

func TestSessionPEM(t *testing.T) {
	t.Parallel()
	s := startService(t)
	der := sslSession([]byte{1}, s.clock.Now(), time.Hour)
	s.put("/sessions/01", typeBytes, der).want(t, 201)
	text := s.get("/sessions/01", typePEM).want(t, 200)
	text.wantHeader(t, "Session-Size", strconv.Itoa(len(text.body)))
	if !bytes.HasPrefix(text.body, []byte("-----BEGIN SSL SESSION PARAMETERS-----\n")) {
		t.Fatalf("PEM is %q", text.body[:40])
	}

	s.put("/sessions/02", typePEM, text.body).want(t, 201)
	back := s.get("/sessions/02", typeBytes).want(t, 200)
	if !bytes.Equal(back.body, der) {
		t.Error("PEM is not stored as its DER")
	}
	if text.Header.Get("ETag") == back.Header.Get("ETag") {
		t.Error("two representations have one strong ETag")
	}
	part := s.get("/sessions/01?max_bytes=10", typePEM).want(t, 206)
	if !bytes.Equal(part.body, text.body[:10]) {
		t.Errorf("a part of PEM is %q", part.body)
	}
}

func TestSessionJSONUpload(t *testing.T) {
	t.Parallel()
	s := startService(t)
	upload := func(ttl int) []byte {
		body, _ := json.Marshal(map[string]any{"data": []byte("opaque"), "ttl_seconds": ttl})
		return body
	}
	s.put("/sessions/01", typeJSON, upload(60)).want(t, 201)
	if got := s.get("/sessions/01", typeBytes); string(got.body) != "opaque" {
		t.Errorf("stored %q", got.body)
	}
	s.clock.advance(59 * time.Second)
	s.get("/sessions/01", typeBytes).want(t, 200)
	s.clock.advance(time.Second)
	s.get("/sessions/01", typeBytes).wantProblem(t, 404, api.ProblemCodeSessionNotFound)
}

func TestSessionTTL(t *testing.T) {
	t.Parallel()
	s := startService(t)
	now := s.clock.Now()
	for _, test := range []struct {
		name, query string
		body        []byte
		want        time.Time
	}{
		{"given", "?ttl_seconds=17", []byte("opaque"), now.Add(17 * time.Second)},
		{"given for OpenSSL", "?ttl_seconds=17", sslSession([]byte{1}, now, time.Hour), now.Add(17 * time.Second)},
		{"given for a past one", "?ttl_seconds=17", sslSession([]byte{1}, now.Add(-2*time.Hour), time.Hour), now.Add(17 * time.Second)},
		{"its own", "", sslSession([]byte{1}, now, time.Hour), now.Truncate(time.Second).Add(time.Hour)},
		{"default", "", []byte("opaque"), now.Add(300 * time.Second)},
		{"longest", "?ttl_seconds=999999999999999999", []byte("opaque"), now.Add(168 * time.Hour)},
		{"its own, too long", "", sslSession([]byte{1}, now, 10000*time.Hour), now.Add(168 * time.Hour)},
		{"its own, overflowing", "", sslSession([]byte{1}, now, 1<<62), now.Add(168 * time.Hour)},
	} {
		s.put("/sessions/01"+test.query, typeBytes, test.body)
		got := decode[api.Session](t, s.get("/sessions/01", typeJSON).want(t, 200)).ExpiresAt
		if d := got.Sub(test.want).Abs(); d > 2*time.Millisecond {
			t.Errorf("%s: ends at %v, want %v", test.name, got, test.want)
		}
	}
}

func TestSessionRanges(t *testing.T) {
	t.Parallel()
	s := startService(t)
	data := []byte("0123456789")
	tag := s.put("/sessions/aa", typeBytes, data).want(t, 201).Header.Get("ETag")
	for _, test := range []struct {
		query, rang, ifRange string
		status               int
		body, contentRange   string
	}{
		{rang: "bytes=0-3", status: 206, body: "0123", contentRange: "bytes 0-3/10"},
		{rang: "bytes=4-6", status: 206, body: "456", contentRange: "bytes 4-6/10"},
		{rang: "bytes=7-", status: 206, body: "789", contentRange: "bytes 7-9/10"},
		{rang: "bytes=0-", status: 206, body: "0123456789", contentRange: "bytes 0-9/10"},
		{rang: "bytes=5-99999999999999999999999", status: 206, body: "56789", contentRange: "bytes 5-9/10"},
		{rang: "bytes=-3", status: 206, body: "789", contentRange: "bytes 7-9/10"},
		{rang: "bytes=-99999999999999999999999", status: 206, body: "0123456789", contentRange: "bytes 0-9/10"},
		{rang: "BYTES=9-9", status: 206, body: "9", contentRange: "bytes 9-9/10"},
		{rang: "bytes=0-0,9-9", status: 200, body: "0123456789"},
		{rang: "lines=0-3", status: 200, body: "0123456789"},
		{rang: "bytes=2-3", ifRange: tag, status: 206, body: "23", contentRange: "bytes 2-3/10"},
		{rang: "bytes=2-3", ifRange: `"other"`, status: 200, body: "0123456789"},
		{rang: "bytes=2-3", ifRange: "W/" + tag, status: 200, body: "0123456789"},
		{rang: "bytes=2-3", ifRange: "Tue, 24 Nov 2026 12:00:00 GMT", status: 200, body: "0123456789"},
		{query: "?max_bytes=4", status: 206, body: "0123", contentRange: "bytes 0-3/10"},
		{query: "?max_bytes=9", status: 206, body: "012345678", contentRange: "bytes 0-8/10"},
		{query: "?max_bytes=10", status: 200, body: "0123456789"},
		{query: "?max_bytes=9223372036854775807", status: 200, body: "0123456789"},
		{query: "?max_bytes=0", status: 204},
	} {
		headers := []string{"Range", test.rang, "If-Range", test.ifRange}
		if test.rang == "" {
			headers = nil
		} else if test.ifRange == "" {
			headers = headers[:2]
		}
		got := s.get("/sessions/aa"+test.query, typeBytes, headers...)
		if got.StatusCode != test.status || string(got.body) != test.body {
			t.Errorf("%+v: %d %q", test, got.StatusCode, got.body)
		}
		got.wantHeader(t, "Content-Range", test.contentRange).wantHeader(t, "Session-Size", "10").wantHeader(t, "ETag", tag)

		// HEAD says the same without the body; it has no ranges but max_bytes.
		if test.rang != "" {
			continue
		}
		head := s.request(http.MethodHead, "/sessions/aa"+test.query, nil, "Accept", typeBytes).want(t, test.status)
		for _, name := range []string{"Content-Length", "Content-Range", "Session-Size", "ETag", "Content-Type", "Cache-Control", "Accept-Ranges", "Vary"} {
			head.wantHeader(t, name, got.Header.Get(name))
		}
	}
	for _, rang := range []string{"bytes=10-", "bytes=10-12", "bytes=99999999999999999999999-", "bytes=-0"} {
		got := s.get("/sessions/aa", typeBytes, "Range", rang)
		p := got.wantProblem(t, 416, api.ProblemCodeRangeNotSatisfiable)
		if p.Size == nil || *p.Size != 10 {
			t.Errorf("Range: %s: size %v", rang, p.Size)
		}
		got.wantHeader(t, "Content-Range", "bytes */10")
	}
	for _, rang := range []string{"bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5", "bytes=5-4", "bytes=+1-2", "bytes=1-2 3"} {
		s.get("/sessions/aa", typeBytes, "Range", rang).wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	}
	s.get("/sessions/aa?max_bytes=5", typeBytes, "Range", "bytes=0-4").wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	for _, accept := range []string{"*/*", typeJSON, "application/*", typeJSON + ", " + typePEM} {
		p := s.get("/sessions/aa?max_bytes=5", accept).wantProblem(t, 406, api.ProblemCodeNotAcceptable)
		if !strings.Contains(p.Detail, "max_bytes") || !strings.Contains(p.Detail, typeBytes) || strings.Contains(p.Detail, typePEM) {
			t.Errorf("Accept: %s: %s", accept, p.Detail)
		}
	}
	s.get("/sessions/aa?max_bytes=5", "*/*, "+typeBytes+";q=0.1").want(t, 206)
	s.get("/sessions/aa?max_bytes=0", "*/*").want(t, 204).wantHeader(t, "Session-Size", "10")
	for _, n := range []string{"-1", "x", "", "1.5", "9223372036854775808", "1&max_bytes=2", "%zz", "5;x", "5&%"} {
		s.get("/sessions/aa?max_bytes="+n, typeBytes).wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	}
}

func TestSessionConditions(t *testing.T) {
	t.Parallel()
	s := startService(t)
	path := "/sessions/ab"
	s.put(path, typeBytes, []byte("x"), "If-Match", "*").wantProblem(t, 412, api.ProblemCodePreconditionFailed)
	tag := s.put(path, typeBytes, []byte("one"), "If-None-Match", "*").want(t, 201).Header.Get("ETag")
	s.put(path, typeBytes, []byte("two"), "If-None-Match", "*").wantProblem(t, 412, api.ProblemCodePreconditionFailed)
	if got := s.get(path, typeBytes); string(got.body) != "one" {
		t.Errorf("a refused PUT left %q", got.body)
	}

	s.get(path, typeBytes, "If-None-Match", tag).want(t, 304).wantHeader(t, "ETag", tag)
	s.get(path, typeBytes, "If-None-Match", `"x", W/`+tag).want(t, 304)
	s.get(path, typeBytes, "If-None-Match", "*").want(t, 304)
	s.get(path, typeBytes, "If-None-Match", `"x"`).want(t, 200)
	s.request(http.MethodHead, path, nil, "Accept", typeBytes, "If-None-Match", tag).want(t, 304)
	s.get(path, typeBytes, "If-Match", tag).want(t, 200)
	s.get(path, typeBytes, "If-Match", "W/"+tag).wantProblem(t, 412, api.ProblemCodePreconditionFailed)
	s.get(path, typeBytes, "If-Match", `"x"`).wantProblem(t, 412, api.ProblemCodePreconditionFailed)
	s.get(path, typeBytes, "If-None-Match", `"x",, `+tag+",").want(t, 304)
	s.get(path, typeBytes, "If-None-Match", `"x"`, "If-None-Match", tag).want(t, 304)
	for _, malformed := range []string{"x", `"x`, `"x" "y"`, `"x",y`, "**", "", ","} {
		s.get(path, typeBytes, "If-None-Match", malformed).wantProblem(t, 400, api.ProblemCodeInvalidRequest)
		s.put(path, typeBytes, []byte("x"), "If-Match", malformed).wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	}

	newTag := s.put(path, typeBytes, []byte("two"), "If-Match", tag).want(t, 204).Header.Get("ETag")
	s.put(path, typeBytes, []byte("three"), "If-Match", tag).wantProblem(t, 412, api.ProblemCodePreconditionFailed)
	s.put(path, typeBytes, []byte("three"), "If-None-Match", newTag).wantProblem(t, 412, api.ProblemCodePreconditionFailed)
	s.request(http.MethodDelete, path, nil, "If-Match", tag).wantProblem(t, 412, api.ProblemCodePreconditionFailed)
	s.request(http.MethodDelete, path, nil, "If-Match", newTag).want(t, 204)
}

func TestSessionIDs(t *testing.T) {
	t.Parallel()
	s := startService(t)
	for _, bad := range []string{"a", "abc", strings.Repeat("a", 65), strings.Repeat("a", 66), "zz", "0x12", "ab%20", "a%2Fb0", "äö"} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
			got := s.request(method, "/sessions/"+bad, []byte("x"), "Content-Type", typeBytes)
			p := got.wantProblem(t, 400, api.ProblemCodeInvalidSessionID)
			if strings.Contains(p.Detail, bad) && len(bad) > 3 {
				t.Errorf("the problem repeats the ID: %q", p.Detail)
			}
		}
	}
	longest := strings.Repeat("aB", 32)
	s.put("/sessions/"+longest, typeBytes, []byte("x")).want(t, 201).wantHeader(t, "Location", "/sessions/"+strings.ToLower(longest))
	s.put("/sessions/0A", typeBytes, []byte("x")).want(t, 201)
	s.put("/sessions/0a", typeBytes, []byte("x")).want(t, 204)
}

func TestSessionBadBodies(t *testing.T) {
	t.Parallel()
	s := startService(t)
	good := sslSession([]byte{1}, s.clock.Now(), time.Hour)
	s.put("/sessions/01", typeBytes, good).want(t, 201)
	goodPEM := string(s.get("/sessions/01", typePEM).body)
	truncated := "-----BEGIN SSL SESSION PARAMETERS-----\n" + base64.StdEncoding.EncodeToString(good[:len(good)-1]) + "\n-----END SSL SESSION PARAMETERS-----\n"

	for _, test := range []struct {
		name, contentType, body string
		query                   string
		status                  int
		code                    api.ProblemCode
	}{
		{name: "empty", contentType: typeBytes, status: 422, code: api.ProblemCodeInvalidSession},
		{name: "empty PEM", contentType: typePEM, status: 422, code: api.ProblemCodeInvalidSession},
		{name: "empty JSON", contentType: typeJSON, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "empty data", contentType: typeJSON, body: `{"data":""}`, status: 422, code: api.ProblemCodeInvalidSession},
		{name: "too large", contentType: typeBytes, body: strings.Repeat("x", maxSession+1), status: 413, code: api.ProblemCodeSessionTooLarge},
		{name: "too large in JSON", contentType: typeJSON, body: `{"data":"` + strings.Repeat("AAAA", maxSession/3+1) + `"}`, status: 413, code: api.ProblemCodeSessionTooLarge},
		{name: "far too large in JSON", contentType: typeJSON, body: `{"data":"` + strings.Repeat("AAAA", maxSession) + `"}`, status: 413, code: api.ProblemCodeSessionTooLarge},
		{name: "truncated DER in PEM", contentType: typePEM, body: truncated, status: 422, code: api.ProblemCodeInvalidSession},
		{name: "another PEM", contentType: typePEM, body: strings.ReplaceAll(goodPEM, "SSL SESSION PARAMETERS", "CERTIFICATE"), status: 422, code: api.ProblemCodeInvalidSession},
		{name: "broken PEM as bytes", contentType: typeBytes, body: truncated, status: 422, code: api.ProblemCodeInvalidSession},
		{name: "another PEM as bytes", contentType: typeBytes, body: strings.ReplaceAll(goodPEM, "SSL SESSION PARAMETERS", "CERTIFICATE"), status: 422, code: api.ProblemCodeInvalidSession},
		{name: "broken PEM in JSON", contentType: typeJSON, body: `{"data":"` + base64.StdEncoding.EncodeToString([]byte(truncated)) + `"}`, status: 422, code: api.ProblemCodeInvalidSession},
		{name: "broken base64 in PEM", contentType: typePEM, body: strings.Replace(goodPEM, "M", "*", 3), status: 422, code: api.ProblemCodeInvalidSession},
		{name: "no PEM", contentType: typePEM, body: "hello", status: 422, code: api.ProblemCodeInvalidSession},
		{name: "expired", contentType: typeBytes, body: string(sslSession([]byte{1}, s.clock.Now().Add(-time.Hour), time.Hour)), status: 422, code: api.ProblemCodeInvalidSession},
		{name: "broken base64", contentType: typeJSON, body: `{"data":"***"}`, status: 422, code: api.ProblemCodeInvalidSession},
		{name: "unknown member", contentType: typeJSON, body: `{"data":"AAAA","tll_seconds":1}`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "a member twice", contentType: typeJSON, body: `{"data":"AAAA","data":"AAAA"}`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "a member in another case", contentType: typeJSON, body: `{"DATA":"AAAA"}`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "bytes as an array", contentType: typeJSON, body: `{"data":[65,66]}`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "base64 with line ends", contentType: typeJSON, body: `{"data":"AA\nAA"}`, status: 422, code: api.ProblemCodeInvalidSession},
		{name: "trailing data", contentType: typeJSON, body: `{"data":"AAAA"}{}`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "no data", contentType: typeJSON, body: `{}`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "null data", contentType: typeJSON, body: `{"data":null}`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "wrong type", contentType: typeJSON, body: `{"data":12345678}`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "an array", contentType: typeJSON, body: `["AAAA"]`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "cut off", contentType: typeJSON, body: `{"data":"AA`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "not JSON", contentType: typeJSON, body: `data=AAAA`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "ttl of 0 in JSON", contentType: typeJSON, body: `{"data":"AAAA","ttl_seconds":0}`, status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "ttl beside JSON", contentType: typeJSON, body: `{"data":"AAAA"}`, query: "?ttl_seconds=5", status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "ttl of 0", contentType: typeBytes, body: "x", query: "?ttl_seconds=0", status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "ttl of -1", contentType: typeBytes, body: "x", query: "?ttl_seconds=-1", status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "ttl of no number", contentType: typeBytes, body: "x", query: "?ttl_seconds=1h", status: 400, code: api.ProblemCodeInvalidRequest},
		{name: "wrong type", contentType: "text/plain", body: "x", status: 415, code: api.ProblemCodeUnsupportedMediaType},
		{name: "prefix of a type", contentType: "application/octet-streamer", body: "x", status: 415, code: api.ProblemCodeUnsupportedMediaType},
		{name: "no type", contentType: "", body: "x", status: 415, code: api.ProblemCodeUnsupportedMediaType},
		{name: "a form", contentType: "application/x-www-form-urlencoded", body: "x", status: 415, code: api.ProblemCodeUnsupportedMediaType},
	} {
		got := s.put("/sessions/01"+test.query, test.contentType, []byte(test.body))
		p := got.wantProblem(t, test.status, test.code)
		if test.name == "base64 with line ends" && !strings.Contains(p.Detail, "line ends") {
			t.Errorf("%s: %s", test.name, p.Detail)
		}
		switch test.code {
		case api.ProblemCodeSessionTooLarge:
			if p.LimitBytes == nil || *p.LimitBytes != maxSession {
				t.Errorf("%s: limit_bytes is %v", test.name, p.LimitBytes)
			}
		case api.ProblemCodeUnsupportedMediaType:
			got.wantHeader(t, "Accept", "application/octet-stream, application/x-pem-file, application/json")
		}
		if now := s.get("/sessions/01", typeBytes).want(t, 200); !bytes.Equal(now.body, good) {
			t.Fatalf("%s: changed the session", test.name)
		}
	}
}

// What changes the meaning of a body is not passed over.
func TestSessionBodyHeaders(t *testing.T) {
	t.Parallel()
	s := startService(t)
	s.put("/sessions/01", typeBytes, []byte("x"), "Content-Range", "bytes 0-0/5").wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	s.put("/sessions/01", typeBytes, []byte("x"), "Content-Encoding", "gzip").wantProblem(t, 415, api.ProblemCodeUnsupportedMediaType)
	s.put("/sessions/01", typeBytes, []byte("x"), "Content-Encoding", "identity", "Content-Encoding", "gzip").wantProblem(t, 415, api.ProblemCodeUnsupportedMediaType)
	s.put("/sessions/01", typeBytes, []byte("x"), "Content-Encoding", "identity").want(t, 201)
}

// A chunked body says nothing of its size before it is too large.
func TestSessionChunkedBody(t *testing.T) {
	t.Parallel()
	s := startService(t)
	for _, test := range []struct{ size, status int }{{maxSession, 201}, {maxSession + 1, 413}, {1 << 20, 413}, {0, 422}} {
		request, err := http.NewRequest(http.MethodPut, s.URL+"/sessions/"+fmt.Sprintf("%08x", test.size), io.MultiReader(strings.NewReader(strings.Repeat("x", test.size))))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", typeBytes)
		request.ContentLength = -1
		s.do(request).want(t, test.status)
	}
}

func TestListSessions(t *testing.T) {
	t.Parallel()
	s := startService(t)
	const n = 257
	for i := range n {
		s.put(fmt.Sprintf("/sessions/%04x", i), typeBytes, []byte("x")).want(t, 201)
	}
	for _, limit := range []int{1000, 100, 64, 1} {
		seen := map[string]int{}
		path := fmt.Sprintf("/sessions?limit=%d", limit)
		for cursor := ""; ; {
			query := path
			if cursor != "" {
				query += "&cursor=" + cursor
			}
			page := decode[api.SessionPage](t, s.get(query, typeJSON).want(t, 200))
			if len(page.Sessions) > limit {
				t.Fatalf("a page of %d, limit %d", len(page.Sessions), limit)
			}
			for _, session := range page.Sessions {
				seen[session.ID]++
				if session.Openssl != nil || session.Size != 1 || session.Format != api.SessionFormatOpaque {
					t.Fatalf("lists %+v", session)
				}
			}
			if page.NextCursor == nil {
				break
			}
			cursor = *page.NextCursor
		}
		if len(seen) != n {
			t.Errorf("limit %d: lists %d of %d sessions", limit, len(seen), n)
		}
		for id, times := range seen {
			if times != 1 {
				t.Errorf("limit %d: lists %s %d times", limit, id, times)
			}
		}
	}
	if page := decode[api.SessionPage](t, s.get("/sessions", typeJSON)); len(page.Sessions) != 100 {
		t.Errorf("a page has %d by default", len(page.Sessions))
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=-1", "limit=x", "limit=99999999999", "cursor=%00", "cursor=AAAA", "cursor=", "cursor=" + strings.Repeat("A", 129)} {
		s.get("/sessions?"+query, typeJSON).wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	}
	s.get("/sessions", "text/html").wantProblem(t, 406, api.ProblemCodeNotAcceptable)

	// A cursor of another run of the service points nowhere in this one.
	other := startService(t)
	other.put("/sessions/01", typeBytes, []byte("x"))
	other.put("/sessions/02", typeBytes, []byte("x"))
	foreign := decode[api.SessionPage](t, other.get("/sessions?limit=1", typeJSON)).NextCursor
	s.get("/sessions?cursor="+*foreign, typeJSON).wantProblem(t, 400, api.ProblemCodeInvalidRequest)

	if got := decode[api.Flushed](t, s.request(http.MethodDelete, "/sessions", nil).want(t, 200)); got.Removed != n {
		t.Errorf("flush removed %d of %d", got.Removed, n)
	}
	if page := decode[api.SessionPage](t, s.get("/sessions", typeJSON)); len(page.Sessions) != 0 || page.Sessions == nil {
		t.Errorf("lists %v after a flush", page.Sessions)
	}
}

// A listing that runs while others write has each session that stays exactly
// once.
func TestListingWhileOthersWrite(t *testing.T) {
	t.Parallel()
	s := startService(t)
	const stay = 300
	for i := range stay {
		s.put(fmt.Sprintf("/sessions/aa%04x", i), typeBytes, []byte("x")).want(t, 201)
	}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				path := fmt.Sprintf("/sessions/bb%04x", random.IntN(500))
				if random.IntN(2) == 0 {
					s.put(path, typeBytes, []byte("x"))
				} else {
					s.request(http.MethodDelete, path, nil)
				}
			}
		})
	}
	for range 5 {
		seen := map[string]int{}
		query := url.Values{"limit": {"37"}}
		for {
			page := decode[api.SessionPage](t, s.get("/sessions?"+query.Encode(), typeJSON))
			for _, session := range page.Sessions {
				seen[session.ID]++
			}
			if page.NextCursor == nil {
				break
			}
			query.Set("cursor", *page.NextCursor)
		}
		for i := range stay {
			if n := seen[fmt.Sprintf("aa%04x", i)]; n != 1 {
				t.Errorf("aa%04x is listed %d times", i, n)
			}
		}
	}
	close(stop)
	writers.Wait()
}
