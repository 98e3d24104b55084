package metrics

import (
	"encoding/hex"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sessapi/sessapi/internal/keys"
)

// keysCollector reads the figures of a ticket-key ring when it is scraped.
type keysCollector struct {
	ring *keys.Ring

	generation, keys, activated           *prometheus.Desc
	updated, updates, rejected, sourceNow *prometheus.Desc
	waiting, timeouts, nextRotation       *prometheus.Desc
	fleet                                 *prometheus.Desc
}

func newKeysCollector(r *keys.Ring) *keysCollector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return desc("ticket_keys", name, help, labels...)
	}
	return &keysCollector{
		ring:         r,
		generation:   d("generation", "Generation of the active set."),
		keys:         desc("", "ticket_keys", "Keys of the active set, by role.", "role"),
		activated:    d("active_key_activated_timestamp_seconds", "When the current key began to encrypt, in seconds of the Unix time."),
		updated:      d("last_update_timestamp_seconds", "When the active set last changed, in seconds of the Unix time."),
		sourceNow:    d("source", "1 for the source of the active set, 0 for the others.", "source"),
		updates:      d("updates_total", "Changes of the active set, by source.", "source"),
		waiting:      d("activation_waiting", "1 while a rotation is due and waits for consumers."),
		timeouts:     d("activation_timeouts_total", "Rotations made because --activate-timeout had passed."),
		nextRotation: d("next_rotation_timestamp_seconds", "When the active set is due to rotate by itself, in seconds of the Unix time."),
		rejected:     d("updates_rejected_total", "Rejected updates, by reason; the active set stays.", "reason"),
		fleet:        desc("fleet", "info", "1, with the fleet of the node as a label.", "fleet"),
	}
}

func (c *keysCollector) Describe(ch chan<- *prometheus.Desc) {
	prometheus.DescribeByCollect(c, ch)
	ch <- c.waiting // which come with --activate-after=all
	ch <- c.timeouts
	ch <- c.nextRotation // of a set that rotates by itself
	ch <- c.fleet        // with --redis
}

func (c *keysCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.ring.Stats()
	counter := func(d *prometheus.Desc, n uint64, label string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), label)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(c.generation, float64(s.Generation))
	for role, n := range s.Keys {
		gauge(c.keys, float64(n), string(role))
	}
	gauge(c.activated, float64(s.ActivatedAt.UnixMilli())/1000)
	if !s.NextRotationAt.IsZero() {
		gauge(c.nextRotation, float64(s.NextRotationAt.UnixMilli())/1000)
	}
	gauge(c.updated, float64(s.UpdatedAt.UnixMilli())/1000)
	if s.Fleet != (keys.FleetID{}) {
		gauge(c.fleet, 1, hex.EncodeToString(s.Fleet[:4])) // enough to tell fleets apart
	}
	if activation := c.ring.Activation(); activation != nil {
		waiting := 0.0
		if activation.Waiting != nil {
			waiting = 1
		}
		gauge(c.waiting, waiting)
		ch <- prometheus.MustNewConstMetric(c.timeouts, prometheus.CounterValue, float64(activation.Timeouts))
	}
	for source, n := range s.Updates {
		active := 0.0
		if source == s.Source {
			active = 1
		}
		gauge(c.sourceNow, active, string(source))
		counter(c.updates, n, string(source))
	}
	for kind, n := range s.Rejected.Invalid {
		counter(c.rejected, n, string(kind))
	}
	counter(c.rejected, s.Rejected.Precondition, "precondition")
}
