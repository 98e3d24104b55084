package handlers

import (
	"net/http"

	"github.com/sessapi/sessapi/internal/api"
)

const (
	// DefaultMaxInFlight is how many requests are served at a time. A request takes
	// its slot once its body has arrived, and returns it when its answer is ready.
	DefaultMaxInFlight = 1024
	// DefaultMaxOpen is how many requests may be open: received, waiting for ticket
	// keys, served, or their answer being sent. Over HTTP/1 a connection has one; over
	// HTTP/2 it has up to its number of streams, each with up to twice the largest
	// session in memory.
	DefaultMaxOpen = 8192
	// maxRefused is how many more requests may be open to be told that they are too
	// many. Beyond that, streams are reset and connections closed without an answer,
	// for answers that nobody takes use memory too.
	maxRefused = 1024
)

// admission is when a request takes its slot.
type admission int

const (
	admitAtOnce admission = iota
	admitLater            // the handler calls admit, behind the body or the wait
	admitAlways           // without a slot: health, and all of the operations listener
)

// boundOpen bounds the open requests, whatever they are for, except those for health.
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
				// A small answer is buffered, and waits for the client's window only
				// after the handler: it would not be counted.
				_ = http.NewResponseController(w).Flush()
			}
		})
	}
}

// bound answers overloaded when too many requests are served. A queue would only make
// all of them late.
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

// admit takes a slot for the request that w answers, until the answer is written.
func (a *API) admit(w http.ResponseWriter) error {
	select {
	case a.slots <- struct{}{}:
		w.(*response).slot = a.slots
		return nil
	default:
		return errOverloaded
	}
}

// leave gives the slot back, if there is one.
func (r *response) leave() {
	if r.slot != nil {
		<-r.slot
		r.slot = nil
	}
}
