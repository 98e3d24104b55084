package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
)

// source is a while of a Prometheus.
type source struct {
	url   string
	end   time.Time
	span  time.Duration
	nodes string // a pattern
}

// samples is how many values of a series the picture shows.
const samples = 300

// series is what a query has of one set of labels. The values are a step apart; NaN is
// none.
type series struct {
	name   string
	labels map[string]string
	values []float64
}

func (s source) start() time.Time    { return s.end.Add(-s.span) }
func (s source) step() time.Duration { return s.span / samples }

// findNodes selects all nodes, as the variables of the dashboard do.
func (s *source) findNodes(ctx context.Context) error {
	found, err := s.query(ctx, prometheus.Dataquery{Expr: "group by (instance) (sessapi_ticket_keys_generation)"})
	var names []string
	for _, node := range found {
		names = append(names, regexp.QuoteMeta(node.labels["instance"]))
	}
	s.nodes = strings.ReplaceAll(strings.Join(names, "|"), `\`, `\\`)
	return err
}

// query asks for a query of the dashboard.
func (s source) query(ctx context.Context, q prometheus.Dataquery) ([]series, error) {
	expr := strings.NewReplacer("$job", ".+", "$instance", s.nodes, "$__rate_interval", "30s").Replace(q.Expr)
	at := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	parameters := url.Values{
		"query": {expr}, "start": {at(s.start())}, "end": {at(s.end)},
		"step": {strconv.FormatFloat(s.step().Seconds(), 'f', 3, 64)},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/api/v1/query_range?"+parameters.Encode(), nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: time.Minute}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s: %s", expr, answer.Error)
	}
	var all []series
	for _, result := range answer.Data.Result {
		one := series{name: legend(q, result.Metric), labels: result.Metric, values: make([]float64, samples+1)}
		for i := range one.values {
			one.values[i] = math.NaN()
		}
		for _, v := range result.Values {
			text, _ := v[1].(string)
			value, err := strconv.ParseFloat(text, 64)
			at, ok := v[0].(float64)
			i := int(math.Round((at - float64(s.start().UnixMilli())/1000) / s.step().Seconds()))
			if err == nil && ok && i >= 0 && i < len(one.values) {
				one.values[i] = value
			}
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b series) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

// last returns the latest value.
func (s series) last() float64 {
	for _, v := range slices.Backward(s.values) {
		if !math.IsNaN(v) {
			return v
		}
	}
	return math.NaN()
}

var labelPattern = regexp.MustCompile(`\{\{(\w+)\}\}`)

func legend(q prometheus.Dataquery, labels map[string]string) string {
	if q.LegendFormat == nil {
		return ""
	}
	return labelPattern.ReplaceAllStringFunc(*q.LegendFormat, func(name string) string { return labels[strings.Trim(name, "{}")] })
}

// format writes a value in a unit of Grafana's.
func format(v float64, unit string) string {
	short := func(v float64, base float64, prefixes ...string) string {
		i := 0
		for ; math.Abs(v) >= base && i < len(prefixes)-1; i++ {
			v /= base
		}
		return strconv.FormatFloat(round(v), 'f', -1, 64) + prefixes[i]
	}
	switch unit {
	case "percentunit":
		return strconv.FormatFloat(round(v*100), 'f', -1, 64) + " %"
	case "bytes":
		return short(v, 1024, " B", " KiB", " MiB", " GiB")
	case "ops", "reqps":
		return short(v, 1000, "", " K", " M") + "/s"
	case "s":
		switch abs := math.Abs(v); {
		case v == 0:
			return "0 s"
		case abs < 1:
			return short(v*1e6, 1000, " µs", " ms")
		case abs < 120:
			return short(v, 1000, " s")
		case abs < 7200:
			return short(v/60, 1000, " min")
		case abs < 2*86400:
			return short(v/3600, 1000, " h")
		}
		return short(v/86400, 1000, " days")
	case "dateTimeAsIso":
		return time.UnixMilli(int64(v)).UTC().Format("15:04:05")
	}
	return short(v, 1000, "", " K", " M")
}

// scaleOf is what a value is divided by before it is written, so that an axis has round
// numbers.
func scaleOf(v float64, unit string) float64 {
	switch {
	case unit == "bytes" && v >= 1024:
		return math.Pow(1024, math.Floor(math.Log(v)/math.Log(1024)))
	case unit == "s" && v >= 2*86400:
		return 86400
	case unit == "s" && v >= 7200:
		return 3600
	case unit == "s" && v >= 120:
		return 60
	}
	return 1
}

// round leaves three digits.
func round(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(v))))
	if scale < 1 {
		return math.Round(v)
	}
	return math.Round(v*scale) / scale
}
