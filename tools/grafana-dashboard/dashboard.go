package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/grafana/grafana-foundation-sdk/go/units"
)

const documents = "https://github.com/sessapi/sessapi/blob/main/docs/"

// Lookups by node. With Redis a lookup is what the fleet answers, without what the cache
// answers; a job may have nodes of both kinds.
const (
	lookups      = `(sum by (job, instance) (rate(sessapi_fleet_lookups_total{NODES}[$__rate_interval])) or sum by (job, instance) (rate(sessapi_cache_hits_total{NODES}[$__rate_interval]) + rate(sessapi_cache_misses_total{NODES}[$__rate_interval])))`
	found        = `(sum by (job, instance) (rate(sessapi_fleet_lookups_total{NODES,answer=~"local|remote"}[$__rate_interval])) or sum by (job, instance) (rate(sessapi_cache_hits_total{NODES}[$__rate_interval])))`
	foundLocally = `(sum by (job, instance) (rate(sessapi_fleet_lookups_total{NODES,answer="local"}[$__rate_interval])) or sum by (job, instance) (rate(sessapi_cache_hits_total{NODES}[$__rate_interval])))`
	notFound     = `(sum by (job, instance) (rate(sessapi_fleet_lookups_total{NODES,answer="none"}[$__rate_interval])) or sum by (job, instance) (rate(sessapi_cache_misses_total{NODES}[$__rate_interval])))`
)

// newDashboard describes the dashboard.
func newDashboard() (dashboard.Dashboard, error) {
	d := dashboard.NewDashboardBuilder("sessapi").
		Uid("sessapi").
		Description("Is resumption healthy, and if not, where? Nodes of sessapi, alone or as a fleet.").
		Tags([]string{"sessapi", "tls"}).
		Time("now-6h", "now").
		Refresh("30s").
		Timezone("browser").
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Readonly().
		Link(link("Runbook", "runbook.md")).
		Link(link("Metrics", "metrics.md")).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus")).
		WithVariable(variable("job", "Job", `label_values(sessapi_ticket_keys_generation, job)`)).
		WithVariable(variable("instance", "Node", `label_values(sessapi_ticket_keys_generation{job=~"$job"}, instance)`)).
		Annotation(annotation("Ticket keys changed", "blue", `max(changes(sessapi_ticket_keys_generation{NODES}[$__rate_interval])) > 0`)).
		Annotation(annotation("Started", "orange", `max by (instance) (changes(process_start_time_seconds{NODES}[$__rate_interval])) > 0`))

	addOverview(d)
	addResumption(d)
	addSessions(d)
	addTicketKeys(d)
	addConsumers(d)
	addRequests(d)
	addRedis(d)
	addAccess(d)
	addProcess(d)
	built, err := d.Build()
	for i, p := range built.Panels {
		id := uint32(i + 1)
		if p.Panel != nil {
			p.Panel.Id = &id
		} else {
			p.RowPanel.Id = id
		}
	}
	return built, err
}

func addOverview(d *dashboard.DashboardBuilder) {
	d.WithPanel(number("Nodes", "Nodes that answered the last scrape.", units.Short,
		`count(sessapi_ticket_keys_generation{NODES})`).Thresholds(steps("text")))
	d.WithPanel(number("Hit ratio", "Part of the lookups that found a session, in all nodes together.", units.PercentUnit,
		`sum`+found+` / sum`+lookups).Decimals(1).Thresholds(steps("red", from(0.5, "orange"), from(0.8, "green"))))
	d.WithPanel(number("Lookups", "Lookups of sessions per second, in all nodes together.", units.OpsPerSecond,
		`sum`+lookups).Thresholds(steps("text")))
	d.WithPanel(number("Sessions", "Sessions in the caches of all nodes.", units.Short,
		`sum(sessapi_cache_entries{NODES})`).Thresholds(steps("text")))
	d.WithPanel(number("Key sets in a fleet", "Different sets of ticket keys in the fleet that has most. More than 1 for longer than some seconds means that servers do not resume each other's tickets.", units.Short,
		`max(count by (fleet) (count_values by (fleet) ("generation", sessapi_ticket_keys_generation{NODES} * on (job, instance) group_left (fleet) sessapi_fleet_info{NODES}))) or vector(1)`).
		Thresholds(steps("green", from(2, "red"))))
	d.WithPanel(number("Age of the key", "Age of the oldest key that encrypts.", units.Seconds,
		`max(time() - sessapi_ticket_keys_active_key_activated_timestamp_seconds{NODES})`).Decimals(1).Thresholds(steps("green", from(2*86400, "red"))))
	d.WithPanel(number("Next rotation in", "Time until the next automatic rotation. Negative if it is overdue.", units.Seconds,
		`min(sessapi_ticket_keys_next_rotation_timestamp_seconds{NODES} > 0) - time()`).Decimals(1).NoValue("off").Thresholds(steps("red", from(0, "green"))))
	d.WithPanel(number("Consumers behind", "Consumers that are stale, applying, failed or missing.", units.Short,
		`sum(max by (state) (sessapi_consumers{NODES,state!="current"}))`).Thresholds(steps("green", from(1, "red"))))
}

