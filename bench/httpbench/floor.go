package main

import (
	"crypto/rand"
	"encoding/hex"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// floor is the least that a net/http server can do for the contract: it writes
// the same bytes and headers as sessapi from a map. All that does not depend on the
// request is made beforehand.
type floor struct {
	mu       sync.RWMutex // guards sessions
	sessions map[string]*floorSession
}

type floorSession struct {
	data         []byte
	length, etag []string
}

// Headers and the document of what is missing, as sessapi has them.
var (
	noStore     = []string{"no-store"}
	varyAccept  = []string{"Accept"}
	rangesBytes = []string{"bytes"}
	octetStream = []string{"application/octet-stream"}
	noSniff     = []string{"nosniff"}
	sameOrigin  = []string{"same-origin"}
	problemType = []string{"application/problem+json"}
	requestID   = []string{"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
	storedETag  = []string{`"00112233445566778899aabbccddeeff"`}
	problem     = []byte(`{"type":"/docs#section/Problems/session_not_found","title":"Session not found","status":404,"detail":"There is no session with this ID, or it has expired.","code":"session_not_found","request_id":"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}` + "\n")
	problemSize = []string{strconv.Itoa(len(problem))}
)

// serveFloor serves HTTP/1.1 and h2c until it is killed.
func serveFloor(address string) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := http.Server{
		Addr: address, Protocols: &protocols,
		Handler: &floor{sessions: make(map[string]*floorSession)},
	}
	return server.ListenAndServe()
}

func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["X-Content-Type-Options"], h["Cross-Origin-Resource-Policy"] = noSniff, sameOrigin
	if r.Method == http.MethodPost { // stores a session to be read
		f.store(w, r)
		return
	}
	if r.Method == http.MethodPut {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		h["Cache-Control"], h["Etag"] = noStore, storedETag
		w.WriteHeader(http.StatusNoContent)
		return
	}
	f.mu.RLock()
	s := f.sessions[strings.TrimPrefix(r.URL.Path, "/sessions/")]
	f.mu.RUnlock()
	h["Cache-Control"] = noStore
	if s == nil {
		h["Content-Type"], h["Content-Length"] = problemType, problemSize
		h["X-Request-Id"] = requestID
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write(problem)
		return
	}
	h["Vary"], h["Session-Size"], h["Etag"] = varyAccept, s.length, s.etag
	h["Accept-Ranges"], h["Content-Type"], h["Content-Length"] = rangesBytes, octetStream, s.length
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(s.data)
	}
}

func (f *floor) store(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	tag := make([]byte, 16)
	_, _ = rand.Read(tag) // never fails
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions[strings.TrimPrefix(r.URL.Path, "/sessions/")] = &floorSession{
		data: data, length: []string{strconv.Itoa(len(data))},
		etag: []string{`"` + hex.EncodeToString(tag) + `"`},
	}
	w.WriteHeader(http.StatusNoContent)
}
