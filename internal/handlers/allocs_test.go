//go:build !race

// Under the race detector, a pool drops some of its objects.

package handlers

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestHotPathAllocations limits the allocations of the requests that TLS servers send
// all the time. If a request allocates less, lower its count.
//
// Each request makes twelve: two for the path's parameters in net/http, two for chi's
// context, five in the generated parameter binding, the response, and two headers of
// all responses. Each further header is one more.
func TestHotPathAllocations(t *testing.T) {
	h := newAPI(t).Handler()
	data := make([]byte, 160)
	serve(h, http.MethodPut, "/sessions/01", bytes.NewReader(data), "Content-Type", mediaBytes)
	for _, test := range []struct {
		name, method, target string
		most                 float64
	}{
		// The ETag, the size in digits, twice, and seven headers.
		{"GET", http.MethodGet, "/sessions/01", 12 + 10},
		{"HEAD", http.MethodHead, "/sessions/01", 12 + 10},
		// The ETag, and two headers.
		{"PUT", http.MethodPut, "/sessions/01", 12 + 3},
		// The problem, its document (four), its request ID and length, and four headers.
		{"404", http.MethodGet, "/sessions/02", 12 + 10},
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
