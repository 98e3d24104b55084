package handlers

import (
	"net/http"

	"github.com/sessapi/sessapi/internal/api"
)

const (
	// DefaultMaxInFlight limits the requests being served at one time. A request takes
	// a slot after its body has arrived, and releases it when its response is ready.
	DefaultMaxInFlight = 1024
	// DefaultMaxOpen limits the open requests: those being received, waiting for ticket
	// keys, being served or being answered. An HTTP/1 connection has one request open.
	// An HTTP/2 connection has up to its number of streams, and each can hold twice the
	// largest session in memory.
	DefaultMaxOpen = 8192
	// maxRefused limits the further open requests that are answered with overloaded.
	// Beyond it, streams are reset and connections closed without a response, because
	// responses that no client reads use memory too.
	maxRefused = 1024
)

// admission says when a request takes its slot.
type admission int

const (
	admitAtOnce admission = iota
	admitLater            // the handler calls admit, after the body or the wait
	admitAlways           // takes no slot: health, and everything on the operations listener
)

// boundOpen limits the open requests of all kinds, except health checks.
func (a *API) boundOpen(health map[string]bool) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer a.open.Add(-1)
			switch over := a.open.Add(1) - int64(a.cfg.MaxOpen); {
			case over > maxRefused:
				panic(http.ErrAbortHandler)
			case over > 0 && !health[r.URL.Path]:
				a.fail(w, r, errOverloaded)
			default:
				next.ServeHTTP(w, r)
			}
			if r.ProtoMajor == 2 {
				// Flush here. A small response is buffered, and would wait for the
				// client's flow control window only after the handler, when the request
				// no longer counts.
				_ = http.NewResponseController(w).Flush()
			}
		})
	}
}

// bound answers overloaded when too many requests are being served. A queue would only
// delay all of them.
func (a *API) bound(how admission, next http.HandlerFunc) http.HandlerFunc {
	if how == admitAlways {
		return next
	}
	return func(w http.ResponseWriter, r *http.Request) {
		defer w.(*response).leave()
		if how == admitAtOnce {
			if err := a.admit(w); err != nil {
				a.fail(w, r, err)
				return
			}
		}
		next(w, r)
	}
}

var errOverloaded = &problem{code: api.ProblemCodeOverloaded}

// admit takes a slot for the request of w. Writing the response releases it.
func (a *API) admit(w http.ResponseWriter) error {
	select {
	case a.slots <- struct{}{}:
		w.(*response).slot = a.slots
		return nil
	default:
		return errOverloaded
	}
}

// leave releases the slot, if there is one.
func (r *response) leave() {
	if r.slot != nil {
		<-r.slot
		r.slot = nil
	}
}
