package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/events"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/test/contract"
)

// eventSchemas names the schema of the data of each event.
var eventSchemas = map[string]string{
	"session.stored": "SessionEvent", "session.replaced": "SessionEvent", "session.removed": "SessionEvent",
	"session.expired": "SessionEvent", "session.evicted": "SessionEvent",
	"ticket_keys.updated": "TicketKeysEvent", "ticket_keys.rejected": "RejectionEvent",
	"consumer.changed": "ConsumerEvent", "fleet.changed": "FleetEvent", "dropped": "DroppedEvent",
}

// eventService is a service whose parts publish, with a listener whose answers are not
// checked as a whole: a stream has no end.
type eventService struct {
	*service
	bus      *events.Bus
	observed *cache.Cache
	streams  *httptest.Server
	checked  *contract.Contract
}

// startEvents starts a service whose cache holds 1000 sessions.
func startEvents(t *testing.T, configure ...func(*handlers.Config)) *eventService {
	t.Helper()
	s := &eventService{bus: events.New(time.Now), checked: contract.Load(t)}
	observed, err := cache.New(cache.Config{Memory: 8 << 20, MaxSessions: 1000, MaxSessionBytes: maxSession, Observer: s.bus})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(observed.Close)
	s.observed = observed
	s.service = startService(t, append([]func(*handlers.Config){func(c *handlers.Config) {
		c.Cache, c.Events = observed, s.bus
	}}, configure...)...)
	s.ring.Observe(keys.Observer{
		Updated:  func(d keys.Description) { s.bus.Publish(events.TicketKeysUpdated, d) },
		Rejected: func(r keys.Rejection) { s.bus.Publish(events.TicketKeysRejected, r) },
	})
	s.streams = httptest.NewServer(s.api.Handler())
	t.Cleanup(s.streams.Close)
	t.Cleanup(s.api.Drain)
	return s
}

// stream is an open stream of events.
type stream struct {
	tb       testing.TB
	response *http.Response
	lines    *bufio.Scanner
	checked  *contract.Contract
	cancel   context.CancelFunc
}

// open opens a stream, and returns once it is subscribed.
func (s *eventService) open(tb testing.TB, query string, headers ...string) *stream {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), slow*time.Second)
	tb.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.streams.URL+"/events"+query, nil)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	response, err := s.streams.Client().Do(request)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" ||
		response.Header.Get("Cache-Control") != "no-store" {
		tb.Fatalf("%d %v", response.StatusCode, response.Header)
	}
	return &stream{tb, response, bufio.NewScanner(response.Body), s.checked, cancel}
}

// awaitStreams returns once so many streams are open.
func (s *eventService) awaitStreams(tb testing.TB, want int) {
	tb.Helper()
	for deadline := time.Now().Add(slow * time.Second); s.bus.Stats().Subscribers != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("%d streams are open, want %d", s.bus.Stats().Subscribers, want)
		}
	}
}

// streamed is an event, as a client sees it.
type streamed struct{ id, name, data string }

// block reads up to an empty line. ok is false at the end of the stream.
func (s *stream) block() (e streamed, comment, ok bool) {
	s.tb.Helper()
	for s.lines.Scan() {
		field, value, _ := strings.Cut(s.lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case s.lines.Text() == "":
			return e, comment, true
		case field == "":
			comment = true
		case field == "id":
			e.id = value
		case field == "event":
			e.name = value
		case field == "data":
			e.data = value
		default:
			s.tb.Fatalf("line %q", s.lines.Text())
		}
	}
	return e, comment, false
}

// next returns the next event, held against the contract.
func (s *stream) next() streamed {
	s.tb.Helper()
	for {
		e, _, ok := s.block()
		if !ok {
			s.tb.Fatalf("the stream ended: %v", s.lines.Err())
		}
		if e.name == "" {
			continue
		}
		var data any
		if err := json.Unmarshal([]byte(e.data), &data); err != nil {
			s.tb.Fatalf("%v: %v", e, err)
		}
		schema := s.checked.Doc.Components.Schemas[eventSchemas[e.name]]
		if schema == nil {
			s.tb.Fatalf("unknown event %v", e)
		}
		if err := schema.Value.VisitJSON(data); err != nil {
			s.tb.Fatalf("%v: %v", e, err)
		}
		return e
	}
}

