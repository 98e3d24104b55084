package handlers

import "net/http"

// response wraps the response writer. It keeps the status and the size for the metrics
// and the log, and the slot of a request that is being served.
type response struct {
	http.ResponseWriter
	status int           // 0 until it is written
	size   int           // of the body so far, in bytes
	slot   chan struct{} // nil without one
}

// WriteHeader is part of [http.ResponseWriter]. No handler sends an interim response.
func (r *response) WriteHeader(status int) {
	if r.status == 0 {
		r.leave()
		r.status = status
		r.ResponseWriter.WriteHeader(status)
	}
}

// Write is part of [http.ResponseWriter].
func (r *response) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK) // unless one is written
	n, err := r.ResponseWriter.Write(p)
	r.size += n
	return n, err
}

// Unwrap is for [http.ResponseController].
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }
