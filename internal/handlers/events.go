package handlers

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/events"
	"github.com/sessapi/sessapi/internal/keys"
)

const mediaEvents = "text/event-stream"

const (
	// heartbeat is the time between comments, which keep proxies from closing a stream,
	// and reveal clients that are gone.
	heartbeat = 15 * time.Second
	// eventBatch is how many events are sent at once. eventGather is how long a stream that
	// was idle waits for more: each wake-up costs the request that causes it.
	eventBatch  = 64
	eventGather = 10 * time.Millisecond
)

// GetEvents implements [api.ServerInterface].
func (a *API) GetEvents(w http.ResponseWriter, r *http.Request, params api.GetEventsParams) {
	s, err := a.subscribe(r, params)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	defer s.Close()
	noStore(w)
	h := w.Header()
	h.Set("Content-Type", mediaEvents)
	h.Set("X-Accel-Buffering", "no") // nginx would keep events until it has a buffer full
	w.WriteHeader(http.StatusOK)     // which releases the slot
	if r.Method != http.MethodHead {
		a.streamEvents(w, r, s)
	}
}

func (a *API) subscribe(r *http.Request, params api.GetEventsParams) (*events.Subscription, error) {
	types := events.All
	if params.Types != nil {
		names := make([]string, len(*params.Types))
		for i, name := range *params.Types {
			names[i] = string(name)
		}
		var ok bool
		if types, ok = events.ParseTypes(names); !ok {
			return nil, invalidRequest("types: must be some of %v, separated by commas", events.All)
		}
	}
	if _, err := negotiate(r, mediaEvents); err != nil {
		return nil, err
	}
	if r.ContentLength != 0 {
		// net/http reads the rest of a body, so one that is announced and never sent would
		// outlast the stream.
		return nil, invalidRequest("The request must have no body.")
	}
	position := ""
	if params.LastEventID != nil {
		position = *params.LastEventID
	}
	s, err := a.cfg.Events.Subscribe(types, position)
	switch {
	case errors.Is(err, events.ErrPosition):
		return nil, invalidRequest("Last-Event-ID: is not the ID of an event")
	case errors.Is(err, events.ErrTooMany):
		return nil, errTooManyStreams
	}
	return s, err
}

var errTooManyStreams = &problem{
	code: api.ProblemCodeOverloaded, detail: "There are 64 streams of events already.",
	header: http.Header{"Retry-After": {"10"}},
}

// streamEvents sends events until the client is gone or too slow, its permission is gone,
// or the service is stopping.
func (a *API) streamEvents(w http.ResponseWriter, r *http.Request, s *events.Subscription) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // else the stream is only shorter
	send := func(text []byte) bool {
		// The next deadline is set in time: there is a heartbeat in between.
		_ = control.SetWriteDeadline(time.Now().Add(answerTimeout))
		_, err := w.Write(text) //nolint:gosec // text/event-stream, which no browser takes for a page
		return err == nil && control.Flush() == nil
	}
	if !send([]byte("id: " + s.Position() + "\n\n")) {
		return
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	batch := make([]events.Event, 0, eventBatch)
	var text []byte
	for {
		text = text[:0]
		if batch = s.Read(batch[:0]); len(batch) == 0 {
			select {
			case <-s.Wake():
				pause(r, eventGather)
				continue
			case <-beat.C:
				text = append(text, ":\n\n"...)
			case <-a.draining:
				return
			case <-r.Context().Done():
				return
			}
		}
		identity, err := a.permitAgain(r, auth.Observe)
		if err != nil || a.isDraining() {
			return
		}
		// Without a policy, everybody is an administrator.
		ids := identity == nil || identity.Roles.Permit(auth.Admin)
		for i := range batch {
			text = appendEvent(text, s, &batch[i], ids)
		}
		if !send(text) {
			return
		}
	}
}

// pause waits for d, or until the client is gone.
func pause(r *http.Request, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	}
}

// appendEvent appends an event in the form of a stream. ids is whether the client may know
// session IDs.
func appendEvent(text []byte, s *events.Subscription, e *events.Event, ids bool) []byte {
	if id := s.PositionOf(e); id != "" {
		text = append(append(append(text, "id: "...), id...), '\n')
	}
	text = append(append(append(text, "event: "...), e.Type.String()...), "\ndata: "...)
	if e.Session.ID != (cache.ID{}) {
		text = appendSessionEvent(text, s, e, ids)
	} else {
		text = append(text, marshal(eventData(e))...)
	}
	return append(text, '\n')
}

// appendSessionEvent appends an [api.SessionEvent] as a line of JSON. There may be one for
// each request and stream, and this takes a sixth of the time of the encoder. No value needs
// escaping.
func appendSessionEvent(text []byte, s *events.Subscription, e *events.Event, ids bool) []byte {
	member := func(name string, value []byte) {
		text = append(append(append(append(append(text, ',', '"'), name...), `":"`...), value...), '"')
	}
	var buf [64]byte
	at := func(t cache.Time) []byte { return t.UTC().AppendFormat(buf[:0], audit.TimeFormat) }
	text = append(append(append(text, `{"time":"`...), at(e.Session.At)...), '"')
	member("id_hash", s.AppendPseudonym(buf[:0], e.Session.ID))
	if ids {
		member("id", e.Session.ID.AppendHex(buf[:0]))
	}
	if e.Session.Size > 0 { // else Redis had the session, and did not say more
		member("format", []byte(sessionFormat(e.Session.Entry)))
		member("stored_at", at(e.Session.StoredAt))
		member("expires_at", at(e.Session.ExpiresAt))
		text = strconv.AppendInt(append(text, `,"size":`...), int64(e.Session.Size), 10)
	}
	if e.Type == events.SessionEvicted {
		idle := max(0, int64(e.Session.At-e.Session.LastUsed)/1000)
		text = strconv.AppendInt(append(text, `,"idle_seconds":`...), idle, 10)
	}
	return append(text, '}', '\n')
}

// eventData returns the data of an event that is not about a session.
func eventData(e *events.Event) any {
	at := e.Time().UTC()
	switch data := e.Data.(type) {
	case keys.Description:
		return api.TicketKeysEvent{Time: at, TicketKeys: describeKeys(data)}
	case keys.Rejection:
		return api.RejectionEvent{Time: at, Source: api.TicketKeySource(data.Source), Reason: data.Reason(), Errors: fieldErrors(data.Issues)}
	case consumers.Change:
		return api.ConsumerEvent{Time: at, Consumer: describeConsumer(data.Consumer), Forgotten: data.Forgotten}
	case events.Fleet:
		event := api.FleetEvent{Time: at, Connected: data.Connected, Since: data.Since.UTC()}
		if data.Degraded != "" {
			event.Degraded = &data.Degraded
		}
		return event
	}
	event := api.DroppedEvent{Time: at}
	if e.Missed > 0 {
		event.Count = &e.Missed
	}
	return event
}