func addResumption(d *dashboard.DashboardBuilder) {
	d.WithRow(dashboard.NewRowBuilder("Resumption by session ID"))
	d.WithPanel(stacked(graph("Lookups", "Lookups of sessions by what answered them: the cache of the node, Redis, or nothing. Not found means a full handshake.", units.OpsPerSecond, 12,
		query(`sum`+foundLocally, "found in the node"),
		query(`sum(rate(sessapi_fleet_lookups_total{NODES,answer="remote"}[$__rate_interval]))`, "found in Redis"),
		query(`sum`+notFound, "not found"))))
	d.WithPanel(graph("Hit ratio", "Part of the lookups that found a session, by node.", units.PercentUnit, 12,
		query(found+` / `+lookups, "{{instance}}")).Min(0).Max(1))
}

func addSessions(d *dashboard.DashboardBuilder) {
	d.WithRow(dashboard.NewRowBuilder("Sessions and memory"))
	d.WithPanel(graph("Sessions", "Sessions in the cache of each node.", units.Short, 8,
		query(`sessapi_cache_entries{NODES}`, "{{instance}}")).Min(0))
	d.WithPanel(graph("Memory of the cache", "Memory in use, as part of --cache-memory. A full cache evicts the sessions that were used least recently.", units.PercentUnit, 8,
		query(`sessapi_cache_bytes{NODES} / sessapi_cache_capacity_bytes{NODES}`, "{{instance}}")).Min(0).Max(1))
	d.WithPanel(graph("Sessions stored and ended", "Every stored session ends in one of these ways.", units.OpsPerSecond, 8,
		query(`sum(rate(sessapi_cache_stored_total{NODES}[$__rate_interval]))`, "stored"),
		query(`sum(rate(sessapi_cache_replaced_total{NODES}[$__rate_interval]))`, "replaced"),
		query(`sum(rate(sessapi_cache_removed_total{NODES}[$__rate_interval]))`, "removed"),
		query(`sum(rate(sessapi_cache_expired_total{NODES}[$__rate_interval]))`, "expired"),
		query(`sum(rate(sessapi_cache_flushed_total{NODES}[$__rate_interval]))`, "flushed"),
		query(`sum(rate(sessapi_cache_evicted_total{NODES}[$__rate_interval]))`, "evicted")).Min(0))
	d.WithPanel(graph("Evictions", "Sessions evicted, by node and by the limit that was reached.", units.OpsPerSecond, 8,
		query(`sum by (instance, reason) (rate(sessapi_cache_evicted_total{NODES}[$__rate_interval]))`, "{{instance}} {{reason}}")).Min(0))
	d.WithPanel(graph("Idle time of evicted sessions", "How long evicted sessions had not been used. If the median is shorter than the time after which clients return, add memory.", units.Seconds, 8,
		query(`histogram_quantile(0.5, sum by (instance, le) (rate(sessapi_cache_evicted_idle_seconds_bucket{NODES}[$__rate_interval])))`, "{{instance}} median"),
		query(`histogram_quantile(0.1, sum by (instance, le) (rate(sessapi_cache_evicted_idle_seconds_bucket{NODES}[$__rate_interval])))`, "{{instance}} shortest tenth")).Min(0))
	d.WithPanel(graph("Size of stored sessions", "Sizes of the sessions that were stored.", units.BytesIEC, 8,
		query(`histogram_quantile(0.5, sum by (le) (rate(sessapi_cache_session_size_bytes_bucket{NODES}[$__rate_interval])))`, "median"),
		query(`histogram_quantile(0.99, sum by (le) (rate(sessapi_cache_session_size_bytes_bucket{NODES}[$__rate_interval])))`, "largest hundredth")).Min(0))
}

