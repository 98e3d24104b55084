package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/keys"
)

const typeText = "text/plain"

// typeOf is the media type that a format is sent in.
func typeOf(format keys.Format) string {
	switch {
	case format == keys.H2O:
		return "application/yaml"
	case format.Text():
		return typeText
	}
	return typeBytes
}

// TestFormats fetches the set in each format and pushes it back, which changes
// nothing, and pushes it into another service, which then gives out the same.
func TestFormats(t *testing.T) {
	t.Parallel()
	for _, format := range keys.Formats() {
		t.Run(format.String(), func(t *testing.T) {
			s, other := startService(t), startService(t)
			path := "/ticket-keys?format=" + format.String()
			got := s.get(path, "*/*").want(t, 200).wantHeader(t, "Content-Type", typeOf(format)).wantHeader(t, "Cache-Control", "no-store")
			etag := got.Header.Get("ETag")
			s.get(path, typeOf(format), "If-None-Match", etag).want(t, 304)
			s.get(path, typeJSON).wantProblem(t, 406, api.ProblemCodeNotAcceptable)

			if !format.Readable() {
				for _, body := range [][]byte{got.body, yamlBomb} {
					s.post(path, typeOf(format), body).wantProblem(t, 400, api.ProblemCodeInvalidRequest)
				}
				s.get("/ticket-keys", typeJSON).wantHeader(t, "ETag", etag)
				return
			}
			if pushed := s.post(path, typeOf(format), got.body).want(t, 200); format.OneKey() {
				if n := len(describe(t, pushed).Keys); n != 1 { // a file is the whole set
					t.Errorf("%d keys are left", n)
				}
			} else {
				pushed.wantHeader(t, "ETag", etag)
			}
			s.post(path, "application/x-www-form-urlencoded", got.body).wantProblem(t, 415, api.ProblemCodeUnsupportedMediaType)
			before := other.get("/ticket-keys", typeJSON).Header.Get("ETag")
			for _, broken := range [][]byte{got.body[:len(got.body)-2], append(bytes.Clone(got.body), "xx"...), yamlBomb, nil} {
				other.post(path, typeOf(format), broken).wantProblem(t, 422, api.ProblemCodeInvalidTicketKeys)
			}
			other.get("/ticket-keys", typeJSON).wantHeader(t, "ETag", before)
			other.post(path, typeOf(format), got.body).want(t, 200)
			if again := other.get(path, "*/*").want(t, 200); !bytes.Equal(again.body, got.body) {
				t.Error("the other service gives out other keys")
			}
		})
	}
}