// want fails the test unless the next event has the name and its data the texts.
func (s *stream) want(name string, texts ...string) streamed {
	s.tb.Helper()
	e := s.next()
	if e.name != name {
		s.tb.Fatalf("%v, want %s", e, name)
	}
	for _, text := range texts {
		if !strings.Contains(e.data, text) {
			s.tb.Errorf("%v has no %s", e, text)
		}
	}
	return e
}

// wantEnd fails the test unless the stream ends without another event.
func (s *stream) wantEnd() {
	s.tb.Helper()
	for {
		e, _, ok := s.block()
		if !ok {
			break
		}
		if e.name != "" {
			s.tb.Fatalf("%v after the end", e)
		}
	}
	if err := s.lines.Err(); err != nil {
		s.tb.Errorf("the stream was cut off: %v", err)
	}
}

func TestEvents(t *testing.T) {
	s := startEvents(t)
	all := s.open(t, "")
	some := s.open(t, "?types=ticket_keys.updated,session.removed")
	s.put("/sessions/0102?ttl_seconds=60", typeBytes, []byte("opaque")).want(t, 201)
	s.put("/sessions/0102", typeBytes, sslSession([]byte{1, 2}, time.Now(), time.Hour)).want(t, 204)
	s.request(http.MethodDelete, "/sessions/0102", nil).want(t, 204)
	s.put("/sessions/0103", typeBytes, []byte("opaque")).want(t, 201)
	s.request(http.MethodDelete, "/sessions", nil).want(t, 200)
	s.post("/ticket-keys/rotate", "", nil).want(t, 200)
	s.post("/ticket-keys", typeBytes, []byte("x")).want(t, 422)
	s.post("/ticket-keys/rotate", "", nil, "If-Match", `"1"`).want(t, 412)
	s.bus.Publish(events.ConsumerChanged, consumers.Change{Consumer: consumers.Consumer{
		Name: "edge-7/web", Record: consumers.Record{Report: consumers.Report{Kind: "nginx", State: consumers.Failed}},
	}})
	s.bus.Publish(events.FleetChanged, events.Fleet{Degraded: "Redis does not answer"})

	stored := all.want("session.stored", `"id":"0102"`, `"size":6`, `"format":"opaque"`)
	all.want("session.replaced", `"format":"openssl"`)
	removed := all.want("session.removed", `"format":"openssl"`)
	if a, b := decodeEvent[api.SessionEvent](t, stored), decodeEvent[api.SessionEvent](t, removed); a.IDHash != b.IDHash || strings.Contains(a.IDHash, "0102") {
		t.Errorf("hashes %s and %s", a.IDHash, b.IDHash)
	}
	all.want("session.stored", `"id":"0103"`)
	all.want("session.removed", `"id":"0103"`) // the flush
	rotated := all.want("ticket_keys.updated", `"source":"rotation"`)
	all.want("ticket_keys.rejected", `"source":"api"`, `"reason":"length"`, "1 of 48 bytes")
	all.want("ticket_keys.rejected", `"source":"rotation"`, `"reason":"precondition"`, `"errors":[]`)
	all.want("consumer.changed", `"name":"edge-7/web"`, `"state":"failed"`)
	all.want("fleet.changed", `"connected":false`, `"degraded":"Redis does not answer"`)

	some.want("session.removed", `"id":"0102"`)
	some.want("session.removed", `"id":"0103"`)
	if e := some.want("ticket_keys.updated"); e != rotated {
		t.Errorf("%v and %v", e, rotated)
	}
	// No event has a secret.
	description := decode[api.TicketKeys](t, s.get("/ticket-keys", typeJSON))
	if got := decodeEvent[api.TicketKeysEvent](t, rotated); got.TicketKeys.Generation != description.Generation || len(got.TicketKeys.Keys) != len(description.Keys) {
		t.Errorf("%v, want %v", got.TicketKeys, description)
	}
}

func decodeEvent[T any](tb testing.TB, e streamed) T {
	tb.Helper()
	var v T
	if err := json.Unmarshal([]byte(e.data), &v); err != nil {
		tb.Fatalf("%v: %v", e, err)
	}
	return v
}