func addTicketKeys(d *dashboard.DashboardBuilder) {
	d.WithRow(dashboard.NewRowBuilder("Ticket keys"))
	d.WithPanel(timeline("Set of ticket keys", "Which set each node has, named by the time at which it was made. In a fleet all nodes change at once.", units.DatetimeISO, 12,
		query(`sessapi_ticket_keys_generation{NODES}`, "{{instance}}")).
		ColorScheme(dashboard.NewFieldColorBuilder().Mode(dashboard.FieldColorModeIdContinuousBlPu)))
	d.WithPanel(graph("Age of the key, and time to the next rotation", "Each rotation sets the age to 0. A time below 0 is overdue.", units.Seconds, 12,
		query(`time() - sessapi_ticket_keys_active_key_activated_timestamp_seconds{NODES}`, "{{instance}} age"),
		query(`(sessapi_ticket_keys_next_rotation_timestamp_seconds{NODES} > 0) - time()`, "{{instance}} next rotation")))
	d.WithPanel(bars(graph("Updates", "Changes of the set by source, and rejected updates by reason.", units.Short, 12,
		query(`max by (source) (increase(sessapi_ticket_keys_updates_total{NODES}[$__rate_interval]))`, "{{source}}"),
		query(`sum by (reason) (increase(sessapi_ticket_keys_updates_rejected_total{NODES}[$__rate_interval])) > 0`, "rejected: {{reason}}")).Min(0)))
	d.WithPanel(graph("Waiting clients", "Requests that wait for new keys, such as those of agents and of sessapi keys watch.", units.Short, 12,
		query(`sessapi_ticket_keys_waiting_requests{NODES}`, "{{instance}}")).Min(0))
}

var stateColors = map[string]string{"current": "green", "applying": "blue", "stale": "orange", "failed": "red", "missing": "purple"}

func addConsumers(d *dashboard.DashboardBuilder) {
	d.WithRow(dashboard.NewRowBuilder("Consumers"))
	byState := stacked(graph("Consumers by state", "Consumers of the ticket keys. Every node of a fleet knows all of them.", units.Short, 8,
		query(`max by (state) (sessapi_consumers{NODES})`, "{{state}}")))
	mapping := dashboard.NewValueMap()
	for state, color := range stateColors {
		mapping.Options[state] = dashboard.ValueMappingResult{Color: &color}
	}
	for _, state := range slices.Sorted(maps.Keys(stateColors)) {
		byState.OverrideByName(state, []dashboard.DynamicConfigValue{{Id: "color", Value: map[string]string{"mode": "fixed", "fixedColor": stateColors[state]}}})
	}
	d.WithPanel(byState)
	d.WithPanel(table.NewPanelBuilder().
		Title("Consumers").
		Description("Which set of keys each consumer holds, named by the time at which the set was made, its state, and since when.").
		Datasource(datasource()).Span(16).Height(8).
		Unit(units.DatetimeISO).
		WithTarget(row("State", `max by (consumer, kind, state) (sessapi_consumer_state_changed_timestamp_seconds{NODES}) * 1000`)).
		WithTarget(row("Set", `max by (consumer, kind) (sessapi_consumer_generation{NODES})`)).
		WithTarget(row("Report", `max by (consumer) (sessapi_consumer_last_report_timestamp_seconds{NODES}) * 1000`)).
		WithTransformation(dashboard.DataTransformerConfig{Id: "merge", Options: map[string]any{}}).
		WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
			"excludeByName": map[string]bool{"Time": true},
			"indexByName":   map[string]int{"consumer": 0, "kind": 1, "state": 2, "Value #State": 3, "Value #Set": 4, "Value #Report": 5},
			"renameByName": map[string]string{
				"consumer": "Consumer", "kind": "Kind", "state": "State",
				"Value #State": "Since", "Value #Set": "Set of keys", "Value #Report": "Last report",
			},
		}}).
		OverrideByName("Last report", []dashboard.DynamicConfigValue{{Id: "unit", Value: units.DateTimeFromNow}}).
		OverrideByName("State", []dashboard.DynamicConfigValue{
			{Id: "custom.cellOptions", Value: map[string]any{"type": "color-text"}},
			{Id: "mappings", Value: []dashboard.ValueMapping{{ValueMap: mapping}}},
		}).
		SortBy([]cog.Builder[common.TableSortByFieldState]{common.NewTableSortByFieldStateBuilder().DisplayName("Set of keys")}))
}

