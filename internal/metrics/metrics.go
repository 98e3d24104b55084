// Package metrics shows the service to Prometheus: the session cache, the
// ticket keys, the requests, the build, the Go runtime and the process.
//
// The cache, the ring and the other parts count for themselves; collectors read their
// figures at each scrape. No metric has a session ID or a key name as a label.
// docs/metrics.md lists all metrics.
package metrics

import (
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/state"
)

const namespace = "sessapi"

// Metrics is a registry with everything that the service exposes. It is safe
// for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	problems *prometheus.CounterVec

	protocolErrors prometheus.Counter
	insecureListen prometheus.Gauge
	fleetReads     prometheus.Histogram // registered by AddFleet
}

// New makes a registry for the build of that version.
func New(version string) *Metrics {
	labels := []string{"route", "method", "code"}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "http_requests_total",
			Help: "Requests answered, by route pattern (none: no such route), method and status code.",
		}, labels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "http_request_duration_seconds",
			Help: "Time to answer a request, in seconds.",
			// From what a lookup takes to what a client would notice.
			Buckets:                         []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .1, .5, 2.5},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, labels),
	}
	m.problems = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "http_problems_total",
		Help: "Problem documents sent, by code.",
	}, []string{"code"})
	m.insecureListen = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "insecure_listen",
		Help: "1 with --insecure-listen.",
	})
	m.fleetReads = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Subsystem: "fleet", Name: "read_duration_seconds",
		Help:    "Duration of lookups in Redis, failed ones included, in seconds.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5},
	})
	m.protocolErrors = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: namespace, Name: "http_protocol_errors_total",
		Help: "HTTP/2 protocol errors of clients.",
	})
	m.registry.MustRegister(m.requests, m.duration, m.problems, m.protocolErrors, m.insecureListen, buildInfo(version),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// buildInfo says which build it is.
func buildInfo(version string) prometheus.Collector {
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info",
		Help: "1, with the version, the commit and the Go version as labels.",
	}, []string{"version", "revision", "go_version"})
	build.WithLabelValues(version, revision(), runtime.Version()).Set(1)
	return build
}

// revision is the commit of the build, when the build recorded it.
func revision() string {
	info, _ := debug.ReadBuildInfo()
	if info != nil {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				return setting.Value
			}
		}
	}
	return "unknown"
}

// AddCache adds the figures of the session cache.
func (m *Metrics) AddCache(c *cache.Cache) { m.registry.MustRegister(newCacheCollector(c)) }

// AddTicketKeys adds the figures of the ticket keys.
func (m *Metrics) AddTicketKeys(r *keys.Ring) { m.registry.MustRegister(newKeysCollector(r)) }

// AddConsumers adds the consumers of the ring's keys.
func (m *Metrics) AddConsumers(t *consumers.Table, r *keys.Ring) {
	m.registry.MustRegister(newConsumersCollector(t, r))
}

// AddTicketKeyFile adds the figures of the ticket-key file.
func (m *Metrics) AddTicketKeyFile(f *keys.File) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: "ticket_key_file", Name: "reload_failures_total",
		Help: "Failed reloads of the ticket key file; the previous keys stay.",
	}, func() float64 { return float64(f.Status().Failures) }))
}

// AddState adds the figures of the state file.
func (m *Metrics) AddState(f *state.File) {
	files := map[string]func() state.FileStatus{
		"ticket_keys": func() state.FileStatus { return f.Status().Keys },
		"sessions":    func() state.FileStatus { return f.Status().Sessions },
		"consumers":   func() state.FileStatus { return f.Status().Consumers },
	}
	for content, status := range files {
		labels := prometheus.Labels{"content": content}
		m.registry.MustRegister(
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Namespace: namespace, Subsystem: "state", Name: "last_save_timestamp_seconds", ConstLabels: labels,
				Help: "Last save since the start, by content, in seconds of the Unix time; 0 before the first.",
			}, func() float64 {
				if at := status().SavedAt; !at.IsZero() {
					return float64(at.UnixMilli()) / 1000
				}
				return 0
			}),
			prometheus.NewCounterFunc(prometheus.CounterOpts{
				Namespace: namespace, Subsystem: "state", Name: "save_failures_total", ConstLabels: labels,
				Help: "Failed saves, by content; the previous file stays.",
			}, func() float64 { return float64(status().Failures) }))
	}
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: "state", Name: "undo_failures_total",
		Help: "Refused updates of the ticket keys that could not be undone on the disk; a crash may bring one back.",
	}, func() float64 { return float64(f.Status().Keys.NotUndone) }))
}

// AddAudit adds the figures of the audit log.
func (m *Metrics) AddAudit(l *audit.Log) {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: namespace, Subsystem: "audit", Name: name, Help: help}
	}
	m.registry.MustRegister(
		prometheus.NewCounterFunc(opts("events_total", "Events recorded in the audit log."),
			func() float64 { return float64(l.Events()) }),
		prometheus.NewCounterFunc(opts("failures_total", "Events that could not be recorded; except for denials, nothing was done."),
			func() float64 { return float64(l.Failures()) }),
		prometheus.NewCounterFunc(opts("denials_summed_total", "Denials counted in a summary line of the audit log."),
			func() float64 { return float64(l.Summed()) }),
		prometheus.NewCounterFunc(opts("exports_summed_total", "Exports of ticket keys counted in a summary line of the audit log."),
			func() float64 { return float64(l.ExportsSummed()) }))
}