// yamlBomb grows to a gigabyte where aliases are followed.
var yamlBomb = func() []byte {
	b := []byte("a: &a [x, x, x, x, x, x, x, x]\n")
	for c := byte('b'); c < 'k'; c++ {
		b = fmt.Appendf(b, "%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	return b
}()

func TestFormatFiles(t *testing.T) {
	t.Parallel()
	s := startService(t)
	s.post("/ticket-keys/rotate", "", nil).want(t, 200)
	d := describe(t, s.get("/ticket-keys", typeJSON))
	for _, format := range keys.Formats() {
		path := "/ticket-keys?format=" + format.String()
		if !format.OneKey() {
			s.get(path+"&key=0", "*/*").wantProblem(t, 400, api.ProblemCodeInvalidRequest)
			continue
		}
		for i, key := range d.Keys {
			file := s.get(fmt.Sprintf("%s&key=%d", path, i), "*/*").want(t, 200).body
			if got := hex.EncodeToString(file); !strings.HasPrefix(got, key.Name) && !strings.HasPrefix(got[min(24, len(got)):], key.Name) {
				t.Errorf("%s: file %d has the key %s, want %s", format, i, got, key.Name)
			}
		}
		if first := s.get(path, "*/*").want(t, 200).body; !bytes.Equal(first, s.get(path+"&key=0", "*/*").want(t, 200).body) {
			t.Errorf("%s: without a number it is not the key that encrypts", format)
		}
		s.get(fmt.Sprintf("%s&key=%d", path, len(d.Keys)), "*/*").wantProblem(t, 404, api.ProblemCodeKeyNotFound)
		for _, bad := range []string{"-1", "64", "x", "", "1.0"} {
			s.get(path+"&key="+bad, "*/*").wantProblem(t, 400, api.ProblemCodeInvalidRequest)
		}
	}
	s.get("/ticket-keys?key=0", "*/*").wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	s.get("/ticket-keys?format=ATS", "*/*").wantProblem(t, 400, api.ProblemCodeInvalidRequest)
}

// Every format carries every set: a fresh one, one without a next key, one of a single
// key, and one of two sizes.
func TestFormatsCarryEverySet(t *testing.T) {
	t.Parallel()
	small, large := material(record()), material(record())
	large["hmac_secret"], large["aes_key"] = append(record()[:16], record()[:16]...), append(record()[:16], record()[:16]...)
	for name, body := range map[string]map[string]any{
		"fresh":           nil,
		"one key":         {"keys": []any{small}},
		"three keys":      {"keys": []any{small, material(record()), material(record())}},
		"128 to 256 bits": {"keys": []any{small, material(record())}, "next": large},
		"256 bits of 128": {"keys": []any{large, small}},
	} {
		t.Run(name, func(t *testing.T) {
			s := startService(t)
			if body != nil {
				data, err := json.Marshal(body)
				if err != nil {
					t.Fatal(err)
				}
				s.post("/ticket-keys", typeJSON, data).want(t, 200)
			}
			d := describe(t, s.get("/ticket-keys", typeJSON))
			for _, format := range keys.Formats() {
				path := "/ticket-keys?format=" + format.String()
				got := s.get(path, "*/*").want(t, 200)
				if format == keys.HAProxy {
					lines := bytes.Split(bytes.TrimSpace(got.body), []byte("\n"))
					current, err := base64.StdEncoding.DecodeString(string(lines[len(lines)-2]))
					if err != nil || len(lines) < 3 || short(current) != d.Keys[0].Name[:8] || len(current) != 16+int(d.Keys[0].Bits)/4 {
						t.Errorf("haproxy: %d lines, the last but one has %d bytes", len(lines), len(current))
					}
				}
				if format.Readable() && !format.OneKey() {
					s.post(path, typeOf(format), got.body).want(t, 200).wantHeader(t, "ETag", got.Header.Get("ETag"))
				}
			}
			// What derived_for lists is not the key's own: other keys give the same name and other bytes.
			for i, key := range d.Keys {
				for _, format := range []keys.Format{keys.HTTPD, keys.NGINX, keys.Envoy, keys.NGHTTPX, keys.Lighttpd} {
					file := s.get(fmt.Sprintf("/ticket-keys?format=%s&key=%d", format, i), "*/*").want(t, 200).body
					set, err := format.Parse(file)
					if err != nil {
						t.Fatal(err)
					}
					isOwn := set.Keys[0].Fingerprint() == key.Fingerprint
					if derived := slices.Contains(key.DerivedFor, api.TicketKeyFormat(format.String())); derived == isOwn {
						t.Errorf("key %d of %d bits for %s: derived %v, own secrets %v", i, key.Bits, format, derived, isOwn)
					}
				}
			}
			if derived := slices.Contains(d.Keys[len(d.Keys)-1].DerivedFor, "haproxy"); derived != (d.Keys[0].Bits != d.Keys[len(d.Keys)-1].Bits) {
				t.Errorf("the last key is derived for haproxy: %v", derived)
			}
		})
	}
}

// HAProxy's file is text.
func TestFormatHAProxy(t *testing.T) {
	t.Parallel()
	s := startService(t)
	const path = "/ticket-keys?format=haproxy"
	lines := s.get(path, "*/*").want(t, 200).body

	// As HAProxy takes it, and as it does not.
	crlf := bytes.ReplaceAll(lines, []byte("\n"), []byte("\r\n"))
	for _, body := range [][]byte{crlf, bytes.TrimSuffix(lines, []byte("\n"))} {
		s.post(path, typeText, body).want(t, 200)
	}
	broken := bytes.Clone(lines)
	broken[bytes.IndexByte(broken, '\n')+5] = '*'
	p := s.post(path, typeText, broken).wantProblem(t, http.StatusUnprocessableEntity, api.ProblemCodeInvalidTicketKeys)
	if p.Errors == nil || (*p.Errors)[0].Field != "line 2" {
		t.Errorf("the errors are %+v", p.Errors)
	}
}
