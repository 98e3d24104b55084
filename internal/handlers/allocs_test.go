//go:build !race

// Under the race detector a pool drops some of what it is given.

package handlers

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestHotPathAllocations holds the allocations of the requests that TLS servers
// send all the time. A count is the most that a request may make; one that makes
// less is a reason to lower it.
//
// Each request makes ten: two for the path's parameters in net/http and two for chi's
// context, five in the generated binding of parameters, and the response.
func TestHotPathAllocations(t *testing.T) {
	h := newAPI(t).Handler()
	data := make([]byte, 160)
	serve(h, http.MethodPut, "/sessions/01", bytes.NewReader(data), "Content-Type", mediaBytes)
	for _, test := range []struct {
		name, method, target string
		most                 float64
	}{
		// The ETag, the size in digits, and the array of the headers' values.
		{"GET", http.MethodGet, "/sessions/01", 10 + 3},
		{"HEAD", http.MethodHead, "/sessions/01", 10 + 3},
		// The ETag and the value of its header.
		{"PUT", http.MethodPut, "/sessions/01", 10 + 2},
		// The problem, its request ID and length with the values of their headers, and
		// the document.
		{"404", http.MethodGet, "/sessions/02", 10 + 6},
	} {
		t.Run(test.name, func(t *testing.T) {
			body := bytes.NewReader(nil)
			r := httptest.NewRequest(test.method, test.target, io.NopCloser(body))
			r.Header.Set("Accept", mediaBytes)
			if test.method == http.MethodPut {
				r.Header.Set("Content-Type", mediaBytes)
				r.ContentLength = int64(len(data))
			}
			w := discardWriter{http.Header{}}
			got := testing.AllocsPerRun(1000, func() {
				body.Reset(data)
				clear(w.header)
				h.ServeHTTP(w, r)
			})
			if got > test.most {
				t.Errorf("%v allocations, want at most %v", got, test.most)
			}
		})
	}
}
