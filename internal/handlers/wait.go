package handlers

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/auth"
)

const (
	// maxWait is the longest that a request waits.
	maxWait = 10 * time.Minute
	// answerTimeout is what a client that has waited has to take the answer.
	answerTimeout = 30 * time.Second
)

// preferredWait reads wait=N, in whole seconds, from Prefer (RFC 7240, section
// 4.3), the first when there are several. It is 0 without one. Other
// preferences are passed over, as section 2 wants it.
func preferredWait(prefer *string) (time.Duration, error) {
	if prefer == nil {
		return 0, nil
	}
	for preference := range strings.SplitSeq(*prefer, ",") {
		preference, _, _ = strings.Cut(preference, ";") // parameters
		name, value, _ := strings.Cut(preference, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		value = strings.TrimSpace(value)
		if unquoted, ok := strings.CutPrefix(value, `"`); ok {
			value = strings.TrimSuffix(unquoted, `"`)
		}
		if value == "" || !isDigits(value) {
			return 0, invalidRequest("Prefer: wait must be a number of seconds")
		}
		seconds, err := strconv.ParseUint(value, 10, 64)
		if err != nil || seconds > uint64(maxWait/time.Second) { // more digits than fit are more than enough too
			return maxWait, nil
		}
		return time.Duration(seconds) * time.Second, nil
	}
	return 0, nil
}

// whenChanged answers once the generation of the ticket keys differs from the
// client's, or the client has waited for as long as it prefers, or the service is about
// to stop. Permission is checked again after the wait.
func (a *API) whenChanged(w http.ResponseWriter, r *http.Request, has *etagList, prefer time.Duration, permit auth.Roles, answer http.HandlerFunc) {
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
func (a *API) awaitChange(w http.ResponseWriter, r *http.Request, has *etagList, end time.Time) {
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
