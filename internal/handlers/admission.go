package handlers

import (
	"net/http"

	"github.com/sessapi/sessapi/internal/api"
)

const (
	// DefaultMaxInFlight is how many requests are served at a time. A request takes
	// its slot once its body has arrived, and gives it back when its answer is ready:
	// what a client does not send, or does not take, keeps nobody else out.
	DefaultMaxInFlight = 1024
	// DefaultMaxOpen is how many requests may be open: their body arrives, they wait
	// for ticket keys, are served, or their answer is being taken. Over HTTP/1 a
	// connection has one; over HTTP/2 it has up to its number of streams, each with up
	// to twice the largest session in memory.
	DefaultMaxOpen = 8192
)

// admission is when a request takes its slot.
type admission int

const (
	admitAtOnce admission = iota
	admitLater            // the handler calls admit, behind the body or the wait
	admitAlways           // without a slot: health, and all of the operations listener
)

// bound answers overloaded when too many requests are open or served. A queue
// would only make all of them late.
func (a *API) bound(how admission, next http.HandlerFunc) http.HandlerFunc {
	if how == admitAlways {
		return next
	}
	return func(w http.ResponseWriter, r *http.Request) {
		defer a.open.Add(-1)
		if a.open.Add(1) > int64(a.cfg.MaxOpen) {
			a.fail(w, r, errOverloaded)
			return
		}
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
