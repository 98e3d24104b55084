package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/sessapi/sessapi/internal/printable"
)

// Report is what an examination found. Its JSON is part of the contract of the command.
type Report struct {
	Nodes       []Node       `json:"nodes"`
	Resumptions []Resumption `json:"resumptions"`
	Findings    []Finding    `json:"findings"`
}

// Node is one address.
type Node struct {
	Address   string     `json:"address"`
	Protocols []Protocol `json:"protocols"`
	// TicketKey is the name of the key that encrypts its tickets, where they show it.
	TicketKey             string      `json:"ticket_key,omitempty"`
	TicketLifetimeSeconds int64       `json:"ticket_lifetime_seconds,omitempty"`
	ServiceKey            *ServiceKey `json:"service_key,omitempty"`
	// FullMS is the median of its full handshakes.
	FullMS float64 `json:"-"`
	// Error is why there was no handshake.
	Error string `json:"error,omitempty"`
}

// ServiceKey is a node's key as the service knows it.
type ServiceKey struct {
	Role       string `json:"role"`
	Generation uint64 `json:"generation"`
}

// Resumption is whether sessions of one node resume on another. Times are medians, in
// milliseconds.
type Resumption struct {
	From      string    `json:"from"`
	To        string    `json:"to"`
	Protocol  Protocol  `json:"protocol"`
	By        Mechanism `json:"by"`
	Resumed   bool      `json:"resumed"`
	FullMS    float64   `json:"full_ms"`
	ResumedMS float64   `json:"resumed_ms,omitempty"`

	partly bool // some resumed, and others did not
}

// Severity is error or warning.
type Severity string

// A fleet with an error does not resume everywhere, or has a key in use that it should
// not have. A warning is of what will or may come to that.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Code names a kind of finding and is stable.
type Code string

// The codes, the worst first.
const (
	CodeUnreachable      Code = "unreachable"
	CodeCertificate      Code = "certificate"
	CodeProtocolMissing  Code = "protocol_missing"
	CodeNoTickets        Code = "no_tickets"
	CodeUnknownKey       Code = "unknown_key"
	CodeTicketKeysDiffer Code = "ticket_keys_differ"
	CodeSwappedLayout    Code = "swapped_layout"
	CodeStaleKey         Code = "stale_key"
	CodeNotResumed       Code = "not_resumed_with_same_key"
	CodeIDCacheNotShared Code = "id_cache_not_shared"
	CodeLifetime         Code = "lifetime_beyond_keys"
)

var codes = []Code{
	CodeUnreachable, CodeCertificate, CodeProtocolMissing, CodeNoTickets, CodeUnknownKey, CodeTicketKeysDiffer,
	CodeSwappedLayout, CodeStaleKey, CodeNotResumed, CodeIDCacheNotShared, CodeLifetime,
}

// Finding is something to mend.
type Finding struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Nodes    []string `json:"nodes"`
	Text     string   `json:"text"`
}

// Healthy reports whether there is no error among the findings.
func (r *Report) Healthy() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == SeverityError })
}

func (f *fleet) report() *Report {
	r := &Report{Nodes: []Node{}, Resumptions: []Resumption{}, Findings: f.findings()}
	for i, n := range f.nodes {
		out := Node{Address: n.name, Protocols: []Protocol{}, TicketKey: n.class()}
		if key := f.serviceKey(n.class()); key != nil {
			out.ServiceKey = &ServiceKey{Role: string(key.Role), Generation: f.service.Keys.Generation}
		}
		if n.err != nil {
			out.Error = printable.Short(n.err.Error())
		}
		var full []time.Duration
		for _, protocol := range f.protocols {
			if s := n.speaks[protocol]; s != nil {
				out.Protocols = append(out.Protocols, protocol)
				full = append(full, s.full...)
			}
		}
		out.FullMS, out.TicketLifetimeSeconds = median(full), int64(n.lifetime()/time.Second)
		r.Nodes = append(r.Nodes, out)
		for to := range f.nodes {
			for _, p := range f.appendPairs(nil, i, to) {
				if o := f.outcomes[p]; o != nil {
					r.Resumptions = append(r.Resumptions, Resumption{
						From: n.name, To: f.nodes[to].name, Protocol: p.protocol, By: p.by, Resumed: o.all(), partly: o.resumed > 0 && !o.all(),
						FullMS: median(f.nodes[to].speaks[p.protocol].full), ResumedMS: median(o.took),
					})
				}
			}
		}
	}
	return r
}

// lifetime is the longest of the node's tickets.
func (n *node) lifetime() (longest time.Duration) {
	for _, s := range n.speaks {
		longest = max(longest, s.lifetime)
	}
	return longest
}

// median is in milliseconds, rounded to a microsecond; 0 of none.
func median(times []time.Duration) float64 {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return float64(sorted[len(sorted)/2].Microseconds()) / 1000
}

// sortFindings puts the worst first.
func sortFindings(findings []Finding) {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.Severity, b.Severity), // error, warning
			cmp.Compare(slices.Index(codes, a.Code), slices.Index(codes, b.Code)),
			slices.Compare(a.Nodes, b.Nodes),
		)
	})
}

// short is the beginning of a key's name, for people.
func short(name string) string {
	if name == "" {
		return "without a name"
	}
	return fmt.Sprintf("%.8s…", name)
}