func addRequests(d *dashboard.DashboardBuilder) {
	d.WithRow(dashboard.NewRowBuilder("Requests"))
	d.WithPanel(graph("Requests", "Answered requests by route.", units.RequestsPerSecond, 8,
		query(`sum by (method, route) (rate(sessapi_http_requests_total{NODES}[$__rate_interval])) > 0`, "{{method}} {{route}}")).Min(0))
	d.WithPanel(graph("Answers", "Answered requests by status code.", units.RequestsPerSecond, 8,
		query(`sum by (code) (rate(sessapi_http_requests_total{NODES}[$__rate_interval])) > 0`, "{{code}}")).Min(0))
	d.WithPanel(graph("Problems", "Problem documents by code.", units.RequestsPerSecond, 8,
		query(`sum by (code) (rate(sessapi_http_problems_total{NODES}[$__rate_interval])) > 0`, "{{code}}")).Min(0))
	d.WithPanel(graph("Median latency", "Time to answer a request. Requests that wait for new keys are not in it. Prometheus answers from the native histogram if it scrapes those, else from the classic one.", units.Seconds, 8,
		query(latency("0.5"), "{{method}} {{route}}")).Min(0))
	d.WithPanel(graph("Latency of the slowest hundredth", "The slowest of a hundred requests takes at least this long.", units.Seconds, 8,
		query(latency("0.99"), "{{method}} {{route}}")).Min(0))
	d.WithPanel(graph("Connections and open requests", "Open connections of each listener as part of its limit, and open requests as part of theirs, twice --max-connections.", units.PercentUnit, 8,
		query(`sessapi_http_connections{NODES} / sessapi_http_max_connections{NODES}`, "{{instance}} {{listener}}"),
		query(`sessapi_http_open_requests{NODES} / on (job, instance) (2 * sessapi_http_max_connections{NODES,listener="main"})`, "{{instance}} requests")).Min(0))
}

// latency is a quantile of the time to answer, without requests for ticket keys, which
// may wait.
func latency(quantile string) string {
	const matchers = `{NODES,route=~"/sessions.*|/consumers.*"}[$__rate_interval]`
	return `histogram_quantile(` + quantile + `, sum by (method, route) (rate(sessapi_http_request_duration_seconds` + matchers + `)))` +
		` or histogram_quantile(` + quantile + `, sum by (method, route, le) (rate(sessapi_http_request_duration_seconds_bucket` + matchers + `)))`
}

