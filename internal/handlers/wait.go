package handlers

import (
	"net/http"
	"time"

	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/keys"
)

const (
	// maxWait is the longest that a request waits.
	maxWait = 10 * time.Minute
	// answerTimeout is what a client that has waited has to take the answer.
	answerTimeout = 30 * time.Second
)

// whenChanged answers once the client no longer has the generation of the ticket keys,
// or has waited for as long as it may, or the service is about to stop. A client that
// has none, whose condition may be nil, never waits. Permission is checked again after
// the wait.
//
// The body must have been read, or there must be none: net/http reads what is left of
// it, so that one that is announced and never sent would outlast the wait.
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
	// All that wait are woken at once: they are served one after the other.
	select {
	case a.slots <- struct{}{}:
		w.(*response).slot = a.slots
		answer(w, r)
	case <-r.Context().Done():
		w.WriteHeader(http.StatusNotModified) // nobody is there to read it
	}
}

// awaitChange waits until the client's generation is not the current one any more, or
// for no longer than it may.
func (a *API) awaitChange(w http.ResponseWriter, r *http.Request, has keys.Condition, end time.Time) {
	a.waiting.Add(1)
	defer a.waiting.Add(-1)
	// The timeouts of the listener are for requests that are answered at once.
	// One that cannot move them cuts the waiting short, no more.
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