// AddPolicy adds the figures of the policy file.
func (m *Metrics) AddPolicy(f *auth.File) {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: namespace, Subsystem: "policy", Name: name, Help: help}
	}
	m.registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts(opts("reload_failures_total",
			"Failed reloads of the policy file; the previous policy stays.")),
			func() float64 { return float64(f.Status().Failures) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts("last_reload_successful",
			"1 if the policy in use is that of the file, 0 while the file cannot be loaded.")),
			func() float64 {
				if f.Status().LastError != "" {
					return 0
				}
				return 1
			}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts("identities", "Identities in the active policy.")),
			func() float64 { return float64(f.Policy().Identities()) }),
		tokenExpiries{
			file: f,
			desc: desc("policy", "token_expiry_timestamp_seconds", "End of the identity's token that expires first, in seconds of the Unix time.", "identity"),
		},
	)
}

// tokenExpiries has a gauge for each identity with a token that ends.
type tokenExpiries struct {
	file *auth.File
	desc *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (t tokenExpiries) Describe(descs chan<- *prometheus.Desc) { descs <- t.desc }

// Collect implements [prometheus.Collector].
func (t tokenExpiries) Collect(metrics chan<- prometheus.Metric) {
	for identity, at := range t.file.Policy().TokenExpiries() {
		metrics <- prometheus.MustNewConstMetric(t.desc, prometheus.GaugeValue, float64(at.Unix()), identity)
	}
}

// AddProblems starts the counters of these codes at 0, so that the first problem is an
// increase.
func (m *Metrics) AddProblems(codes []string) {
	for _, code := range codes {
		m.problems.WithLabelValues(code)
	}
}

// AddAuthentication adds the authentications that failed.
func (m *Metrics) AddAuthentication(a *auth.Authenticator) {
	for reason := auth.Missing; reason <= auth.Limited; reason++ {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: namespace, Name: "authentication_failures_total",
			Help:        "Failed authentications, by reason.",
			ConstLabels: prometheus.Labels{"reason": reason.String()},
		}, func() float64 { return float64(a.Failures(reason)) }))
	}
}

// AddRequests adds how many requests are open on the main listener, and how many of
// them wait for a change of the ticket keys.
func (m *Metrics) AddRequests(open, waiting func() int) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Name: "http_open_requests",
			Help: "Open requests of the main listener: being received, waiting, served or answered.",
		}, func() float64 { return float64(open()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Subsystem: "ticket_keys", Name: "waiting_requests",
			Help: "Requests that wait for a new generation of the ticket keys.",
		}, func() float64 { return float64(waiting()) }))
}

// TLS holds the figures of the listeners' TLS.
type TLS struct {
	NotAfter       time.Time // end of the certificate
	ReloadFailures uint64    // how often a change of the files could not be loaded
}

// AddTLS adds the figures of the listeners' TLS.
func (m *Metrics) AddTLS(figures func() TLS) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Subsystem: "tls", Name: "certificate_not_after_timestamp_seconds",
			Help: "End of the certificate of the listeners, in seconds of the Unix time.",
		}, func() float64 { return float64(figures().NotAfter.Unix()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: "tls", Name: "reload_failures_total",
			Help: "Failed reloads of the TLS files; the previous ones stay.",
		}, func() float64 { return float64(figures().ReloadFailures) }),
	)
}

// SetInsecureListen sets whether the service runs with --insecure-listen.
func (m *Metrics) SetInsecureListen(insecure bool) {
	value := 0.0
	if insecure {
		value = 1
	}
	m.insecureListen.Set(value)
}

// AddConnections adds the number of open connections of a listener, and its limit.
func (m *Metrics) AddConnections(listener string, most int, open func() int) {
	opts := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: prometheus.Labels{"listener": listener}}
	}
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(opts("http_connections", "Open connections, by listener."), func() float64 { return float64(open()) }),
		prometheus.NewGaugeFunc(opts("http_max_connections", "Limit of open connections, by listener."), func() float64 { return float64(most) }))
}

// ProtocolError records that a client violated HTTP/2.
func (m *Metrics) ProtocolError(string) { m.protocolErrors.Inc() }

// Handler answers scrapes, in the format that the scraper asks for.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(prometheus.GathererFunc(m.gather), promhttp.HandlerOpts{
		Registry: m.registry, EnableOpenMetrics: true,
	})
}

// gather collects all families but the gauge go_memstats_alloc_bytes, which is
// go_memstats_heap_alloc_bytes by another name. In OpenMetrics, where a counter's
// family is named without _total, there would be two families of that name.
func (m *Metrics) gather() ([]*dto.MetricFamily, error) {
	families, err := m.registry.Gather()
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == "go_memstats_alloc_bytes" }), err
}

// Request records a request that was answered. The route is its pattern, ""
// when there was none; the method may be anything that a client sent.
func (m *Metrics) Request(route, method string, status int, took time.Duration) {
	if route == "" {
		route = "none"
	}
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions, http.MethodPatch:
	default:
		method = "other"
	}
	code := strconv.Itoa(status)
	m.requests.WithLabelValues(route, method, code).Inc()
	m.duration.WithLabelValues(route, method, code).Observe(took.Seconds())
}

// Problem records that a problem document with the code was sent.
func (m *Metrics) Problem(code string) { m.problems.WithLabelValues(code).Inc() }

// desc describes a metric of the domain.
func desc(subsystem, name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, name), help, labels, nil)
}