func addRedis(d *dashboard.DashboardBuilder) {
	d.WithRow(dashboard.NewRowBuilder("Redis"))
	d.WithPanel(timeline("Connection to Redis", "Whether Redis answers each node.", units.Short, 8,
		query(`sessapi_fleet_connected{NODES}`, "{{instance}}")).
		Mappings([]dashboard.ValueMapping{{ValueMap: &dashboard.ValueMap{Type: dashboard.MappingTypeValueToText, Options: map[string]dashboard.ValueMappingResult{
			"0": {Text: new("down"), Color: new("red")}, "1": {Text: new("up"), Color: new("green")},
		}}}}))
	d.WithPanel(graph("Duration of reads", "Duration of lookups in Redis, failed ones included.", units.Seconds, 8,
		query(`histogram_quantile(0.5, sum by (instance) (rate(sessapi_fleet_read_duration_seconds{NODES}[$__rate_interval]))) or histogram_quantile(0.5, sum by (instance, le) (rate(sessapi_fleet_read_duration_seconds_bucket{NODES}[$__rate_interval])))`, "{{instance}} median"),
		query(`histogram_quantile(0.99, sum by (instance) (rate(sessapi_fleet_read_duration_seconds{NODES}[$__rate_interval]))) or histogram_quantile(0.99, sum by (instance, le) (rate(sessapi_fleet_read_duration_seconds_bucket{NODES}[$__rate_interval])))`, "{{instance}} slowest hundredth")).Min(0))
	d.WithPanel(graph("Age of the cache", "Time since Redis last confirmed that the cache is up to date. Beyond --redis-max-stale the node serves nothing from it.", units.Seconds, 8,
		query(`sessapi_fleet_near_age_seconds{NODES}`, "{{instance}}")).Min(0))
	d.WithPanel(graph("Changes by other nodes", "Changes that Redis reported to the node, and lookups that shared the answer of another one.", units.OpsPerSecond, 12,
		query(`rate(sessapi_fleet_invalidations_total{NODES}[$__rate_interval])`, "{{instance}} changes"),
		query(`rate(sessapi_fleet_coalesced_lookups_total{NODES}[$__rate_interval])`, "{{instance}} shared lookups")).Min(0))
	d.WithPanel(graph("Faults", "Reads without an answer, which are misses, writes that were retried, and records and replies that were refused.", units.OpsPerSecond, 12,
		query(`sum by (reason) (rate(sessapi_fleet_unanswered_reads_total{NODES}[$__rate_interval]))`, "unanswered: {{reason}}"),
		query(`sum(rate(sessapi_fleet_conflicts_total{NODES}[$__rate_interval]))`, "retried writes"),
		query(`sum(rate(sessapi_fleet_refused_records_total{NODES}[$__rate_interval]))`, "refused records"),
		query(`sum(rate(sessapi_fleet_protocol_violations_total{NODES}[$__rate_interval]))`, "refused replies")).Min(0))
}

func addAccess(d *dashboard.DashboardBuilder) {
	d.WithRow(dashboard.NewRowBuilder("Audit, authentication and state"))
	d.WithPanel(graph("Audit log", "Events recorded, and those that could not be, which were refused.", units.OpsPerSecond, 12,
		query(`sum by (instance) (rate(sessapi_audit_events_total{NODES}[$__rate_interval]))`, "{{instance}} recorded"),
		query(`sum by (instance) (rate(sessapi_audit_failures_total{NODES}[$__rate_interval]))`, "{{instance}} failed")).Min(0))
	d.WithPanel(graph("Failed authentications", "Failed authentications by reason. limited: the source has failed too often to be checked.", units.RequestsPerSecond, 12,
		query(`sum by (reason) (rate(sessapi_authentication_failures_total{NODES}[$__rate_interval]))`, "{{reason}}")).Min(0))
	d.WithPanel(graph("Time until certificates and tokens expire", "Below 0 they have expired.", units.Seconds, 12,
		query(`sessapi_tls_certificate_not_after_timestamp_seconds{NODES} - time()`, "{{instance}} certificate"),
		query(`min by (identity) (sessapi_policy_token_expiry_timestamp_seconds{NODES}) - time()`, "{{identity}} token")))
	d.WithPanel(bars(graph("Failed reloads and saves", "Files that could not be loaded, whose previous version stays in use, and state that could not be saved.", units.Short, 12,
		query(`sum(increase(sessapi_ticket_key_file_reload_failures_total{NODES}[$__rate_interval]))`, "ticket key file"),
		query(`sum(increase(sessapi_policy_reload_failures_total{NODES}[$__rate_interval]))`, "policy"),
		query(`sum(increase(sessapi_tls_reload_failures_total{NODES}[$__rate_interval]))`, "TLS files"),
		query(`sum by (content) (increase(sessapi_state_save_failures_total{NODES}[$__rate_interval]))`, "state: {{content}}")).Min(0)))
}

