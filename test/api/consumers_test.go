package api_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/consumers"
)

func reportBody(kind string, generation uint64, state string, expiresIn int) []byte {
	return fmt.Appendf(nil, `{"kind":%q,"generation":%d,"state":%q,"expires_in_seconds":%d}`, kind, generation, state, expiresIn)
}

// report reports and wants 204.
func (s *service) report(name string, body []byte, headers ...string) {
	s.tb.Helper()
	s.put("/consumers/"+name, typeJSON, body, headers...).want(s.tb, http.StatusNoContent).wantHeader(s.tb, "Cache-Control", "no-store")
}

func (s *service) listConsumers(query string) api.Consumers {
	s.tb.Helper()
	return decode[api.Consumers](s.tb, s.get("/consumers"+query, typeJSON).want(s.tb, http.StatusOK))
}

// states are the consumers of a list with their states.
func states(list api.Consumers) string {
	var b strings.Builder
	for _, c := range list.Consumers {
		fmt.Fprintf(&b, "%s=%s ", c.Name, c.State)
	}
	return strings.TrimSpace(b.String())
}

// A consumer goes through all of its states, as its reports and the keys do.
func TestConsumers(t *testing.T) {
	s := startService(t)
	if list := s.listConsumers(""); len(list.Consumers) != 0 || list.Generation != s.ring.Generation() {
		t.Errorf("at first: %+v", list)
	}
	first := s.ring.Generation()
	reported := s.clock.Now().Truncate(time.Millisecond) // as answers have times
	s.report("edge-1/web", reportBody("nginx", first, "current", 600))
	s.report("edge-1/api:8443", reportBody("haproxy", first, "current", 10))
	s.report("a.b_c/1", reportBody("httpd", 0, "failed", 3600))
	s.report("edge-1/new", reportBody("file", first, "applying", 600))
	want := "a.b_c/1=failed edge-1/api:8443=current edge-1/new=applying edge-1/web=current"
	if got := states(s.listConsumers("")); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	c := s.listConsumers("?state=current").Consumers[1]
	if c.Behind || c.Generation != first || c.Kind != "nginx" || c.Identity != nil || c.Detail != nil ||
		!c.ReportedAt.Equal(reported) || !c.Since.Equal(reported) || !c.ExpiresAt.Equal(reported.Add(10*time.Minute)) {
		t.Errorf("%+v", c)
	}

	s.clock.advance(time.Second)
	s.post("/ticket-keys/rotate", typeJSON, nil).want(t, http.StatusOK)
	rotated := s.clock.Now().Truncate(time.Millisecond)
	s.clock.advance(4 * time.Second)
	want = "a.b_c/1=failed edge-1/api:8443=stale edge-1/new=applying edge-1/web=stale"
	list := s.listConsumers("")
	if got := states(list); got != want {
		t.Errorf("after a rotation: %s, want %s", got, want)
	}
	if c := list.Consumers[3]; !c.Behind || !c.Since.Equal(rotated) {
		t.Errorf("after a rotation: %+v", c)
	}
	s.report("edge-1/web", reportBody("nginx", s.ring.Generation(), "current", 600))

	s.clock.advance(6 * time.Second)
	want = "a.b_c/1=failed edge-1/api:8443=missing edge-1/new=applying edge-1/web=current"
	if got := states(s.listConsumers("")); got != want {
		t.Errorf("after 11 s: %s, want %s", got, want)
	}
	if c := s.listConsumers("?state=missing").Consumers[0]; !c.Since.Equal(c.ExpiresAt) || !c.ExpiresAt.Equal(reported.Add(10*time.Second)) {
		t.Errorf("missing: %+v", c)
	}

	s.clock.advance(24*time.Hour - time.Second)
	if got, want := states(s.listConsumers("")), "a.b_c/1=missing edge-1/new=missing edge-1/web=missing"; got != want {
		t.Errorf("after a day: %s, want %s", got, want)
	}
	s.request(http.MethodDelete, "/consumers/edge-1/web", nil).want(t, http.StatusNoContent)
	s.request(http.MethodDelete, "/consumers/edge-1/web", nil).wantProblem(t, http.StatusNotFound, api.ProblemCodeConsumerNotFound)
	if got, want := states(s.listConsumers("")), "a.b_c/1=missing edge-1/new=missing"; got != want {
		t.Errorf("after DELETE: %s, want %s", got, want)
	}
}

