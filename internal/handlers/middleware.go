package handlers

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"
)

// observe sets the headers of all responses, records each request, and writes the
// access log. The log names the route, not the path: a session ID is not secret, but it
// can be used to track a client.
func (a *API) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.cfg.AccessLog {
			requestID(w, r)
		}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		resp := &response{ResponseWriter: w}
		began := a.cfg.Now()
		var endSpan func(method, route string, status int)
		if a.cfg.Trace != nil && !healthPaths[r.URL.Path] {
			r, endSpan = a.cfg.Trace(r)
		}
		defer func() {
			route, took := chi.RouteContext(r.Context()).RoutePattern(), a.cfg.Now().Sub(began)
			a.cfg.Recorder.Request(route, r.Method, resp.status, took)
			if endSpan != nil {
				endSpan(r.Method, route, resp.status)
			}
			if a.cfg.AccessLog {
				a.cfg.Log.LogAttrs(r.Context(), slog.LevelInfo, "request",
					slog.String("request_id", requestID(w, r)),
					slog.String("method", loggedMethod(r)), slog.String("route", route),
					slog.Int("status", resp.status), slog.Int("bytes", resp.size),
					slog.Duration("took", took), slog.String("remote", r.RemoteAddr))
			}
		}()
		next.ServeHTTP(resp, r)
	})
}

// recoverPanics turns a panic into an internal problem. It logs where the panic
// happened and, for a runtime error, its message. Other panic values, and the arguments
// in a full stack trace, could hold secrets.
func (a *API) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			value := recover()
			if value == nil {
				return
			}
			if value == http.ErrAbortHandler { //nolint:errorlint // net/http compares it by identity too
				panic(value)
			}
			what := fmt.Sprintf("%T", value)
			if err, ok := value.(runtime.Error); ok {
				what = err.Error()
			}
			err := fmt.Errorf("panic: %s at %s", what, callers())
			if w.(*response).status != 0 {
				// Part of the response is sent: it can only be aborted.
				a.cfg.Log.ErrorContext(r.Context(), "request failed",
					"request_id", requestID(w, r), "method", loggedMethod(r), "error", err.Error())
				panic(http.ErrAbortHandler)
			}
			a.fail(w, r, err)
		}()
		next.ServeHTTP(w, r)
	})
}

// callers lists the functions of a recovered panic, innermost first.
func callers() string {
	var pcs [16]uintptr
	n := runtime.Callers(4, pcs[:]) // skips Callers, callers, the deferred function and the panic
	frames := runtime.CallersFrames(pcs[:n])
	var b strings.Builder
	for more := n > 0; more; {
		var f runtime.Frame
		f, more = frames.Next()
		fmt.Fprintf(&b, "%s:%d ", f.Function, f.Line)
	}
	return strings.TrimSpace(b.String())
}

// checkInput rejects a query string of which net/url would silently drop parts. It also
// joins list headers that came on several lines: they are equal (RFC 9110, section
// 5.3), but not to the generated binding.
func (a *API) checkInput(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "" {
			if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
				a.fail(w, r, invalidRequest("The query string is malformed."))
				return
			}
		}
		for _, name := range []string{"If-Match", "If-None-Match", "Prefer"} {
			if lines := r.Header[name]; len(lines) > 1 {
				r.Header[name] = []string{strings.Join(lines, ", ")}
			}
		}
		next.ServeHTTP(w, r)
	})
}

// checkQuery rejects unknown query parameters: ignoring a misspelt one would do
// something that the client did not ask for.
func (a *API) checkQuery(known []string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "" {
			for _, name := range slices.Sorted(maps.Keys(r.URL.Query())) {
				if !slices.Contains(known, name) {
					a.fail(w, r, invalidRequest("%s", unknownParameter(name, known)))
					return
				}
			}
		}
		next(w, r)
	}
}

// unknownParameter names the rejected query parameter and the known ones.
func unknownParameter(name string, known []string) string {
	const longest = 64
	if len(name) > longest {
		name = name[:longest] + "..."
	}
	takes := "none"
	if len(known) > 0 {
		takes = strings.Join(known, ", ")
	}
	return fmt.Sprintf("Unknown query parameter %q; this operation has %s.", name, takes)
}
