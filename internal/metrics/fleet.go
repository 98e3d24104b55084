package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sessapi/sessapi/internal/fleet"
)

// fleetCollector reads the figures of a fleet's node when it is scraped.
type fleetCollector struct {
	node *fleet.Node

	connected, since, age, lookups, coalesced, unanswered    *prometheus.Desc
	invalidations, connections, conflicts, refused, restored *prometheus.Desc
	violations                                               *prometheus.Desc
}

func newFleetCollector(n *fleet.Node) *fleetCollector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return desc("fleet", name, help, labels...)
	}
	return &fleetCollector{
		node:          n,
		connected:     d("connected", "1 when Redis answers."),
		since:         d("connected_changed_timestamp_seconds", "Since when Redis answers, or does not."),
		age:           d("near_age_seconds", "How long ago Redis was last known to have told of every change; 0 before the first time."),
		lookups:       d("lookups_total", "Lookups of sessions, by what answered: local (this node), remote (Redis) or none.", "answer"),
		coalesced:     d("coalesced_lookups_total", "Lookups that shared the answer of Redis with another one of the same session."),
		unanswered:    d("unanswered_reads_total", "Reads that Redis did not answer, by reason: timeout or error. They count as missing.", "reason"),
		invalidations: d("invalidations_total", "Changes by other nodes that Redis told of."),
		connections:   d("connections_total", "Connections to Redis that were made."),
		conflicts:     d("conflicts_total", "Writes that another node's came before, so that they were tried again."),
		violations:    d("protocol_violations_total", "Connections to Redis that were closed because a reply broke the protocol or was too large."),
		refused:       d("refused_records_total", "Records in Redis that do not open, by kind: session or ticket_keys.", "kind"),
		restored:      d("ticket_keys_restored_total", "Times that Redis had no ticket keys, or older ones, and got those of this node."),
	}
}

func (c *fleetCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *fleetCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.node.Stats()
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, value float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	connected := 0.0
	if s.Connected {
		connected = 1
	}
	gauge(c.connected, connected)
	gauge(c.since, float64(s.Since.UnixMilli())/1000)
	gauge(c.age, s.Age.Seconds())
	counter(c.lookups, s.LocalHits, "local")
	counter(c.lookups, s.RemoteHits, "remote")
	counter(c.lookups, s.Misses, "none")
	counter(c.coalesced, s.Coalesced)
	counter(c.unanswered, s.Timeouts, "timeout")
	counter(c.unanswered, s.Failures, "error")
	counter(c.invalidations, s.Invalidations)
	counter(c.connections, s.Connections)
	counter(c.conflicts, s.Conflicts)
	counter(c.violations, s.Violations)
	counter(c.refused, s.RefusedSessions, "session")
	counter(c.refused, s.RefusedKeys, "ticket_keys")
	counter(c.restored, s.RestoredKeys)
}

// AddFleet adds the figures of the link to the other nodes.
func (m *Metrics) AddFleet(n *fleet.Node) {
	m.registry.MustRegister(newFleetCollector(n), m.fleetReads)
}

// FleetRead records how long a read of Redis took.
func (m *Metrics) FleetRead(took time.Duration) { m.fleetReads.Observe(took.Seconds()) }
