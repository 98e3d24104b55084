package handlers

import (
	"net/http"
	"sync"
	"time"
)

// response is what an answer is written to. It knows the status, for the metrics,
// which none of net/http's tells, and when the request came.
type response struct {
	http.ResponseWriter
	began  time.Time
	status int           // 0 until it is written
	size   int           // of the body so far, in bytes
	served chan struct{} // of its connection, as long as it has a token there
	cutOff bool          // because its client was slow
}

// responses are reused, for a new one is an allocation that each request makes.
var responses = sync.Pool{New: func() any { return new(response) }}

// newResponse lends a response that writes to w. It is nobody's any more after
// release.
func newResponse(w http.ResponseWriter, began time.Time) *response {
	resp := responses.Get().(*response)
	resp.ResponseWriter, resp.began = w, began
	return resp
}

func (r *response) release() {
	*r = response{}
	responses.Put(r)
}

// WriteHeader is part of [http.ResponseWriter]. No handler sends an interim answer.
func (r *response) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
		r.ResponseWriter.WriteHeader(status)
	}
}

// Write is part of [http.ResponseWriter].
func (r *response) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.size += n
	return n, err
}

// Unwrap is for [http.ResponseController].
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }
