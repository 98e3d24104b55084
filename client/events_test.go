package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// storedEvent is the n-th session event as it is streamed.
func storedEvent(n int) string {
	return fmt.Sprintf("id: run-%d\nevent: session.stored\ndata: {\"time\":\"2026-11-24T12:00:00Z\",\"id_hash\":\"%032d\"}\n\n", n, n)
}

// followed is what happened while events were followed.
type followed struct {
	began     []time.Duration // when the requests were made
	positions []string        // the Last-Event-ID of each request
	events    []string
}

// follow follows the events of a service without a network, which answers the i-th request,
// for a time.
func follow(t *testing.T, d time.Duration, service func(i int, r *http.Request) (*http.Response, error), types ...EventType) (f followed) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	start := time.Now()
	c, err := New("http://sessapi", WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		f.began = append(f.began, time.Since(start))
		f.positions = append(f.positions, r.Header.Get("Last-Event-ID"))
		return service(len(f.began)-1, r)
	})}))
	if err != nil {
		t.Fatal(err)
	}
	for e := range c.Events(ctx, types...) {
		text := string(e.Type)
		switch {
		case e.Session != nil:
			text += " " + strings.TrimLeft(e.Session.IDHash, "0")
		case e.Dropped != nil && e.Dropped.Count != nil:
			text += fmt.Sprint(" ", *e.Dropped.Count)
		}
		f.events = append(f.events, text)
	}
	if time.Since(start) != d {
		t.Errorf("the events ended after %v", time.Since(start))
	}
	return f
}

// events answers with a stream: the text, and then nothing until the request ends.
func events(r *http.Request, text string) *http.Response {
	reader, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, text)
		<-r.Context().Done()
		_ = writer.CloseWithError(r.Context().Err())
	}()
	return stream200(reader)
}

func stream200(body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body}
}

// ended is a stream that the service ends after the text.
func ended(text string) *http.Response { return stream200(io.NopCloser(strings.NewReader(text))) }

func TestEventsContinue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, 40*time.Second, func(i int, r *http.Request) (*http.Response, error) {
			switch i {
			case 0: // which breaks in the middle of an event
				return ended("id: run-0\n\n" + storedEvent(1) + storedEvent(2)[:20]), nil
			case 1:
				return nil, io.ErrUnexpectedEOF
			case 2:
				return ended(":\n\n" + storedEvent(2) + "event: dropped\ndata: {\"time\":\"2026-11-24T12:00:00Z\",\"count\":7}\n\n" +
					"id: run-9\nevent: session.teleported\ndata: what?\n\n"), nil
			}
			return events(r, "id: run-9\n\n"+storedEvent(10)), nil
		})
		if want := []string{"session.stored 1", "session.stored 2", "dropped 7", "session.stored 10"}; !slices.Equal(f.events, want) {
			t.Errorf("%q", f.events)
		}
		if want := []string{"", "run-1", "run-1", "run-9"}; !slices.Equal(f.positions, want) {
			t.Errorf("%q", f.positions)
		}
		if f.began[1] < interval || f.began[2]-f.began[1] < firstBackoff/2 {
			t.Errorf("requests at %v", f.began)
		}
	})
}

// A stream that is silent is broken, but not one whose caller takes long.
func TestEventsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, silence+10*time.Second, func(_ int, r *http.Request) (*http.Response, error) {
			return events(r, "id: run-0\n\n"), nil
		})
		if len(f.began) != 2 || f.began[1] < silence {
			t.Errorf("requests at %v", f.began)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		c, err := New("http://sessapi", WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			requests++
			return events(r, storedEvent(1)+storedEvent(2)), nil
		})}))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for range c.Events(t.Context()) {
			time.Sleep(2 * silence)
			if n++; n == 2 {
				break
			}
		}
		if requests != 1 {
			t.Errorf("%d requests", requests)
		}
	})
}

// A service that does not know the position starts anew, and the caller learns of it.
func TestEventsUnknownPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, 10*time.Second, func(i int, r *http.Request) (*http.Response, error) {
			switch {
			case i == 0:
				return ended("id: other\n\n"), nil
			case r.Header.Get("Last-Event-ID") != "":
				return answer(http.StatusBadRequest, "", "{}"), nil
			}
			return events(r, "id: run-1\n\n"), nil
		})
		if !slices.Equal(f.events, []string{"dropped"}) || !slices.Equal(f.positions, []string{"", "other", ""}) {
			t.Errorf("%+v", f)
		}
	})
}

func TestEventsTypes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		follow(t, time.Second/2, func(_ int, r *http.Request) (*http.Response, error) {
			if got := r.URL.RawQuery; got != "types=session.stored,fleet.changed" {
				t.Error(got)
			}
			return events(r, "id: run-1\n\n"), nil
		}, SessionStored, FleetChanged)
	})
}

// A malformed event ends the stream. The next stream continues after it.
func TestEventsHostile(t *testing.T) {
	for _, text := range []string{
		"id: \n\n", "id: a\x00b\n\n", "id: " + strings.Repeat("x", 65) + "\n\n",
		"event: session.stored\n\n", "event: session.stored\ndata: null\n\n", "event: session.stored\ndata: {}\n\n",
		"event: session.stored\ndata: {\"time\":\"2026-11-24T12:00:00Z\",\"id_hash\":\"" + strings.Repeat("0", 32) + "\",\"id\":\"xyz\"}\n\n",
		"event: ticket_keys.updated\ndata: {\"ticket_keys\":{}}\n\n", "event: ticket_keys.updated\ndata: null\n\n",
		"event: ticket_keys.rejected\ndata: {\"reason\":\"A b\"}\n\n", "event: consumer.changed\ndata: {}\n\n",
		"event: fleet.changed\ndata: null\n\n", "event: dropped\ndata: []\n\n",
		"data: " + strings.Repeat("x", 2*maxEventLine) + "\n\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			f := follow(t, 10*time.Second, func(i int, r *http.Request) (*http.Response, error) {
				if i == 0 {
					return ended(text), nil
				}
				return events(r, storedEvent(1)), nil
			})
			if !slices.Equal(f.events, []string{"session.stored 1"}) {
				t.Errorf("%.60q: %q", text, f.events)
			}
		})
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add("session.stored", `{"id_hash":"00000000000000000000000000000000"}`)
	f.Add("ticket_keys.updated", `{"ticket_keys":`+described+`}`)
	f.Add("consumer.changed", `{"consumer":{"name":"a/b","kind":"nginx","state":"current","detail":"x"}}`)
	f.Add("ticket_keys.rejected", `{"reason":"length","source":"api","errors":[{"field":"x","reason":"y"}]}`)
	f.Fuzz(func(t *testing.T, name, data string) {
		e, known, err := parseEvent(name, data)
		if err == nil && known && e.Session == nil && e.TicketKeys == nil && e.Rejection == nil && e.Consumer == nil && e.Fleet == nil && e.Dropped == nil {
			t.Errorf("%s %s is an event without data", name, data)
		}
		if err != nil && len(data) > 20 && strings.Contains(err.Error(), data) {
			t.Errorf("the error has the data: %v", err)
		}
	})
}
