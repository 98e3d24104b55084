package handlers

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/auth"
)

const (
	// maxWait is the longest that an answer is held.
	maxWait = 10 * time.Minute
	// answerTimeout is what a client has to take an answer that was held.
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

// waiting is what a client waits for.
type waiting struct {
	has *etagList // another generation than these
	end time.Time // or this time
}

// whenChanged answers once the client has not the current generation of the
// ticket keys, or it has waited for as long as it prefers, or the service is
// about to stop. Who has waited must still be permitted it.
func (a *API) whenChanged(w http.ResponseWriter, r *http.Request, has *etagList, prefer time.Duration, permit auth.Roles, answer http.HandlerFunc) {
	if has == nil || prefer == 0 {
		answer(w, r)
		return
	}
	w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(prefer/time.Second)))
	if !isCurrent(has, a.cfg.Ring.Generation()) || a.isDraining() {
		answer(w, r)
		return
	}
	select {
	case a.waiting <- struct{}{}:
	default:
		a.fail(w, r, &problem{code: api.ProblemCodeOverloaded})
		return
	}
	wait := waiting{has, time.Now().Add(prefer)}
	answer = a.authorizeAgain(permit, answer)
	a.held.Add(1)
	if conn := a.detach(w, r); conn != nil {
		route := chi.RouteContext(r.Context()).RoutePattern()
		kept := chi.NewRouteContext() // the router's is another request's once this returns
		kept.RoutePatterns = []string{route}
		r = r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, kept))
		a.lobby.enter(conn, a)
		go a.hold(conn, r, route, w.Header(), wait, answer)
		return
	}
	// The place is for others, also later: they answer in thousands at once.
	a.inFlight.leaveEarly(w)
	w.(*response).leave()
	defer func() { <-a.waiting }()
	a.awaitChange(w, r, wait)
	a.held.Add(-1)
	answer(w, r)
}

// awaitChange waits in place.
func (a *API) awaitChange(w http.ResponseWriter, r *http.Request, wait waiting) {
	if conn := connectionOf(r); conn != nil && r.ProtoMajor != 1 {
		a.depart(conn) // it has a place among those that wait
		defer a.arrive(conn)
	}
	// The timeouts of the listener are for requests that are answered at once.
	// One that cannot move them cuts the waiting short, no more.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(wait.end.Add(answerTimeout))
	defer func() { _ = control.SetWriteDeadline(time.Now().Add(answerTimeout)) }()
	timeout := time.NewTimer(time.Until(wait.end))
	defer timeout.Stop()
	for {
		changed := a.cfg.Ring.Changed()
		if !isCurrent(wait.has, a.cfg.Ring.Generation()) {
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
