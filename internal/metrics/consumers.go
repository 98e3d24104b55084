package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/keys"
)

// consumersCollector reads the consumers of the ticket keys when it is scraped.
type consumersCollector struct {
	table *consumers.Table
	ring  *keys.Ring

	consumers, generation, changed, reported *prometheus.Desc
}

func newConsumersCollector(t *consumers.Table, r *keys.Ring) *consumersCollector {
	return &consumersCollector{
		table:      t,
		ring:       r,
		consumers:  desc("", "consumers", "Consumers of the ticket keys, by state.", "state"),
		generation: desc("consumer", "generation", "Generation of the ticket keys that the consumer reported last.", "consumer", "kind"),
		changed:    desc("consumer", "state_changed_timestamp_seconds", "When the consumer entered its state, in seconds of the Unix time. A consumer has a series for its current state only.", "consumer", "kind", "state"),
		reported:   desc("consumer", "last_report_timestamp_seconds", "When the consumer reported last.", "consumer"),
	}
}

func (c *consumersCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.consumers
	ch <- c.generation
	ch <- c.changed
	ch <- c.reported
}

func (c *consumersCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	list := c.table.List(c.ring.Description())
	for state, n := range consumers.Count(list) {
		gauge(c.consumers, float64(n), string(state))
	}
	for _, consumer := range list {
		gauge(c.generation, float64(consumer.Generation), consumer.Name, consumer.Kind)
		gauge(c.changed, float64(consumer.Since.UnixMilli())/1000, consumer.Name, consumer.Kind, string(consumer.State))
		gauge(c.reported, float64(consumer.ReportedAt.UnixMilli())/1000, consumer.Name)
	}
}
