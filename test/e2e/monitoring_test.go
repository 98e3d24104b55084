package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

const (
	rulesFile     = "../../deploy/prometheus/sessapi.rules.yaml"
	ruleTestsFile = "../../deploy/prometheus/sessapi.rules_test.yaml"
	dashboardFile = "../../deploy/grafana/sessapi.json"
	runbookFile   = "../../docs/runbook.md"
)

var (
	dashboardPicture = flag.String("dashboard-picture", "", "absolute `file` to draw the dashboard into")
	dashboardTime    = flag.Duration("dashboard-time", 8*time.Minute, "how long the picture of the dashboard shows")
)

// rule is an alert, or an expression that is recorded.
type rule struct {
	Record      string            `yaml:"record"`
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func rules(tb testing.TB) (all []rule) {
	tb.Helper()
	var file struct {
		Groups []struct {
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal(readFile(tb, rulesFile), &file); err != nil {
		tb.Fatal(err)
	}
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	return all
}

// Prometheus loads the rules and its configuration. Each alert fires in one case and
// stays silent in another.
func TestAlerts(t *testing.T) {
	t.Parallel()
	promtool := need(t, "promtool")
	folder, err := filepath.Abs(filepath.Dir(rulesFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"check", "config", "--syntax-only", "prometheus.yaml"},
		{"check", "rules", filepath.Base(rulesFile)},
		{"test", "rules", filepath.Base(ruleTestsFile)},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, promtool, args...)
		cmd.Dir = folder
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}

	var cases struct {
		Tests []struct {
			AlertRuleTest []struct {
				AlertName string `yaml:"alertname"`
				ExpAlerts []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	if err := yaml.Unmarshal(readFile(t, ruleTestsFile), &cases); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range cases.Tests {
		for _, c := range test.AlertRuleTest {
			if len(c.ExpAlerts) > 0 {
				fires[c.AlertName] = true
			} else {
				silent[c.AlertName] = true
			}
		}
	}
	alerts := 0
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		alerts++
		if !fires[r.Alert] || !silent[r.Alert] {
			t.Errorf("%s: there is a case in which it fires: %v; in which it does not: %v", r.Alert, fires[r.Alert], silent[r.Alert])
		}
	}
	if alerts == 0 {
		t.Error("there are no alerts")
	}
}

// Each alert says how severe it is and what is wrong, and has a section of the runbook,
// which has no other sections.
func TestRunbook(t *testing.T) {
	t.Parallel()
	sections := map[string]string{}
	for _, section := range strings.Split(string(readFile(t, runbookFile)), "\n## ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		sections[strings.ToLower(title)] = text
	}
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if severity := r.Labels["severity"]; severity != "critical" && severity != "warning" {
			t.Errorf("%s: severity %q", r.Alert, severity)
		}
		for _, name := range []string{"summary", "description"} {
			if r.Annotations[name] == "" {
				t.Errorf("%s has no %s", r.Alert, name)
			}
		}
		anchor, ok := strings.CutPrefix(r.Annotations["runbook_url"], "https://github.com/sessapi/sessapi/blob/main/docs/runbook.md#")
		if !ok || anchor != strings.ToLower(r.Alert) {
			t.Errorf("%s: runbook_url %q", r.Alert, r.Annotations["runbook_url"])
		}
		text, ok := sections[anchor]
		if !ok {
			t.Errorf("the runbook has no section %s", r.Alert)
		}
		for _, part := range []string{"**Meaning.**", "**Check.**", "**Do.**"} {
			if ok && !strings.Contains(text, part) {
				t.Errorf("section %s has no %s", r.Alert, part)
			}
		}
		delete(sections, anchor)
	}
	for title := range sections {
		t.Errorf("section %s is of no alert", title)
	}
}

// promQuery is a query of the dashboard.
type promQuery struct {
	Expr         string `json:"expr"`
	LegendFormat string `json:"legendFormat"`
}

// grafanaDashboard is what the test reads of it.
type grafanaDashboard struct {
	Panels []struct {
		Type, Title, Description string
		Targets                  []promQuery
		FieldConfig              struct {
			Defaults struct{ Unit string }
		}
	}
	Annotations struct{ List []promQuery }
	Templating  struct {
		List []struct{ Name, Type, Query string }
	}
}

// Every query of the dashboard and every metric of the rules is one of what real nodes,
// an agent and the doctor export: Prometheus scrapes a fleet under load, and has data
// for all of them, with native histograms and without.
func TestDashboard(t *testing.T) {
	t.Parallel()
	site := newMonitoredSite(t)
	var d grafanaDashboard
	if err := json.Unmarshal(readFile(t, dashboardFile), &d); err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{} // by what they are for
	for _, p := range d.Panels {
		if p.Type == "row" {
			continue
		}
		if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q: description %q, unit %q, %d queries", p.Title, p.Description, p.FieldConfig.Defaults.Unit, len(p.Targets))
		}
		for _, q := range p.Targets {
			if q.LegendFormat == "" {
				t.Errorf("panel %q: %s has no legend", p.Title, q.Expr)
			}
			queries[p.Title+", "+q.LegendFormat] = q.Expr
		}
	}
	for _, a := range d.Annotations.List {
		if strings.Contains(a.Expr, "process_start_time_seconds") {
			continue // no node of the test is restarted
		}
		queries["annotation"] = a.Expr
	}
	if len(queries) < 50 {
		t.Fatalf("the dashboard has %d queries", len(queries))
	}
	labelValues := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		match := labelValues.FindStringSubmatch(v.Query)
		if match == nil {
			t.Errorf("variable %s: %s", v.Name, v.Query)
			continue
		}
		queries["variable "+v.Name] = `group by (` + match[2] + `) (` + match[1] + `)`
	}
	used := regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`)
	for _, r := range rules(t) {
		for _, name := range used.FindAllString(r.Expr+" "+r.Record, -1) {
			if strings.Contains(name, "sessapi_") || strings.HasPrefix(name, "process_") || name == "up" {
				queries["rules, "+name] = name
			}
		}
	}
	for _, alert := range []string{"InsecureListen", "ConsumerFailed", "TicketKeyUpdatesRejected", "DoctorFinding"} {
		queries["the alert "+alert] = `ALERTS{alertname="Sessapi` + alert + `"}`
	}
	for name, p := range site.prometheus {
		p.await(t, name, queries)
		p.checkRules(t)
		// The nodes of the fleet have the same keys, the one apart has others.
		if alert := `ALERTS{alertname="SessapiTicketKeysDiffer",alertstate="firing"}`; p.hasData(t, alert) {
			t.Errorf("%s has %s", name, alert)
		}
	}
	if *dashboardPicture != "" {
		site.draw(t)
	}
}

// prometheusServer is a running Prometheus.
type prometheusServer struct {
	*process
	url string
}

func startPrometheus(tb testing.TB, config string, args ...string) *prometheusServer {
	tb.Helper()
	dir := tb.TempDir()
	path := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	addr := "127.0.0.1:" + freePort(tb)
	p := &prometheusServer{start(tb, need(tb, "prometheus"), append([]string{
		"--config.file=" + path, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + addr,
	}, args...)...), "http://" + addr}
	p.out.await(tb, "Server is ready to receive web requests")
	return p
}

// get fetches the data of an answer of the API.
func (p *prometheusServer) get(tb testing.TB, path string, parameters url.Values, data any) {
	tb.Helper()
	request, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, p.url+"/api/v1/"+path+"?"+parameters.Encode(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		tb.Fatal(err)
	}
	defer response.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Status != "success" {
		tb.Fatalf("%s %v: %v %s", path, parameters, err, answer.Error)
	}
}

// await waits until all queries have had data. They are in a map by what they are for.
func (p *prometheusServer) await(tb testing.TB, name string, queries map[string]string) {
	tb.Helper()
	missing := maps.Clone(queries)
	for deadline := time.Now().Add(2 * time.Minute); len(missing) > 0 && time.Now().Before(deadline); time.Sleep(time.Second) {
		for what, expr := range missing {
			if p.hasData(tb, expr) {
				delete(missing, what)
			}
		}
	}
	for what, expr := range missing {
		tb.Errorf("%s: %s has no data: %s", name, what, expr)
	}
}

// hasData reports whether a query of the dashboard has had a number in the last minutes.
func (p *prometheusServer) hasData(tb testing.TB, expr string) bool {
	tb.Helper()
	expr = strings.NewReplacer("$job", "sessapi|single", "$instance", "keys-.+", "$__rate_interval", "30s").Replace(expr)
	now := time.Now()
	var data struct {
		Result []struct{ Values [][2]any }
	}
	p.get(tb, "query_range", url.Values{
		"query": {expr}, "step": {"2"},
		"start": {strconv.FormatInt(now.Add(-10*time.Minute).Unix(), 10)}, "end": {strconv.FormatInt(now.Unix(), 10)},
	}, &data)
	for _, series := range data.Result {
		for _, value := range series.Values {
			if value[1] != "NaN" {
				return true
			}
		}
	}
	return false
}

// checkRules expects that all rules can be evaluated.
func (p *prometheusServer) checkRules(tb testing.TB) {
	tb.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	p.get(tb, "rules", nil, &data)
	n := 0
	for _, group := range data.Groups {
		for _, r := range group.Rules {
			n++
			if r.Health != "ok" {
				tb.Errorf("%s: %s %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	if want := len(rules(tb)); n != want {
		tb.Errorf("Prometheus has %d rules, want %d", n, want)
	}
}

// monitoredSite is all that can be monitored: a fleet of two nodes with Redis, consumers,
// audit log and policy, a node apart, an agent, and the doctor. There is load until
// the test ends.
type monitoredSite struct {
	nodes      []*service
	client     *http.Client
	token      string
	redis      *redistest.Server
	prometheus map[string]*prometheusServer
}

func newMonitoredSite(t *testing.T) *monitoredSite {
	need(t, "prometheus")
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := certificate(t, "/CN=localhost")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(readFile(t, cert))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	token := strings.Split(strings.TrimSpace(run(t, sessapiPath, "token", "new", "--expires", "90d")), "\n")
	m := &monitoredSite{
		client: &http.Client{Transport: transport, Timeout: 30 * time.Second}, token: token[0],
		redis: redistest.Start(t), prometheus: map[string]*prometheusServer{},
	}
	tokenFile := write("token", m.token)
	policy := write("policy.yaml", "identities:\n  - name: test\n    roles: [admin]\n    tokens:\n      "+token[len(token)-1]+"\n")
	sealKey := newSealKey(t)
	for i := range 2 {
		m.nodes = append(m.nodes, serve(t, "--tls-cert="+cert, "--tls-key="+key, "--policy="+policy,
			fmt.Sprintf("--audit-log=%s/audit-%d", dir, i), fmt.Sprintf("--state-file=%s/state-%d", dir, i), "--seal-key-file="+sealKey,
			"--redis="+m.redis.URL(), "--redis-read-timeout=2s", "--cache-memory=1MiB",
			"--rotate-every=2m", "--ticket-lifetime=10m", "--activate-after=all", "--activate-timeout=20s"))
	}
	single := serve(t, "--insecure-listen", "--cache-memory=1MiB", "--ticket-key-file="+write("ticket.key", string(record())))

	m.expect(t, 0, http.MethodPost, "/ticket-keys/rotate", nil, http.StatusOK)
	agent := start(t, sessapiPath, "agent", "--config="+write("agent.yaml", fmt.Sprintf(
		"service: {addresses: [\"https://%s\"], ca: %q, token_file: %q}\nname: edge-1\nlisten: 127.0.0.1:0\ntargets:\n  - {kind: file, name: web, format: ats, file: keys}\n",
		m.nodes[1].addr, cert, tokenFile)))
	agentAddr := agent.out.await(t, `"name":"agent","address":"([^"]+)"`)[1]
	m.report(t, "edge-2/web", "current")
	m.report(t, "edge-3/web", "failed")

	// The nodes do not share the ticket keys of their own listeners: findings are what the
	// doctor is asked for.
	doctorFile := filepath.Join(dir, "doctor.prom")
	out, err := exec.CommandContext(t.Context(), sessapiPath, "doctor", "--ca", cert, "--servername", "localhost",
		"--prometheus", doctorFile, m.nodes[0].addr, m.nodes[1].addr).CombinedOutput()
	if _, err := os.Stat(doctorFile); err != nil {
		t.Fatalf("doctor: %v\n%s", err, out)
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("doctor: %v\n%s", err, out)
	}
	exporter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, doctorFile) }))
	t.Cleanup(exporter.Close)

	ctx, cancel := context.WithCancel(t.Context())
	var loaded sync.WaitGroup
	loaded.Go(func() { m.load(ctx) })
	t.Cleanup(func() { cancel(); loaded.Wait() })

	absolute, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	// On a busy machine a scrape takes more than a second.
	config := fmt.Sprintf(`
global: {scrape_interval: 5s, scrape_timeout: 5s, evaluation_interval: 5s}
rule_files: [%q]
scrape_configs:
  - job_name: sessapi
    scheme: https
    tls_config: {ca_file: %q}
    authorization: {credentials_file: %q}
    static_configs:
      - {targets: [%q], labels: {instance: keys-1}}
      - {targets: [%q], labels: {instance: keys-2}}
  - job_name: single
    static_configs: [{targets: [%q], labels: {instance: keys-3}}]
  - job_name: sessapi-agent
    static_configs: [{targets: [%q], labels: {instance: edge-1}}]
  - job_name: node
    static_configs: [{targets: [%q], labels: {instance: doctor}}]
`, absolute, cert, tokenFile, m.nodes[0].addr, m.nodes[1].addr, single.addr, agentAddr, strings.TrimPrefix(exporter.URL, "http://"))
	m.prometheus["Prometheus"] = startPrometheus(t, config)
	m.prometheus["Prometheus with native histograms"] = startPrometheus(t, config, "--enable-feature=native-histograms")
	for name, p := range m.prometheus {
		p.await(t, name, map[string]string{"the first scrapes": `sum(up) == 5`})
	}
	if a := single.ask(t, http.MethodPost, "/ticket-keys/rotate", nil); a.status != http.StatusOK {
		t.Fatalf("rotate: %d %s", a.status, a.body)
	}
	if a := single.ask(t, http.MethodPost, "/ticket-keys", make([]byte, 47)); a.status != http.StatusUnprocessableEntity {
		t.Fatalf("47 bytes as ticket keys: %d %s", a.status, a.body)
	}
	return m
}