// TestEventsResume continues with the ID of an event, of one of another run, and of one that
// does not exist yet.
func TestEventsResume(t *testing.T) {
	s := startEvents(t)
	rotate := func() { s.post("/ticket-keys/rotate", "", nil).want(t, 200) }
	first := s.open(t, "?types=ticket_keys.updated,session.stored")
	begin, _, _ := first.block()
	rotate()
	rotate()
	one, two := first.want("ticket_keys.updated"), first.want("ticket_keys.updated")
	s.put("/sessions/01", typeBytes, []byte("x")).want(t, 201)
	stored := first.want("session.stored")

	again := s.open(t, "?types=ticket_keys.updated,session.stored", "Last-Event-ID", one.id)
	for _, want := range []streamed{two, stored} {
		if e := again.next(); e != want {
			t.Errorf("%v, want %v", e, want)
		}
	}
	again = s.open(t, "?types=ticket_keys.updated", "Last-Event-ID", begin.id)
	if e := again.next(); e != one {
		t.Errorf("%v, want %v", e, one)
	}

	for _, id := range []string{"0123456789abcdef-1", begin.id[:17] + "99999"} {
		gap := s.open(t, "?types=ticket_keys.updated", "Last-Event-ID", id)
		if e := gap.want("dropped"); e.id != "" || decodeEvent[api.DroppedEvent](t, e).Count != nil {
			t.Errorf("%v", e)
		}
		rotate()
		gap.want("ticket_keys.updated")
	}
}

func TestEventsRefused(t *testing.T) {
	s := startEvents(t)
	for _, query := range []string{"?types=", "?types=session", "?types=session.stored,", "?types=dropped", "?types=session.stored&types=fleet.changed", "?type=x"} {
		s.get("/events"+query, "*/*").wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	}
	for _, id := range []string{"1", "-1", "0123456789abcdef", "0123456789abcdef-", "0123456789abcdef-+1", "0123456789abcdef-1x", "0123456789abcdef-99999999999999999999", "xyz3456789abcdef-1"} {
		s.get("/events", "*/*", "Last-Event-ID", id).wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	}
	s.get("/events", typeJSON).wantProblem(t, 406, api.ProblemCodeNotAcceptable)
	s.request(http.MethodGet, "/events", []byte("body")).wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	s.request(http.MethodPost, "/events", nil).wantProblem(t, 405, api.ProblemCodeMethodNotAllowed)
	s.request(http.MethodHead, "/events", nil).want(t, 200).wantHeader(t, "Content-Type", "text/event-stream")
}

// TestEventsEnd drains the service. What a stream sends until then is held against the
// contract as a whole.
func TestEventsEnd(t *testing.T) {
	s := startEvents(t)
	whole := make(chan answer, 1)
	go func() { whole <- s.get("/events", "text/event-stream") }()
	open := s.open(t, "")
	s.awaitStreams(t, 2)
	s.post("/ticket-keys/rotate", "", nil).want(t, 200)
	open.want("ticket_keys.updated")
	s.api.Drain()
	open.wantEnd()
	if a := (<-whole).want(t, 200); !strings.HasPrefix(string(a.body), "id: ") {
		t.Errorf("%q", a.body)
	}
}

// TestEventsLimit opens as many streams as there may be, with one slot for requests.
func TestEventsLimit(t *testing.T) {
	s := startEvents(t, func(c *handlers.Config) { c.MaxInFlight = 1 })
	var last *stream
	for range events.MaxSubscribers {
		last = s.open(t, "?types=fleet.changed")
	}
	p := s.get("/events", "*/*")
	p.wantProblem(t, 503, api.ProblemCodeOverloaded)
	p.wantHeader(t, "Retry-After", "10")
	s.get("/ticket-keys", typeJSON).want(t, 200)
	last.cancel()
	s.awaitStreams(t, events.MaxSubscribers-1)
	s.open(t, "?types=fleet.changed")
}