// What is malformed is refused and changes nothing.
func TestConsumerReportsRefused(t *testing.T) {
	s := startService(t)
	long := strings.Repeat("x", 65)
	for _, name := range []string{long + "/web", "edge/" + long, "ed%20ge/web", "edge/w%2Feb", "edge/w%0Aeb", "%C3%A9dge/web", "edge/%00"} {
		s.put("/consumers/"+name, typeJSON, reportBody("nginx", 1, "current", 60)).wantProblem(t, http.StatusBadRequest, api.ProblemCodeInvalidRequest)
		s.request(http.MethodDelete, "/consumers/"+name, nil).wantProblem(t, http.StatusBadRequest, api.ProblemCodeInvalidRequest)
	}
	for _, body := range []string{
		``, `null`, `[]`, `{}`, `{"kind":"nginx"`,
		string(reportBody("", 1, "current", 60)),
		string(reportBody(long, 1, "current", 60)),
		string(reportBody("ngi nx", 1, "current", 60)),
		string(reportBody("nginx", 1, "stale", 60)),
		string(reportBody("nginx", 1, "", 60)),
		string(reportBody("nginx", 1, "current", 9)),
		string(reportBody("nginx", 1, "current", 3601)),
		string(reportBody("nginx", 1, "current", -10)),
		`{"kind":"nginx","generation":-1,"state":"current","expires_in_seconds":60}`,
		`{"kind":"nginx","generation":18446744073709551616,"state":"current","expires_in_seconds":60}`,
		`{"kind":"nginx","generation":1,"state":"current","expires_in_seconds":9223372036854775807}`,
		`{"generation":1,"state":"current","expires_in_seconds":60}`,
		`{"kind":"nginx","state":"current","expires_in_seconds":60}`,
		`{"kind":"nginx","generation":1,"expires_in_seconds":60}`,
		`{"kind":"nginx","generation":1,"state":"current"}`,
		`{"kind":"nginx","generation":1,"state":"current","expires_in_seconds":60,"more":1}`,
		`{"kind":"nginx","generation":1,"state":"current","expires_in_seconds":60,"detail":"a\nb"}`,
		`{"kind":"nginx","generation":1,"state":"current","expires_in_seconds":60,"detail":"` + strings.Repeat("x", 257) + `"}`,
		string(reportBody("nginx", 1, "current", 60)) + strings.Repeat(" ", 5000),
	} {
		s.put("/consumers/edge/web", typeJSON, []byte(body)).wantProblem(t, http.StatusBadRequest, api.ProblemCodeInvalidRequest)
	}
	s.put("/consumers/edge/web", typeBytes, reportBody("nginx", 1, "current", 60)).wantProblem(t, http.StatusUnsupportedMediaType, api.ProblemCodeUnsupportedMediaType)
	s.get("/consumers?state=gone", typeJSON).wantProblem(t, http.StatusBadRequest, api.ProblemCodeInvalidRequest)
	s.get("/consumers", typePEM).wantProblem(t, http.StatusNotAcceptable, api.ProblemCodeNotAcceptable)
	if got := states(s.listConsumers("")); got != "" {
		t.Errorf("there are %s", got)
	}
}

