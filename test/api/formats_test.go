package api_test

import (
	"bytes"
	"fmt"
	"net/http"
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
			s.post("/ticket-keys/rotate", "", nil).want(t, 200) // for HAProxy, which needs three
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
			if got := short(file); got != key.Name[:8] {
				t.Errorf("%s: file %d has the key %s, want %s", format, i, got, key.Name)
			}
		}
		if first := s.get(path, "*/*").want(t, 200).body; short(first) != d.Keys[0].Name[:8] {
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

// TestFormatCannotCarry has sets that HAProxy could not use as they are meant.
func TestFormatCannotCarry(t *testing.T) {
	t.Parallel()
	s := startService(t)
	const path = "/ticket-keys?format=haproxy"
	fresh := s.get(path, "*/*").wantProblem(t, 409, api.ProblemCodeFormatCannotCarry)
	if !strings.Contains(fresh.Detail, "rotate") {
		t.Errorf("the problem does not say what to do: %s", fresh.Detail)
	}
	s.post("/ticket-keys", typeBytes, append(append(record(), record()...), record()...)).want(t, 200)
	s.get(path, "*/*").wantProblem(t, 409, api.ProblemCodeFormatCannotCarry)
	s.post("/ticket-keys/rotate", "", nil).want(t, 200)
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