// ask makes a request of a node.
func (m *monitoredSite) ask(ctx context.Context, node int, method, path, token string, body []byte, contentType string) (status int, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, "https://"+m.nodes[node].addr+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", contentType)
	response, err := m.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// expect makes a request of a node, and expects a status.
func (m *monitoredSite) expect(tb testing.TB, node int, method, path string, body []byte, want int) (answer []byte) {
	tb.Helper()
	status, answer, err := m.ask(tb.Context(), node, method, path, m.token, body, "application/octet-stream")
	if err != nil || status != want {
		tb.Fatalf("%s %s: %v %d %s", method, path, err, status, answer)
	}
	return answer
}

// report reports the state of a consumer that holds the current set.
func (m *monitoredSite) report(tb testing.TB, name, state string) {
	tb.Helper()
	var d api.TicketKeys
	if err := json.Unmarshal(m.expect(tb, 0, http.MethodGet, "/ticket-keys", nil, http.StatusOK), &d); err != nil {
		tb.Fatal(err)
	}
	body := fmt.Appendf(nil, `{"kind":"nginx","generation":%d,"state":%q,"expires_in_seconds":3600}`, d.Generation, state)
	if status, answer, err := m.ask(tb.Context(), 0, http.MethodPut, "/consumers/"+name, m.token, body, "application/json"); err != nil || status >= 300 {
		tb.Fatalf("PUT /consumers/%s: %v %d %s", name, err, status, answer)
	}
}

// load stores sessions, and looks up those and others, with valid and sometimes with
// invalid credentials, until ctx ends. The nodes may answer with errors: the figures
// show it.
func (m *monitoredSite) load(ctx context.Context) {
	const kept = 500
	var stored []string
	session := make([]byte, 8000)
	_, _ = rand.Read(session)
	id := func() string {
		b := make([]byte, 32)
		_, _ = rand.Read(b)
		return hex.EncodeToString(b)
	}
	visit := func(method, id, token string, body []byte) {
		_, _, _ = m.ask(ctx, mathrand.N(2), method, "/sessions/"+id, token, body, "application/octet-stream")
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		fresh := id()
		visit(http.MethodPut, fresh, m.token, session[:2000+mathrand.N(6000)])
		if stored = append(stored, fresh); len(stored) > kept {
			stored = stored[1:]
		}
		for range 3 { // who came lately comes back soonest
			visit(http.MethodGet, stored[len(stored)-1-min(int(mathrand.ExpFloat64()*100), len(stored)-1)], m.token, nil)
		}
		switch {
		case n%4 == 0:
			visit(http.MethodGet, id(), m.token, nil)
		case n%25 == 1:
			visit(http.MethodDelete, stored[mathrand.N(len(stored))], m.token, nil)
		case n%100 == 2:
			visit(http.MethodGet, fresh, "sessapi_unknown", nil)
		}
	}
}

// draw draws a while of the site, with an outage of Redis, as the dashboard shows it.
func (m *monitoredSite) draw(t *testing.T) {
	began := time.Now()
	at := func(part float64) { time.Sleep(time.Until(began.Add(time.Duration(part * float64(*dashboardTime))))) }
	at(0.5)
	m.redis.Kill()
	at(0.53)
	m.redis.Restart()
	at(1)
	cmd := exec.CommandContext(t.Context(), "go", "run", ".", "-prometheus", m.prometheus["Prometheus"].url, "-time", dashboardTime.String(), "-picture", *dashboardPicture)
	cmd.Dir = "../../tools/grafana-dashboard"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