// TestEventsUnderPolicy changes what the identity of an open stream may do: administrators
// see session IDs, observers do not, and others see nothing more.
func TestEventsUnderPolicy(t *testing.T) {
	p, configure := underPolicy(t)
	s := startEvents(t, configure)
	put := func() {
		t.Helper()
		s.put("/sessions/0102", typeBytes, []byte("opaque"), "Authorization", "Bearer "+p.tokens["session-write"])
	}
	admin := s.open(t, "?types=session.stored,session.replaced", "Authorization", "Bearer "+p.tokens["admin"])
	observer := s.open(t, "?types=session.stored,session.replaced", "Authorization", "Bearer "+p.tokens["observe"])
	put()
	seen := admin.want("session.stored", `"id":"0102"`)
	hidden := observer.want("session.stored", `"size":6`)
	if a, o := decodeEvent[api.SessionEvent](t, seen), decodeEvent[api.SessionEvent](t, hidden); o.ID != nil || strings.Contains(hidden.data, "0102") || o.IDHash != a.IDHash {
		t.Errorf("the observer sees %s", hidden.data)
	}
	// The administrator becomes an observer, the observer something else.
	changed := strings.Replace(p.text.String(), "roles: [observe]", "roles: [key-consume]", 1)
	p.set(t, strings.Replace(changed, "roles: [admin]", "roles: [observe]", 1))
	put()
	if e := admin.want("session.replaced"); decodeEvent[api.SessionEvent](t, e).ID != nil {
		t.Errorf("an administrator that is none any more sees %s", e.data)
	}
	observer.wantEnd()
	// A token that is gone ends the other stream, too.
	token, hash := auth.NewToken()
	p.set(t, fmt.Sprintf("identities: [{name: x, roles: [admin], tokens: [{sha256: \"%x\"}]}]", hash))
	s.post("/ticket-keys/rotate", "", nil, "Authorization", "Bearer "+token).want(t, 200) // not one of its types
	s.put("/sessions/0102", typeBytes, []byte("opaque"), "Authorization", "Bearer "+token).want(t, 204)
	admin.wantEnd()
}

// TestEventsHeartbeat has streams without events. The permission ends in one of them.
func TestEventsHeartbeat(t *testing.T) {
	t.Parallel()
	p, configure := underPolicy(t)
	s := startEvents(t, configure)
	header := []string{"Authorization", "Bearer " + p.tokens["observe"]}
	quiet, gone := s.open(t, "?types=fleet.changed", header...), s.open(t, "?types=fleet.changed", "Authorization", "Bearer "+p.tokens["admin"])
	if e, _, ok := quiet.block(); !ok || e.id == "" {
		t.Fatalf("%v", e)
	}
	p.set(t, strings.Replace(p.text.String(), "roles: [admin]", "roles: [key-consume]", 1))
	if e, comment, ok := quiet.block(); !ok || !comment || e != (streamed{}) {
		t.Errorf("%v, %v, %v", e, comment, ok)
	}
	gone.wantEnd()
}

// TestEventsSlowClient has a client that reads nothing while the service goes on. It learns
// how many events it missed.
func TestEventsSlowClient(t *testing.T) {
	s := startEvents(t)
	open := s.open(t, "?types=session.stored,session.replaced,session.removed")
	id, err := cache.ParseID("01")
	if err != nil {
		t.Fatal(err)
	}
	stored := uint64(0)
	for deadline := time.Now().Add(slow * time.Second); s.bus.Stats().Dropped == 0; stored++ {
		if time.Now().After(deadline) {
			t.Fatalf("nothing dropped of %d events", stored)
		}
		if _, err := s.observed.Put(id, []byte("opaque"), cache.PutOptions{ExpiresAt: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.observed.Delete(id, nil); err != nil {
		t.Fatal(err)
	}
	got, missed := uint64(0), uint64(0)
	for {
		e := open.next()
		if e.name == "session.removed" {
			break
		}
		if e.name == "dropped" {
			missed += *decodeEvent[api.DroppedEvent](t, e).Count
		} else {
			got++
		}
	}
	if missed == 0 || got+missed != stored {
		t.Errorf("got %d and missed %d of %d", got, missed, stored)
	}
}

// TestEventsBeyondTimeouts keeps streams open for longer than the listener lets a request
// take, over HTTP/1.1 and HTTP/2.
func TestEventsBeyondTimeouts(t *testing.T) {
	t.Parallel()
	s := startEvents(t)
	for _, http2 := range []bool{false, true} {
		server := httptest.NewUnstartedServer(s.api.Handler())
		const timeout = 2 * time.Second // a handshake has to be done by then, too
		server.Config.ReadTimeout, server.Config.WriteTimeout = timeout, timeout
		server.EnableHTTP2 = http2
		server.StartTLS()
		s.streams = server
		open := s.open(t, "?types=ticket_keys.updated")
		if got := open.response.ProtoMajor == 2; got != http2 {
			t.Fatalf("over %s", open.response.Proto)
		}
		time.Sleep(timeout + timeout/4)
		s.post("/ticket-keys/rotate", "", nil).want(t, 200)
		open.want("ticket_keys.updated")
		open.cancel()
		_, _ = io.Copy(io.Discard, open.response.Body)
		server.Close()
	}
}