// A name belongs to who reported it, until the report expires.
func TestConsumerOwner(t *testing.T) {
	p, underPolicy := underPolicy(t)
	log, configure, events := auditLog(t)
	defer log.Close()
	s := startService(t, underPolicy, configure)
	as := func(role string) []string { return []string{"Authorization", "Bearer " + p.tokens[role]} }
	body := reportBody("nginx", 1, "current", 10)
	s.report("edge/web", body, as("key-consume")...)
	s.report("edge/web", body, as("key-consume")...)
	s.put("/consumers/edge/web", typeJSON, body, as("admin")...).wantProblem(t, http.StatusForbidden, api.ProblemCodeForbidden)
	s.report("edge/api", body, as("admin")...)
	s.put("/consumers/edge/api", typeJSON, body, as("key-consume")...).wantProblem(t, http.StatusForbidden, api.ProblemCodeForbidden)
	list := decode[api.Consumers](t, s.get("/consumers", typeJSON, as("observe")...).want(t, http.StatusOK))
	if c := list.Consumers[1]; c.Name != "edge/web" || *c.Identity != "key-consume" {
		t.Errorf("%+v", c)
	}
	s.clock.advance(10 * time.Second)
	s.report("edge/web", body, as("admin")...)
	_ = events()
	s.request(http.MethodDelete, "/consumers/edge/none", nil, as("admin")...).wantProblem(t, http.StatusNotFound, api.ProblemCodeConsumerNotFound)
	s.request(http.MethodDelete, "/consumers/edge/web", nil, as("admin")...).want(t, http.StatusNoContent)
	got := events()
	if len(got) != 1 || got[0].Operation != "DELETE /consumers/{host}/{target}" || got[0].Outcome != audit.Applied ||
		got[0].Identity != "admin" || got[0].Detail != "edge/web" {
		t.Errorf("recorded: %+v", got)
	}
}

// Beyond the limit new consumers are refused, and those that are there still report.
func TestConsumerLimit(t *testing.T) {
	s := startService(t)
	for i := range consumers.Max {
		if err := s.consumers.Put(t.Context(), fmt.Sprintf("edge/%d", i), "", consumers.Report{Kind: "file", State: consumers.Current, ExpiresIn: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	body := reportBody("nginx", 1, "current", 10)
	answer := s.put("/consumers/edge/web", typeJSON, body)
	answer.wantProblem(t, http.StatusTooManyRequests, api.ProblemCodeTooManyConsumers)
	answer.wantHeader(t, "Retry-After", "60")
	s.report("edge/0", body)
	s.request(http.MethodDelete, "/consumers/edge/1", nil).want(t, http.StatusNoContent)
	s.report("edge/web", body)
	list := s.listConsumers("")
	if len(list.Consumers) != consumers.Max || !slices.IsSortedFunc(list.Consumers, func(a, b api.Consumer) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("%d consumers, sorted or not", len(list.Consumers))
	}
}

// A step that would make a key current that a consumer does not have is refused, and
// /status says so.
func TestRotationBehindConsumers(t *testing.T) {
	s := startService(t)
	if status := decode[api.Status](t, s.get("/status", typeJSON)); status.Consumers.Activation != nil {
		t.Errorf("%+v", status.Consumers)
	}
	s.ring.ActivateAfter(s.consumers.Behind, time.Hour, slog.New(slog.DiscardHandler))
	s.report("edge-1/web", reportBody("nginx", s.ring.Generation(), "current", 3600))
	s.report("edge-1/gone", reportBody("nginx", 1, "current", 10))
	s.clock.advance(10 * time.Second) // which is missing, and so holds up nothing
	rotate := func() answer { t.Helper(); return s.post("/ticket-keys/rotate", typeJSON, nil) }
	rotate().want(t, http.StatusOK)
	before := s.ring.Generation()
	refused := rotate()
	refused.wantProblem(t, http.StatusConflict, api.ProblemCodeConsumersBehind)
	refused.wantHeader(t, "Retry-After", "1")
	s.report("edge-1/web", reportBody("nginx", before, "failed", 3600))
	rotate().wantProblem(t, http.StatusConflict, api.ProblemCodeConsumersBehind)
	if s.ring.Generation() != before {
		t.Error("a step that is refused changed the set")
	}
	status := decode[api.Status](t, s.get("/status", typeJSON))
	if c := status.Consumers; c.Failed != 1 || c.Missing != 1 || c.Current+c.Stale+c.Applying != 0 || c.Activation == nil || c.Activation.Waiting {
		t.Errorf("%+v", c)
	}
	s.report("edge-1/web", reportBody("nginx", before, "current", 3600))
	rotate().want(t, http.StatusOK)
	rotate().want(t, http.StatusConflict)
	s.clock.advance(time.Hour)
	s.report("edge-1/web", reportBody("nginx", before, "current", 3600))
	rotate().want(t, http.StatusOK)
	status = decode[api.Status](t, s.get("/status", typeJSON))
	if c := status.Consumers; c.Activation.Timeouts != 1 {
		t.Errorf("%+v", c)
	}
}
