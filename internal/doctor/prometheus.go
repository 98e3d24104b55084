package doctor

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// WriteMetrics writes the report for the textfile collector of Prometheus' node
// exporter, in place of the file at path, which others may read.
func (r *Report) WriteMetrics(path string, at time.Time) error {
	registry := prometheus.NewPedanticRegistry()
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "sessapi", Subsystem: "doctor", Name: name, Help: help}, labels)
		registry.MustRegister(g)
		return g
	}
	gauge("last_run_timestamp_seconds", "When the nodes were examined, in seconds of the Unix time.").WithLabelValues().Set(float64(at.Unix()))
	gauge("healthy", "Whether no finding is an error.").WithLabelValues().Set(number(r.Healthy()))

	findings := gauge("findings", "Findings, by code and severity.", "code", "severity")
	for _, f := range r.Findings {
		findings.WithLabelValues(string(f.Code), string(f.Severity)).Inc()
	}
	up := gauge("node_up", "Whether a handshake with the node succeeded.", "node")
	lifetime := gauge("ticket_lifetime_seconds", "Lifetime of the node's session tickets.", "node")
	for _, n := range r.Nodes {
		up.WithLabelValues(n.Address).Set(number(n.Error == ""))
		if n.TicketLifetimeSeconds > 0 {
			lifetime.WithLabelValues(n.Address).Set(float64(n.TicketLifetimeSeconds))
		}
	}
	resumed := gauge("resumed", "Whether sessions of one node resume on another.", "from", "to", "protocol", "by")
	full := gauge("full_handshake_seconds", "Median of the node's full handshakes.", "node", "protocol")
	short := gauge("resumed_handshake_seconds", "Median of the handshakes that resume sessions of one node on another.", "from", "to", "protocol", "by")
	for _, x := range r.Resumptions {
		resumed.WithLabelValues(x.From, x.To, x.Protocol.String(), string(x.By)).Set(number(x.Resumed))
		full.WithLabelValues(x.To, x.Protocol.String()).Set(x.FullMS / 1000)
		if x.ResumedMS > 0 {
			short.WithLabelValues(x.From, x.To, x.Protocol.String(), string(x.By)).Set(x.ResumedMS / 1000)
		}
	}
	return prometheus.WriteToTextfile(path, registry)
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
