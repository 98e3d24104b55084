package metrics

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/events"
	"github.com/sessapi/sessapi/internal/fleet"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/seal"
	"github.com/sessapi/sessapi/internal/state"
)

// sessionID is long enough that no figure has its digits by chance.
const sessionID = "5e551d5e551d5e551d5e551d5e551d01"

// sharedStore has no other ring.
type sharedStore struct{ state []byte }

func (s *sharedStore) Load(context.Context) ([]byte, error) { return slices.Clone(s.state), nil }
func (s *sharedStore) Save(_ context.Context, state []byte) error {
	s.state = slices.Clone(state)
	return nil
}
func (s *sharedStore) Restore(ctx context.Context, state []byte) error { return s.Save(ctx, state) }
func (s *sharedStore) Settled() error                                  { return nil }
func (s *sharedStore) Copy() ([]byte, error)                           { return nil, nil }

// everything is a registry with all there is, after some use.
func everything(t *testing.T) *Metrics {
	t.Helper()
	m := New("v1.2.3")
	c, err := cache.New(cache.Config{Memory: 1 << 20, MaxSessionBytes: 1024})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m.AddCache(c)
	id, err := cache.ParseID(sessionID)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.Put(id, make([]byte, 100), cache.PutOptions{ExpiresAt: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Put(id, nil, cache.PutOptions{ExpiresAt: time.Now().Add(time.Hour)}); err == nil {
		t.Fatal("an empty session was stored")
	}
	c.Get(nil, id)
	c.Get(nil, id)
	_ = c.Delete(id, nil)
	c.Get(nil, id)

	ring, err := keys.JoinRing(t.Context(), time.Now, keys.Lifecycle{}, &sharedStore{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.AddTicketKeys(ring)
	if _, err := ring.Load(t.Context(), keys.ATS, make([]byte, 47), keys.Update{Source: keys.SourceAPI}); err == nil {
		t.Fatal("47 bytes were taken for keys")
	}
	if _, err := ring.Rotate(t.Context(), keys.Update{}); err != nil {
		t.Fatal(err)
	}
	table := consumers.New(time.Now, nil)
	m.AddConsumers(table, ring)
	bus := events.New(time.Now)
	m.AddEvents(bus)
	bus.Publish(events.FleetChanged, events.Fleet{})
	ring.ActivateAfter(table.Behind, time.Hour, slog.New(slog.DiscardHandler))
	for name, state := range map[string]consumers.State{"edge-7/web": consumers.Current, "edge-7/api": consumers.Failed} {
		if err := table.Put(t.Context(), name, "edge", consumers.Report{Kind: "nginx", Generation: 7, State: state, ExpiresIn: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "ticket.key")
	set := make([]byte, 3*48)
	_, _ = rand.Read(set)
	if err := os.WriteFile(path, set, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := keys.OpenFile(path, ring, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	m.AddTicketKeyFile(file)
	m.AddRequests(func() int { return 4 }, func() int { return 3 })
	m.AddTLS(func() TLS {
		return TLS{NotAfter: time.Unix(1800000000, 0), ReloadFailures: 1}
	})
	m.SetInsecureListen(true)
	sealKeys, err := seal.ParseKeys(seal.GenerateKey())
	if err != nil {
		t.Fatal(err)
	}
	saved, err := state.Open(filepath.Join(t.TempDir(), "state"), sealKeys, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = saved.Close() })
	m.AddState(saved)
	node, err := fleet.New(fleet.Config{URL: "redis://127.0.0.1:1", Namespace: "test", Seal: sealKeys})
	if err != nil {
		t.Fatal(err)
	}
	m.AddFleet(node)
	m.FleetRead(300 * time.Microsecond)
	record, err := audit.Open(audit.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	m.AddAudit(record)
	m.AddConnections("main", 4096, func() int { return 1 })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	file.Reload()

	policyPath := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policyPath, []byte(`identities:
  - {name: a, roles: [admin], uids: [0]}
  - name: b
    roles: [admin]
    tokens:
      - {sha256: "6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090", expires: 2027-07-01T00:00:00Z}
      - {sha256: "c4bbcb1fbec99d65bf59d85c8cb62ee2db963f0fe106f483d9afa73bd4e39a8a", expires: 2027-04-01T00:00:00Z}
      - {sha256: "9f735e0df9a1ddc702bf0a1a7b83033f9f7153a00c29de82cedadc9957289b05"}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	policy, err := auth.OpenFile(policyPath, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(policyPath); err != nil {
		t.Fatal(err)
	}
	policy.Reload()
	m.AddPolicy(policy)
	authenticator := auth.New(policy.Policy, time.Now)
	m.AddAuthentication(authenticator)
	if _, err := authenticator.Authenticate(httptest.NewRequest(http.MethodGet, "/", nil)); err == nil {
		t.Fatal("nobody was authenticated")
	}

	m.Request("/sessions/{id}", http.MethodGet, 200, 300*time.Microsecond)
	m.Request("", "BREW", 404, time.Millisecond)
	m.Problem("route_not_found")
	return m
}

func scrape(t *testing.T, m *Metrics, accept string) string {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, r)
	body, err := io.ReadAll(w.Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("%d %v", w.Code, err)
	}
	return string(body)
}

func TestFigures(t *testing.T) {
	body := scrape(t, everything(t), "text/plain")
	for _, want := range []string{
		`sessapi_cache_hits_total 2`,
		`sessapi_cache_misses_total 1`,
		`sessapi_cache_stored_total 2`,
		`sessapi_cache_replaced_total 1`,
		`sessapi_cache_removed_total 1`,
		`sessapi_cache_rejected_total{reason="empty"} 1`,
		`sessapi_cache_entries 0`,
		`sessapi_cache_capacity_bytes 1.048576e+06`,
		`sessapi_cache_session_size_bytes_bucket{le="64"} 0`,
		`sessapi_cache_session_size_bytes_bucket{le="128"} 2`,
		`sessapi_cache_session_size_bytes_sum 200`,
		`sessapi_cache_evicted_idle_seconds_bucket{le="1"} 0`,
		`sessapi_cache_evicted_idle_seconds_bucket{le="131072"} 0`,
		`sessapi_cache_evicted_idle_seconds_count 0`,
		`sessapi_ticket_keys{role="current"} 1`,
		`sessapi_ticket_keys{role="previous"} 2`,
		`sessapi_ticket_keys_source{source="file"} 1`,
		`sessapi_ticket_keys_source{source="generated"} 0`,
		`sessapi_ticket_keys_updates_total{source="rotation"} 1`,
		`sessapi_ticket_keys_updates_rejected_total{reason="length"} 1`,
		`sessapi_ticket_keys_waiting_requests 3`,
		`sessapi_ticket_key_file_reload_failures_total 1`,
		`sessapi_ticket_keys_activation_waiting 0`,
		`sessapi_ticket_keys_activation_timeouts_total 0`,
		`sessapi_events_subscribers 0`,
		`sessapi_events_published_total{type="fleet.changed"} 1`,
		`sessapi_events_published_total{type="session.stored"} 0`,
		`sessapi_events_dropped_total 0`,
		`sessapi_consumers{state="current"} 0`,
		`sessapi_consumers{state="failed"} 1`,
		`sessapi_consumers{state="missing"} 0`,
		`sessapi_consumers{state="stale"} 1`,
		`sessapi_consumer_generation{consumer="edge-7/web",kind="nginx"} 7`,
		`sessapi_consumer_state_changed_timestamp_seconds{consumer="edge-7/api",kind="nginx",state="failed"} 1.`,
		`sessapi_consumer_state_changed_timestamp_seconds{consumer="edge-7/web",kind="nginx",state="stale"} 1.`,
		`sessapi_fleet_info{fleet="`,
		`sessapi_consumer_last_report_timestamp_seconds{consumer="edge-7/api"} 1.`,
		`sessapi_tls_certificate_not_after_timestamp_seconds 1.8e+09`,
		`sessapi_tls_reload_failures_total 1`,
		`sessapi_insecure_listen 1`,
		`sessapi_http_requests_total{code="200",method="GET",route="/sessions/{id}"} 1`,
		`sessapi_http_requests_total{code="404",method="other",route="none"} 1`,
		`sessapi_http_request_duration_seconds_bucket{code="200",method="GET",route="/sessions/{id}",le="0.0005"} 1`,
		`sessapi_http_problems_total{code="route_not_found"} 1`,
		`sessapi_policy_identities 2`,
		`sessapi_policy_token_expiry_timestamp_seconds{identity="b"} 1.8065376e+09`,
		`sessapi_policy_last_reload_successful 0`,
		`sessapi_policy_reload_failures_total 1`,
		`sessapi_authentication_failures_total{reason="missing"} 1`,
		`sessapi_authentication_failures_total{reason="unknown"} 0`,
		`sessapi_build_info{`,
		`go_goroutines `,
		`process_resident_memory_bytes `,
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("there is no %s", want)
		}
	}
	if strings.Contains(body, sessionID) {
		t.Error("a session ID is in the metrics")
	}
	if open := scrape(t, everything(t), "application/openmetrics-text; version=1.0.0"); !strings.HasSuffix(open, "# EOF\n") {
		t.Error("OpenMetrics is not to be had")
	}
}

// Names follow the convention of Prometheus.
func TestNames(t *testing.T) {
	problems, err := testutil.GatherAndLint(everything(t).registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// The latency is a native histogram for those who take one.
func TestNativeHistogram(t *testing.T) {
	families, err := everything(t).registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "sessapi_http_request_duration_seconds" {
			continue
		}
		for _, metric := range family.GetMetric() {
			h := metric.GetHistogram()
			if h.Schema == nil || len(h.PositiveSpan) == 0 || len(h.Bucket) == 0 {
				t.Errorf("%v is not both native and classic", metric)
			}
		}
		return
	}
	t.Error("there is no latency")
}

// openMetricsParser is the Python client's parser, which holds OpenMetrics to the
// letter: no family twice, or between the samples of another. Those in Go pass over
// that.
const openMetricsParser = `
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
print(len(list(text_string_to_metric_families(sys.stdin.read()))), "families")
`

func TestOpenMetricsIsStrict(t *testing.T) {
	parse := func(text string) (string, error) {
		// Not any other python3 of the PATH: Debian's package is for this one.
		command := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", openMetricsParser)
		command.Stdin = strings.NewReader(text)
		output, err := command.CombinedOutput()
		return string(output), err
	}
	if output, err := parse("# EOF\n"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the parser of python3-prometheus-client: %v\n%s", err, output)
		}
		t.Skip("python3-prometheus-client is not installed; make test installs it on Debian as root")
	}
	text := scrape(t, everything(t), "application/openmetrics-text; version=1.0.0")
	if output, err := parse(text); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

// rotating is a registry with the ticket keys that a service generates, which rotate.
func rotating() *Metrics {
	m := New("v1.2.3")
	m.AddTicketKeys(keys.NewRing(func() time.Time { return time.Unix(1800000000, 0) }, keys.Lifecycle{RotateEvery: time.Hour}))
	return m
}

func TestNextRotation(t *testing.T) {
	const name = "sessapi_ticket_keys_next_rotation_timestamp_seconds"
	if body := scrape(t, rotating(), "text/plain"); !strings.Contains(body, "\n"+name+" 1.8000036e+09\n") {
		t.Error(body)
	}
	if body := scrape(t, everything(t), "text/plain"); strings.Contains(body, name) {
		t.Error("a set that does not rotate has a next rotation")
	}
}

// docs/metrics.md lists every metric of the service, and no other.
func TestDocumented(t *testing.T) {
	document, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]dto.MetricType{}
	row := regexp.MustCompile("(?m)^\\| `(sessapi_[a-z_]+)(?:\\{[a-z_,]+\\})?` \\| (counter|gauge|histogram) \\|")
	for _, match := range row.FindAllStringSubmatch(string(document), -1) {
		documented[match[1]] = dto.MetricType(dto.MetricType_value[strings.ToUpper(match[2])])
	}
	exported := map[string]dto.MetricType{}
	for _, m := range []*Metrics{everything(t), rotating()} {
		families, err := m.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			if name := family.GetName(); strings.HasPrefix(name, "sessapi_") {
				exported[name] = family.GetType()
			}
		}
	}
	for name, kind := range exported {
		if want, ok := documented[name]; !ok || want != kind {
			t.Errorf("%s, a %v, is documented as %v (%v)", name, kind, want, ok)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("%s is documented and does not exist", name)
	}
}

// docs/agent.md lists every metric of the agent, and no other.
func TestAgentDocumented(t *testing.T) {
	document, err := os.ReadFile("../../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, described []string
	for _, match := range regexp.MustCompile("(?m)^\\| `(sessapi_agent_[a-z_]+)(?:\\{[a-z_,]+\\})?` \\| (?:counter|gauge) \\|").FindAllStringSubmatch(string(document), -1) {
		documented = append(documented, match[1])
	}
	descs := make(chan *prometheus.Desc, 100)
	newAgentCollector(nil).Describe(descs)
	close(descs)
	for d := range descs {
		described = append(described, regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1])
	}
	slices.Sort(documented)
	slices.Sort(described)
	if !slices.Equal(documented, described) {
		t.Errorf("documented are %q, there are %q", documented, described)
	}
}
