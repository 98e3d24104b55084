package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sessapi/sessapi/test/contract"
)

// What openapi.yaml allows is never refused as malformed, and what it does not
// allow is always refused, with 4xx. Requests are drawn from both kinds: each
// part of a request is drawn as the document has it or, now and then, not.
func TestRequestsBySchema(t *testing.T) {
	t.Parallel()
	s := startService(t)
	document := contract.Load(t)
	handler := document.Check(t, s.api.Handler())
	valid, invalid := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		r := drawRequest(t)
		refused := document.Valid(r) != nil
		body := new(bytes.Buffer)
		if r.GetBody != nil {
			again, _ := r.GetBody()
			_, _ = body.ReadFrom(again)
			r.Body, _ = r.GetBody()
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		switch {
		case refused && w.Code/100 != 4:
			t.Fatalf("%s %s %v %.80q: not valid, and answered with %d %.200s", r.Method, r.URL, r.Header, body, w.Code, w.Body)
		case !refused && (w.Code == 400 || w.Code == 404 && strings.Contains(w.Body.String(), "route_not_found") || w.Code == 405 || w.Code == 415 || w.Code/100 == 5):
			t.Fatalf("%s %s %v %.80q: valid, and answered with %d %.200s", r.Method, r.URL, r.Header, body, w.Code, w.Body)
		case refused:
			invalid++
		default:
			valid++
		}
	})
	t.Logf("%d valid and %d invalid requests", valid, invalid)
	if valid == 0 || invalid == 0 {
		t.Error("only one kind of request was drawn")
	}
}

// drawRequest draws a request to one of the operations that take input.
func drawRequest(t *rapid.T) *http.Request {
	query := url.Values{}
	header := http.Header{}
	var body []byte
	var method, path string
	switch rapid.SampledFrom([]string{"get", "put", "delete", "list", "describe", "replace", "rotate", "revoke"}).Draw(t, "operation") {
	case "get":
		method, path = rapid.SampledFrom([]string{http.MethodGet, http.MethodHead}).Draw(t, "method"), "/sessions/"+drawID(t)
		draw(t, "max_bytes", query, rapid.OneOf(rapid.SampledFrom([]string{"0", "1", "100", "9223372036854775807"}), bad("-1", "x", "1.5", "", "9223372036854775808")))
		if query.Has("max_bytes") {
			header.Set("Accept", typeBytes) // with JSON it contradicts itself, which no schema says
		} else if method == http.MethodGet {
			drawHeader(t, "Range", header, rapid.SampledFrom([]string{"bytes=0-1", "bytes=-3", "lines=1"}))
			drawHeader(t, "If-Range", header, drawETags)
			drawHeader(t, "Accept", header, rapid.SampledFrom([]string{typeBytes, typeJSON, "*/*"}))
		}
		drawHeader(t, "If-None-Match", header, drawETags)
	case "put":
		method, path = http.MethodPut, "/sessions/"+drawID(t)
		contentType := rapid.SampledFrom([]string{typeBytes, typeJSON, typeJSON, "text/plain", ""}).Draw(t, "type")
		header.Set("Content-Type", contentType)
		body = rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "body")
		if contentType == typeJSON {
			body = drawUpload(t)
		} else {
			draw(t, "ttl_seconds", query, rapid.OneOf(rapid.SampledFrom([]string{"1", "60", "9223372036854775807"}), bad("0", "-1", "x")))
		}
		drawHeader(t, "If-None-Match", header, rapid.Just("*"))
	case "delete":
		method, path = http.MethodDelete, "/sessions/"+drawID(t)
		drawHeader(t, "If-Match", header, drawETags)
	case "list":
		method, path = http.MethodGet, "/sessions"
		draw(t, "cursor", query, bad("", strings.Repeat("A", 129)))
		draw(t, "limit", query, rapid.OneOf(rapid.SampledFrom([]string{"1", "100", "1000"}), bad("0", "1001", "-1", "x", "")))
	case "describe":
		method, path = http.MethodGet, "/ticket-keys"
		// A format without a key of its own takes no key, which no schema says.
		if rapid.Bool().Draw(t, "one key a file") {
			query.Set("format", rapid.SampledFrom([]string{"httpd", "nginx", "envoy", "openssl"}).Draw(t, "format"))
			draw(t, "key", query, rapid.OneOf(rapid.SampledFrom([]string{"0", "1", "63"}), bad("-1", "64", "x", "")))
		} else {
			draw(t, "format", query, rapid.OneOf(rapid.SampledFrom([]string{"ats", "haproxy", "dnsdist", "h2o", "go"}), bad("atz", "")))
		}
		drawHeader(t, "If-None-Match", header, drawETags)
		drawHeader(t, "Prefer", header, rapid.SampledFrom([]string{"wait=0", "respond-async", ""}))
	case "replace":
		method, path = http.MethodPost, "/ticket-keys"
		contentType := rapid.SampledFrom([]string{typeBytes, typeJSON, typeJSON, "text/plain", "text/html"}).Draw(t, "type")
		header.Set("Content-Type", contentType)
		body = rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "body")
		if contentType == typeJSON {
			body = drawKeySet(t)
		}
		if contentType == "text/plain" { // and no other format, which no schema says
			query.Set("format", "haproxy")
		} else {
			draw(t, "format", query, rapid.OneOf(rapid.SampledFrom([]string{"ats", "httpd", "nginx", "envoy", "dnsdist", "openssl"}), bad("atz")))
		}
		drawHeader(t, "If-Match", header, drawETags)
	case "rotate":
		method, path = http.MethodPost, "/ticket-keys/rotate"
		drawHeader(t, "If-Match", header, drawETags)
	case "revoke":
		method = http.MethodDelete
		path = "/ticket-keys/" + rapid.OneOf(rapid.StringMatching(`[0-9a-fA-F]{32}`), bad("00", strings.Repeat("g", 32))).Draw(t, "name")
	}
	target := path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	r, err := http.NewRequest(method, "http://sessapi.test"+target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	return r
}

