package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/printable"
)

const (
	// silence is how long a stream may be without a sign of life, which the service gives
	// every 15 s.
	silence = 45 * time.Second
	// maxEventLine is more than an event takes: the description of 64 keys.
	maxEventLine = 64 << 10
)

// EventType names what happened, such as session.stored.
type EventType = api.EventType

// The types of events.
const (
	SessionStored      = api.SessionStored
	SessionReplaced    = api.SessionReplaced
	SessionRemoved     = api.SessionRemoved
	SessionExpired     = api.SessionExpired
	SessionEvicted     = api.SessionEvicted
	TicketKeysUpdated  = api.TicketKeysUpdated
	TicketKeysRejected = api.TicketKeysRejected
	ConsumerChanged    = api.ConsumerChanged
	FleetChanged       = api.FleetChanged
	// EventsDropped says that events are missing.
	EventsDropped EventType = "dropped"
)

// SessionEvent says what happened to a session.
type SessionEvent = api.SessionEvent

// TicketKeysEvent says that another set of ticket keys is active.
type TicketKeysEvent = api.TicketKeysEvent

// RejectionEvent says why an update of the ticket keys was rejected.
type RejectionEvent = api.RejectionEvent

// ConsumerEvent says what a consumer is now.
type ConsumerEvent = api.ConsumerEvent

// FleetEvent says how the node's link to Redis is now.
type FleetEvent = api.FleetEvent

// DroppedEvent says that events are missing, and how many if that is known.
type DroppedEvent = api.DroppedEvent

// Event is something that happened at the service. Type says which of the pointers is set.
type Event struct {
	Type       EventType
	Session    *SessionEvent    // session.*
	TicketKeys *TicketKeysEvent // ticket_keys.updated
	Rejection  *RejectionEvent  // ticket_keys.rejected
	Consumer   *ConsumerEvent   // consumer.changed
	Fleet      *FleetEvent      // fleet.changed
	Dropped    *DroppedEvent    // dropped
}

// Events yields what happens at the service, as it happens, until ctx ends: the events of
// the given types, or all. It begins with the next one.
//
//   - When the stream breaks, Events opens another one, which continues after the last
//     event. Failures are logged. The pauses are those of [Client.Watch].
//   - Where events are missing, there is an event of the type [EventsDropped]. The caller
//     should then get the current state, for example with [Client.TicketKeys] and
//     [Client.Consumers].
//   - The service does not wait for a slow caller: events that are too old are dropped.
func (c *Client) Events(ctx context.Context, types ...EventType) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		s := stream{client: c, types: types, yield: yield}
		for failures := 0; ; {
			began := time.Now()
			s.connected = false
			err := s.follow(ctx)
			if ctx.Err() != nil || s.left {
				return
			}
			pause := interval - time.Since(began)
			if s.connected {
				failures = 0
			}
			if err != nil {
				pause = max(pause, backoff(failures, err))
				failures++
				c.log.Warn("the stream of events broke", slog.String("error", err.Error()), slog.Duration("retry_in", pause))
			}
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
		}
	}
}

// stream is the state of [Client.Events].
type stream struct {
	client *Client
	types  []EventType
	yield  func(Event) bool

	position  string // of the last event; "" before the first answer
	connected bool   // the service has sent something
	left      bool   // the caller wants no more events
}

var (
	positionPattern = regexp.MustCompile(`^[!-~]{1,64}$`)
	errSilent       = fmt.Errorf("the service was silent for %v", silence)
)

