package handlers

import (
	"net/http"
	"time"

	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/keys"
)

const (
	// maxWait is the longest wait of a request.
	maxWait = 10 * time.Minute
	// answerTimeout limits how long a response after a wait may take to send.
	answerTimeout = 30 * time.Second
)

// whenChanged answers when the client no longer has the current generation of the
// ticket keys, when its wait is over, or when the service is stopping. A client without
// a generation, whose condition may be nil, never waits. After the wait, the permission
// is checked again.
//
// The body must have been read, or there must be none: net/http reads the rest of a
// body, so one that is announced and never sent would outlast the wait.
func (a *API) whenChanged(w http.ResponseWriter, r *http.Request, has keys.Condition, wait time.Duration, permit auth.Roles, answer http.HandlerFunc) {
	if has == nil || wait <= 0 || !has(a.cfg.Ring.Generation()) || a.isDraining() {
		if err := a.admit(w); err != nil {
			a.fail(w, r, err)
			return
		}
		answer(w, r)
		return
	}
	a.awaitChange(w, r, has, time.Now().Add(wait))
	answer = a.authorizeAgain(permit, answer)
	// A change wakes all waiting requests at once, so they queue for a slot.
	select {
	case a.slots <- struct{}{}:
		w.(*response).slot = a.slots
		answer(w, r)
	case <-r.Context().Done():
		w.WriteHeader(http.StatusNotModified) // nobody is there to read it
	}
}

// awaitChange waits until the client no longer has the current generation, at most
// until end.
func (a *API) awaitChange(w http.ResponseWriter, r *http.Request, has keys.Condition, end time.Time) {
	a.waiting.Add(1)
	defer a.waiting.Add(-1)
	// The listener's timeouts are for requests that are answered at once. If they
	// cannot be extended, the wait only becomes shorter.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(end.Add(answerTimeout))
	defer func() { _ = control.SetWriteDeadline(time.Now().Add(answerTimeout)) }()
	timeout := time.NewTimer(time.Until(end))
	defer timeout.Stop()
	for {
		changed := a.cfg.Ring.Changed()
		if !has(a.cfg.Ring.Generation()) {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			return
		case <-a.draining:
			return
		case <-r.Context().Done():
			return
		}
	}
}
