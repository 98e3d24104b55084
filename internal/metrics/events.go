package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sessapi/sessapi/internal/events"
)

// eventsCollector reads the figures of a bus when it is scraped.
type eventsCollector struct {
	bus *events.Bus

	subscribers, published, dropped *prometheus.Desc
}

// AddEvents adds the figures of the events.
func (m *Metrics) AddEvents(b *events.Bus) {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return desc("events", name, help, labels...)
	}
	m.registry.MustRegister(&eventsCollector{
		bus:         b,
		subscribers: d("subscribers", "Open streams of events."),
		published:   d("published_total", "Events published, by type. Session events count only while a stream has their type.", "type"),
		dropped:     d("dropped_total", "Events that streams missed because they were too slow."),
	})
}

func (c *eventsCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *eventsCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.bus.Stats()
	ch <- prometheus.MustNewConstMetric(c.subscribers, prometheus.GaugeValue, float64(s.Subscribers))
	for t, n := range s.Published {
		ch <- prometheus.MustNewConstMetric(c.published, prometheus.CounterValue, float64(n), t.String())
	}
	ch <- prometheus.MustNewConstMetric(c.dropped, prometheus.CounterValue, float64(s.Dropped))
}