// bad draws what the document does not allow.
func bad(values ...string) *rapid.Generator[string] { return rapid.SampledFrom(values) }

var drawETags = rapid.SampledFrom([]string{"*", `"1"`, `"a", W/"b"`})

func drawID(t *rapid.T) string {
	return rapid.OneOf(rapid.StringMatching(`([0-9a-fA-F]{2}){1,32}`), rapid.StringMatching(`[0-9a-f]{2}`),
		bad("abc", "zz", strings.Repeat("a", 66), "a")).Draw(t, "id")
}

// draw sets a parameter half of the time.
func draw(t *rapid.T, name string, query url.Values, values *rapid.Generator[string]) {
	if rapid.Bool().Draw(t, "has "+name) {
		query.Set(name, values.Draw(t, name))
	}
}

func drawHeader(t *rapid.T, name string, header http.Header, values *rapid.Generator[string]) {
	if rapid.Bool().Draw(t, "has "+name) {
		header.Set(name, values.Draw(t, name))
	}
}

func drawUpload(t *rapid.T) []byte {
	upload := map[string]any{"data": base64.StdEncoding.EncodeToString(rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "data"))}
	switch rapid.IntRange(0, 9).Draw(t, "upload") {
	case 0:
		upload["ttl_seconds"] = rapid.SampledFrom([]any{1, 3600}).Draw(t, "ttl")
	case 1:
		upload["ttl_seconds"] = rapid.SampledFrom([]any{0, -1, 1.5, "1"}).Draw(t, "ttl")
	case 2:
		upload["unknown"] = 1
	case 3:
		delete(upload, "data")
	case 5:
		upload["ttl_seconds"] = nil
	case 6:
		upload["DATA"] = upload["data"]
	case 4:
		upload["data"] = rapid.SampledFrom([]any{nil, 7, []any{}, []any{65}, map[string]any{}}).Draw(t, "data")
	}
	return marshal(t, upload)
}

func drawKeySet(t *rapid.T) []byte {
	keys := []any{}
	for i := range rapid.IntRange(0, 3).Draw(t, "keys") {
		key := map[string]any{
			"name":        hex.EncodeToString(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "name")),
			"hmac_secret": rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "hmac"),
			"aes_key":     rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "aes"),
		}
		switch rapid.IntRange(0, 5).Draw(t, fmt.Sprintf("key %d", i)) {
		case 0:
			key["unknown"] = 1
		case 1:
			delete(key, rapid.SampledFrom([]string{"name", "hmac_secret", "aes_key"}).Draw(t, "missing"))
		case 2:
			key["name"] = rapid.SampledFrom([]any{"00", 7, nil}).Draw(t, "bad name")
		}
		keys = append(keys, key)
	}
	set := map[string]any{"keys": keys}
	if rapid.IntRange(0, 3).Draw(t, "next") == 0 {
		set["next"] = nil
	}
	if rapid.IntRange(0, 5).Draw(t, "set") == 0 {
		set["unknown"] = true
	}
	return marshal(t, set)
}

func marshal(t *rapid.T, v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
