package headers

import (
	"strings"
	"testing"
	"time"
)

const (
	mediaJSON  = "application/json"
	mediaBytes = "application/octet-stream"
	mediaPEM   = "application/x-pem-file"

	maxWait = 10 * time.Minute
)

// FuzzParseRange parses ranges of a representation of any size.
func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{"bytes=0-", "bytes=-1", "bytes=5-3", "bytes=18446744073709551616-", "bytes=0-18446744073709551616", "bytes= 1-2", "b=1", "bytes=1-2-3", "bytes=00001-0002"} {
		f.Add(seed, 10)
	}
	f.Fuzz(func(t *testing.T, header string, size int) {
		if size < 1 {
			return
		}
		r, ok, err := ParseRange(header, size)
		if ok && err != nil {
			t.Error("a range and an error")
		}
		if ok && (r.Start < 0 || r.Start >= r.End || r.End > size) {
			t.Errorf("%q of %d bytes is %+v", header, size, r)
		}
	})
}

// FuzzParseETags reads lists. A parsed list survives writing and reading.
func FuzzParseETags(f *testing.F) {
	for _, seed := range []string{"*", `"a"`, `W/"a", "b"`, `"a,b"`, `"a" , "b"`, `""`, `"`, `"a",`, `w/"a"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		list, err := ParseETags("If-Match", &header)
		if err != nil {
			return
		}
		var again []string
		for _, tag := range list.tags {
			text := tag.value
			if tag.weak {
				text = "W/" + text
			}
			again = append(again, text)
			if !list.MatchWeak(tag.value) || !tag.weak && !list.MatchStrong(tag.value) {
				t.Errorf("%q does not match its own %q", header, tag.value)
			}
		}
		if list.any {
			again = []string{"*"}
		}
		joined := strings.Join(again, ", ")
		if relisted, err := ParseETags("If-Match", &joined); err != nil || len(relisted.tags) != len(list.tags) {
			t.Errorf("%q is read as %q, and that not at all: %v", header, joined, err)
		}
	})
}

// FuzzNegotiate takes any Accept.
func FuzzNegotiate(f *testing.F) {
	for _, seed := range []string{"*/*", mediaPEM, "application/*;q=0.1, text/plain", "application/json;q=0", "a/b;q=2", ",", "application/json; charset=utf-8"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		mediaType, err := Negotiate([]string{accept}, mediaJSON, mediaBytes, mediaPEM)
		if err == nil && mediaType != mediaJSON && mediaType != mediaBytes && mediaType != mediaPEM {
			t.Errorf("%q gives %q", accept, mediaType)
		}
	})
}

// FuzzPreferredWait takes any Prefer.
func FuzzPreferredWait(f *testing.F) {
	for _, seed := range []string{"wait=60", "respond-async, wait=1;x", `WAIT="7"`, "wait=", "wait=99999999999999999999", ",;="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, prefer string) {
		if wait, err := PreferredWait(&prefer, maxWait); wait < 0 || wait > maxWait || err != nil && wait != 0 {
			t.Errorf("%q: %v, %v", prefer, wait, err)
		}
	})
}