// follow opens a stream and reads it to its end. The error is nil if the service ended it.
func (s *stream) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	response, err := s.open(ctx)
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusBadRequest && s.position != "" {
		// The service is of a version that has other positions.
		s.position = ""
		s.left = !s.yield(Event{Type: EventsDropped, Dropped: &DroppedEvent{Time: time.Now()}})
	}
	if err != nil {
		return silent(ctx, err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxEventLine)
	var id, name, data string
	for lines.Scan() {
		watchdog.Reset(silence)
		line := lines.Text()
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data": // the service writes one line
			data = value
		case "id":
			if !positionPattern.MatchString(value) {
				return errors.New("the service sent a malformed ID of an event")
			}
			id = value
		}
		if line != "" {
			continue
		}
		if id != "" { // the service begins with one
			s.position, s.connected = id, true
		}
		if name != "" {
			event, known, err := parseEvent(name, data)
			if err != nil {
				return err
			}
			watchdog.Stop() // the caller may take long
			if known && !s.yield(event) {
				s.left = true
				return nil
			}
			watchdog.Reset(silence)
		}
		id, name, data = "", "", ""
	}
	return silent(ctx, lines.Err())
}

// silent returns the reason for the end of ctx in place of an error, if it is silence.
func silent(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// open opens a stream after the position.
func (s *stream) open(ctx context.Context) (*http.Response, error) {
	var params api.GetEventsParams
	if len(s.types) > 0 {
		params.Types = &s.types
	}
	if s.position != "" {
		params.LastEventID = &s.position
	}
	response, err := s.client.api.GetEvents(ctx, &params)
	if err != nil {
		return nil, err
	}
	mediaType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch {
	case response.StatusCode != http.StatusOK:
		body, _ := io.ReadAll(io.LimitReader(response.Body, maxBody))
		err = newError(response, body)
	case mediaType != "text/event-stream":
		err = fmt.Errorf("the service sent %q, not events", printable.Short(response.Header.Get("Content-Type")))
	}
	if err != nil {
		_ = response.Body.Close()
		return nil, err
	}
	return response, nil
}

// parseEvent reads an event. known is false for a type that a later service has.
func parseEvent(name, data string) (e Event, known bool, err error) {
	e.Type = EventType(name)
	var check func() error
	read := func(v any) error { return json.Unmarshal([]byte(data), v) }
	switch e.Type {
	case SessionStored, SessionReplaced, SessionRemoved, SessionExpired, SessionEvicted:
		err = read(&e.Session)
		check = func() error { return checkSessionEvent(e.Session) }
	case TicketKeysUpdated:
		err = read(&e.TicketKeys)
		check = func() error { return checkDescription(&e.TicketKeys.TicketKeys) }
	case TicketKeysRejected:
		err = read(&e.Rejection)
		check = func() error { return checkRejection(e.Rejection) }
	case ConsumerChanged:
		err = read(&e.Consumer)
		check = func() error { return checkConsumer(&e.Consumer.Consumer) }
	case FleetChanged:
		err = read(&e.Fleet)
		check = func() error {
			if e.Fleet.Degraded != nil {
				*e.Fleet.Degraded = printable.Short(*e.Fleet.Degraded)
			}
			return nil
		}
	case EventsDropped:
		err = read(&e.Dropped)
		check = func() error { return nil }
	default:
		return Event{}, false, nil
	}
	switch {
	case err != nil:
		err = errors.New("it is not JSON of its type")
	case data == "null":
		err = errors.New("it is empty")
	default:
		err = check()
	}
	if err != nil {
		return Event{}, false, fmt.Errorf("the service sent a malformed event %s: %w", e.Type, err)
	}
	return e, true, nil
}

func checkSessionEvent(e *SessionEvent) error {
	switch {
	case !hexPattern.MatchString(e.IDHash):
		return errors.New("the hash is not 32 hex digits")
	case e.ID != nil && !idPattern.MatchString(*e.ID):
		return errors.New("the session ID is malformed")
	case e.Format != nil && !wordPattern.MatchString(string(*e.Format)):
		return errors.New("the format is not a word")
	}
	return nil
}

func checkRejection(e *RejectionEvent) error {
	if !wordPattern.MatchString(e.Reason) || !wordPattern.MatchString(string(e.Source)) {
		return errors.New("the reason or the source is not a word")
	}
	e.Errors = e.Errors[:min(len(e.Errors), maxFields)]
	for i := range e.Errors {
		f := &e.Errors[i]
		f.Field, f.Reason = printable.Short(f.Field), printable.Short(f.Reason)
	}
	return nil
}
