package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sessapi/sessapi/internal/agent"
)

// NewAgent makes a registry for the running agent. A reload of the configuration starts
// another.
func NewAgent(version string, running func() *agent.Agent) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(buildInfo(version), newAgentCollector(running),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// agentCollector reads the figures of the running agent when it is scraped.
type agentCollector struct {
	running func() *agent.Agent

	generation, heard, reportFailures          *prometheus.Desc
	state, targetGeneration, changes, failures *prometheus.Desc
	handshakes                                 *prometheus.Desc
}

func newAgentCollector(running func() *agent.Agent) *agentCollector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return desc("agent", name, help, labels...)
	}
	return &agentCollector{
		running:          running,
		generation:       d("generation", "Generation of the ticket keys in force; 0 before the first."),
		heard:            d("last_contact_timestamp_seconds", "Unix time of the last answer of the service, in seconds; 0 before the first."),
		reportFailures:   d("report_failures_total", "Reports that did not reach the service."),
		state:            d("target_state", "1 for the state of the target, 0 for the others.", "target", "kind", "state"),
		targetGeneration: d("target_generation", "Generation of the ticket keys that the target is known to hold; 0 if none is.", "target", "kind"),
		changes:          d("target_changes_total", "Times that ticket keys were applied to the target.", "target", "kind"),
		handshakes:       d("target_handshakes_total", "TLS handshakes of the target's server since its start, as it counts them, by frontend and type: full or resumed.", "target", "kind", "frontend", "type"),
		failures:         d("target_failures_total", "Times that applying ticket keys or probing the target failed.", "target", "kind"),
	}
}

// Describe lists the metrics without asking the servers.
func (c *agentCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.generation, c.heard, c.reportFailures, c.state, c.targetGeneration, c.changes, c.failures, c.handshakes,
	} {
		ch <- d
	}
}

func (c *agentCollector) Collect(ch chan<- prometheus.Metric) {
	a := c.running()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	f := a.Figures()
	gauge(c.generation, float64(f.Generation))
	heard := 0.0
	if !f.Heard.IsZero() {
		heard = float64(f.Heard.UnixMilli()) / 1000
	}
	gauge(c.heard, heard)
	counter(c.reportFailures, f.ReportFailures)
	handshakes := a.Handshakes()
	for _, s := range a.Status() {
		for _, state := range []agent.State{agent.Applying, agent.Current, agent.Failed} {
			value := 0.0
			if s.State == state {
				value = 1
			}
			gauge(c.state, value, s.Name, s.Kind, string(state))
		}
		gauge(c.targetGeneration, float64(s.Generation), s.Name, s.Kind)
		counter(c.changes, s.Changes, s.Name, s.Kind)
		counter(c.failures, s.Failures, s.Name, s.Kind)
		for _, h := range handshakes[s.Name] {
			counter(c.handshakes, h.Full, s.Name, s.Kind, h.Frontend, "full")
			counter(c.handshakes, h.Resumed, s.Name, s.Kind, h.Frontend, "resumed")
		}
	}
}
