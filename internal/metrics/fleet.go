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
		connected:     d("connected", "1 if Redis answers."),
		since:         d("connected_changed_timestamp_seconds", "When sessapi_fleet_connected last changed, in seconds of the Unix time."),
		age:           d("near_age_seconds", "Age of the last confirmation from Redis that the cache is up to date, in seconds; 0 before the first."),
		lookups:       d("lookups_total", "Lookups of sessions, by what answered: local (the node's cache), remote (Redis) or none.", "answer"),
		coalesced:     d("coalesced_lookups_total", "Lookups that shared the answer of a concurrent lookup of the same session."),
		unanswered:    d("unanswered_reads_total", "Reads that Redis did not answer, by reason: timeout or error. They are misses.", "reason"),
		invalidations: d("invalidations_total", "Changes by other nodes, as Redis reported them."),
		connections:   d("connections_total", "Connections made to Redis."),
		conflicts:     d("conflicts_total", "Writes retried because another node wrote first."),
		violations:    d("protocol_violations_total", "Connections closed because a reply of Redis was malformed or too large."),
		refused:       d("refused_records_total", "Records in Redis that cannot be unsealed, by kind: session, ticket_keys, consumer or nodes.", "kind"),
		restored:      d("ticket_keys_restored_total", "Ticket keys restored to Redis, which had none or older ones."),
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
	counter(c.refused, s.RefusedConsumers, "consumer")
	counter(c.refused, s.RefusedRosters, "nodes")
	counter(c.restored, s.RestoredKeys)
}

// AddFleet adds the figures of the link to the other nodes.
func (m *Metrics) AddFleet(n *fleet.Node) {
	m.registry.MustRegister(newFleetCollector(n), m.fleetReads)
}

// FleetRead records how long a read of Redis took.
func (m *Metrics) FleetRead(took time.Duration) { m.fleetReads.Observe(took.Seconds()) }