func addProcess(d *dashboard.DashboardBuilder) {
	d.WithRow(dashboard.NewRowBuilder("Process"))
	d.WithPanel(graph("Processor", "Processor time. 100 % is one processor.", units.PercentUnit, 8,
		query(`rate(process_cpu_seconds_total{NODES}[$__rate_interval])`, "{{instance}}")).Min(0))
	d.WithPanel(graph("Resident memory", "Memory of the process, the cache included.", units.BytesIEC, 8,
		query(`process_resident_memory_bytes{NODES}`, "{{instance}}")).Min(0))
	d.WithPanel(graph("Uptime", "Time since the process started.", units.Seconds, 8,
		query(`time() - process_start_time_seconds{NODES}`, "{{instance}}")).Min(0))
}

func datasource() common.DataSourceRef {
	return common.DataSourceRef{Type: new("prometheus"), Uid: new("${datasource}")}
}

// nodes selects the nodes of the variables in an expression.
func nodes(expr string) string {
	return strings.ReplaceAll(expr, "NODES", `job=~"$job",instance=~"$instance"`)
}

func link(title, document string) cog.Builder[dashboard.DashboardLink] {
	return dashboard.NewDashboardLinkBuilder(title).Type(dashboard.DashboardLinkTypeLink).Url(documents + document).TargetBlank(true)
}

func variable(name, label, values string) cog.Builder[dashboard.VariableModel] {
	return dashboard.NewQueryVariableBuilder(name).Label(label).Datasource(datasource()).
		Query(dashboard.StringOrMap{String: &values}).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc).
		Multi(true).IncludeAll(true).
		Current(dashboard.VariableOption{
			Text:  dashboard.StringOrArrayOfString{String: new("All")},
			Value: dashboard.StringOrArrayOfString{String: new("$__all")},
		})
}

func annotation(name, color, expr string) cog.Builder[dashboard.AnnotationQuery] {
	return dashboard.NewAnnotationQueryBuilder().Name(name).Datasource(datasource()).IconColor(color).
		Expr(nodes(expr)).TitleFormat(name).TextFormat("{{instance}}")
}

func query(expr, legend string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(datasource()).Expr(nodes(expr)).LegendFormat(legend).Range()
}

// row is a query whose latest values are the column of a table.
func row(refID, expr string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(datasource()).Expr(nodes(expr)).RefId(refID).
		LegendFormat(refID).Format(prometheus.PromQueryFormatTable).Instant()
}

func number(title, description, unit, expr string) *stat.PanelBuilder {
	return stat.NewPanelBuilder().
		Title(title).Description(description).Unit(unit).
		Datasource(datasource()).Span(3).Height(4).
		GraphMode(common.BigValueGraphModeNone).Orientation(common.VizOrientationAuto).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
		WithTarget(query(expr, title).RefId("A"))
}

func graph(title, description, unit string, width uint32, queries ...*prometheus.DataqueryBuilder) *timeseries.PanelBuilder {
	p := timeseries.NewPanelBuilder().
		Title(title).Description(description).Unit(unit).
		Datasource(datasource()).Span(width).Height(8).
		FillOpacity(10).ShowPoints(common.VisibilityModeNever).
		Legend(common.NewVizLegendOptionsBuilder().DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).ShowLegend(true)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
	for i, q := range queries {
		p.WithTarget(q.RefId(string(rune('A' + i))))
	}
	return p
}

func stacked(p *timeseries.PanelBuilder) *timeseries.PanelBuilder {
	return p.Min(0).FillOpacity(40).Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal))
}

func bars(p *timeseries.PanelBuilder) *timeseries.PanelBuilder {
	return p.DrawStyle(common.GraphDrawStyleBars).FillOpacity(80)
}

func timeline(title, description, unit string, width uint32, q *prometheus.DataqueryBuilder) *statetimeline.PanelBuilder {
	return statetimeline.NewPanelBuilder().
		Title(title).Description(description).Unit(unit).
		Datasource(datasource()).Span(width).Height(8).
		MergeValues(true).ShowValue(common.VisibilityModeAuto).FillOpacity(70).LineWidth(1).
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(false)).
		WithTarget(q.RefId("A"))
}

// steps are colours: the first, and those that apply from a value on.
func steps(first string, rest ...dashboard.Threshold) *dashboard.ThresholdsConfigBuilder {
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).
		Steps(append([]dashboard.Threshold{{Color: first}}, rest...))
}

func from(value float64, color string) dashboard.Threshold {
	return dashboard.Threshold{Value: &value, Color: color}
}
