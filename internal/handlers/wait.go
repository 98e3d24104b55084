package handlers

import (
	"net/http"
	"strconv"
	"time"

	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/handlers/headers"
)

const (
	// maxWait is the longest that a request waits.
	maxWait = 10 * time.Minute
	// answerTimeout is what a client that has waited has to take the answer.
	answerTimeout = 30 * time.Second
)

// whenChanged answers once the generation of the ticket keys differs from the
// client's, or the client has waited for as long as it prefers, or the service is about
// to stop. Permission is checked again after the wait.
func (a *API) whenChanged(w http.ResponseWriter, r *http.Request, has *headers.ETags, prefer time.Duration, permit auth.Roles, answer http.HandlerFunc) {
	// A body that is announced and never sent would outlast the wait: net/http reads
	// what is left of it.
	waits := has != nil && prefer > 0 && r.ContentLength == 0
	if waits {
		w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(prefer/time.Second)))
	}
	if !waits || !isCurrent(has, a.cfg.Ring.Generation()) || a.isDraining() {
		if err := a.admit(w); err != nil {
			a.fail(w, r, err)
			return
		}
		answer(w, r)
		return
	}
	a.awaitChange(w, r, has, time.Now().Add(prefer))
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
func (a *API) awaitChange(w http.ResponseWriter, r *http.Request, has *headers.ETags, end time.Time) {
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
		if !isCurrent(has, a.cfg.Ring.Generation()) {
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
