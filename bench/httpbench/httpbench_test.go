package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
)

type recorder struct{}

func (recorder) Request(string, string, int, time.Duration) {}
func (recorder) Problem(string)                             {}

// The floor answers as sessapi does: with the same status, the same names of headers,
// and as many bytes. Else the ratios would compare other work.
func TestFloorAnswersAlike(t *testing.T) {
	c, err := cache.New(cache.Config{Memory: 1 << 20, MaxSessionBytes: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sessapi := handlers.New(handlers.Config{
		Cache: c, MaxSessionBytes: 1 << 10, DefaultTTL: time.Hour, MaxTTL: time.Hour,
		Ring: keys.NewRing(time.Now, keys.Lifecycle{}), Log: slog.New(slog.DiscardHandler), Recorder: recorder{},
		Metrics: http.NotFoundHandler(), AllowedHosts: []string{"example.com"},
	}).Handler()
	bare := &floor{sessions: make(map[string]*floorSession)}
	data := newData(sessionSize)
	contender := &contender{}
	contender.contract("", data)
	send := func(h http.Handler, what template, method string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, strings.ReplaceAll(what.path, "{id}", "01"), strings.NewReader(what.body))
		for line := range strings.Lines(what.header) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	store := contender.requests[put]
	send(sessapi, store, http.MethodPut)
	send(bare, store, http.MethodPost) // as the harness stores at the floor
	for _, kind := range []kind{put, get, head, missing} {
		what := contender.requests[kind]
		want, got := send(sessapi, what, what.method), send(bare, what, what.method)
		if got.Code != want.Code || got.Body.Len() != want.Body.Len() {
			t.Errorf("%s %s: %d with %d bytes, sessapi has %d with %d", what.method, what.path, got.Code, got.Body.Len(), want.Code, want.Body.Len())
		}
		if g, w := slices.Sorted(maps.Keys(got.Header())), slices.Sorted(maps.Keys(want.Header())); !slices.Equal(g, w) {
			t.Errorf("%s %s: headers %q, sessapi has %q", what.method, what.path, g, w)
		}
		if kind == get && !bytes.Equal(got.Body.Bytes(), want.Body.Bytes()) {
			t.Error("the floor has another session")
		}
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		sorted []float64
		want   float64
	}{{[]float64{1}, 1}, {[]float64{1, 3}, 2}, {[]float64{1, 2, 9}, 2}} {
		if got := median(test.sorted); got != test.want {
			t.Errorf("the median of %v is %v, want %v", test.sorted, got, test.want)
		}
	}
}

// A table has the medians, their ratios to the base, and says which goals are met.
func TestPrint(t *testing.T) {
	m := &measure{
		name: "get", about: "About it.", rows: rowsOf(standard(get), sessapi, floorServer),
		columns: []column{{"rate", "requests/s", "%.0f"}}, base: floorServer,
		goals: []goal{atLeast(sessapi, 0.9, floorServer), atLeast(sessapi, 0.5, floorServer)},
	}
	var out bytes.Buffer
	medians := m.print(&out, map[string][]figures{
		sessapi: {{"rate": 60}, {"rate": 100}, {"rate": 80}}, floorServer: {{"rate": 100}},
	})
	for _, line := range []string{
		"| sessapi | 80 | 60–100 | 0.80 |", "| floor | 100 | 100–100 | 1.00 |",
		"- sessapi ≥ 0.9 × floor: **not met**", "- sessapi ≥ 0.5 × floor: **met**",
	} {
		if !strings.Contains(out.String(), line+"\n") {
			t.Errorf("there is no %q in\n%s", line, out.String())
		}
	}
	drawn := string(drawCharts([]chart{m.chart(medians)}))
	if !strings.HasPrefix(drawn, "<svg ") || strings.Count(drawn, "<rect ") != 3 || !strings.Contains(drawn, ">80</text>") {
		t.Errorf("the chart is\n%s", drawn)
	}
}

// The script of wrk reads what is written for it: the length of each request on a
// line, and then the request.
func TestRequests(t *testing.T) {
	what := template{method: http.MethodPut, path: "/sessions/{id}", header: "A: b\r\n", body: "{id}"}
	want := "PUT /sessions/0a HTTP/1.1\r\nHost: host\r\nA: b\r\nContent-Length: 2\r\n\r\n0a"
	if got := string(what.raw("host", "0a")); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if ids := sessionIDs(3); fmt.Sprint(ids) != fmt.Sprint(sessionIDs(5)[:3]) || len(ids[0]) != 64 {
		t.Errorf("the IDs are %q", ids)
	}
}
