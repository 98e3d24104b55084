package doctor

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/printable"
)

// findings is the verdict on what the handshakes showed, the worst first.
func (f *fleet) findings() []Finding {
	v := &verdict{fleet: f, explained: map[int]bool{}, findings: []Finding{}}
	v.reach()
	v.certificates()
	v.missingProtocols()
	v.noTickets()
	v.unsteady()
	v.service()
	v.keysDiffer()
	v.sameKey()
	v.unexplained()
	v.sessionIDs()
	sortFindings(v.findings)
	return v.findings
}

type verdict struct {
	*fleet
	// explained are the nodes whose tickets a finding has explained already.
	explained map[int]bool
	findings  []Finding
}

// add adds a finding. A finding of the same kind and text becomes one of more nodes.
func (v *verdict) add(code Code, severity Severity, nodes []int, format string, args ...any) {
	f := Finding{Code: code, Severity: severity, Text: fmt.Sprintf(format, args...)}
	for _, i := range nodes {
		f.Nodes = append(f.Nodes, v.nodes[i].name)
	}
	for i, other := range v.findings {
		if other.Code == code && other.Severity == severity && other.Text == f.Text {
			for _, name := range f.Nodes {
				if !slices.Contains(other.Nodes, name) {
					v.findings[i].Nodes = append(v.findings[i].Nodes, name)
				}
			}
			return
		}
	}
	v.findings = append(v.findings, f)
}

func (v *verdict) reach() {
	for i, n := range v.nodes {
		switch {
		case isKind(n.err, ProtocolMissing): // missingProtocols says so
		case n.err != nil:
			v.add(CodeUnreachable, SeverityError, []int{i}, "No handshake: %s. %s", printable.Short(n.err.Error()), advice(n.err))
		case len(n.failures) > 0:
			v.add(CodeUnreachable, SeverityError, []int{i}, "%d of %d handshakes failed, the first with: %s. Some processes of the server may be broken.",
				len(n.failures), n.attempts, printable.Short(n.failures[0].Error()))
		}
	}
}

// advice is what to do about a failed handshake.
func advice(err error) string {
	e, _ := errors.AsType[*Error](err)
	switch e.Kind {
	case NoAnswer:
		return "Check that the server is not overloaded, and that no firewall drops its answers."
	case NotTLS:
		return "Check the port: it speaks something other than TLS."
	case Refused:
		return "Check the server name (--servername), the application protocols (--alpn), and whether the server wants a client certificate (--cert, --key-file)."
	default:
		return "Check the address, and that the server is running."
	}
}

func (v *verdict) certificates() {
	for i, n := range v.nodes {
		if n.invalid != nil {
			problem, advice := certificateProblem(n.invalid)
			v.add(CodeCertificate, SeverityError, []int{i}, "The certificate is not valid: %s. %s", printable.Short(problem), advice)
		}
	}
}

// certificateProblem is why a certificate is invalid, and what to do about it. The same
// certificate gets the same text whenever it was checked, so that nodes share a finding.
func certificateProblem(err error) (problem, advice string) {
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, new(x509.HostnameError)):
		advice = "Ask for the name that clients ask for (--servername), or give the server a certificate of this name."
	case errors.As(err, new(x509.UnknownAuthorityError)):
		advice = "Name its CA with --ca, or send the intermediate certificates with it; --insecure checks none."
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		invalid.Detail = fmt.Sprintf("it lasts from %s to %s", invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
		return invalid.Error(), "Renew it, or set the clock of this machine."
	default:
		advice = "Replace it; --insecure checks none."
	}
	return err.Error(), advice
}

func (v *verdict) missingProtocols() {
	for _, protocol := range v.protocols {
		var missing []int
		others, alone := 0, false
		for i, n := range v.nodes {
			switch {
			case n.speaks[protocol] != nil:
				others++
			case n.missing[protocol] != nil:
				missing = append(missing, i)
				alone = alone || len(n.speaks) == 0
			}
		}
		switch {
		case len(missing) == 0:
		case others > 0:
			v.add(CodeProtocolMissing, SeverityError, missing, "TLS %s is missing, but enabled on %s: sessions of that version cannot resume here. Enable the same versions on every node.",
				protocol, counted(others, "other node"))
		case alone:
			v.add(CodeProtocolMissing, SeverityError, missing, "TLS %s is missing.", protocol)
		}
	}
}

// issues reports whether a node makes tickets. OpenSSL sends bare session IDs in
// their place when it may make none.
func (v *verdict) issues(i int, protocol Protocol) bool {
	s := v.nodes[i].speaks[protocol]
	if s == nil || len(s.sessions) == 0 {
		return false
	}
	_, ok := s.sessions[0].KeyName()
	return ok
}

// resumes reports whether every node that speaks the protocol resumes all that i gave.
func (v *verdict) resumes(i int, protocol Protocol, by Mechanism) bool {
	tested := false
	for p, o := range v.outcomes {
		if p.from == i && p.protocol == protocol && p.by == by {
			if !o.all() {
				return false
			}
			tested = true
		}
	}
	return tested
}

// self is what came of a node's own sessions.
func (v *verdict) self(i int, protocol Protocol, by Mechanism) outcome {
	if o := v.outcomes[pair{i, i, protocol, by}]; o != nil {
		return *o
	}
	return outcome{}
}

// idsOnly reports whether no node makes tickets of TLS 1.2 and some keep sessions
// instead.
func (v *verdict) idsOnly() bool {
	kept := false
	for _, i := range v.speakers(TLS12) {
		if v.issues(i, TLS12) {
			return false
		}
		kept = kept || v.self(i, TLS12, ByID).resumed > 0
	}
	return kept
}

func (v *verdict) noTickets() {
	if !slices.Contains(v.mechanisms, ByTicket) {
		return
	}
	for i, n := range v.nodes {
		var without []string
		who := "clients that return to another node"
		for _, protocol := range v.protocols {
			switch {
			case n.speaks[protocol] == nil, v.issues(i, protocol), v.resumes(i, protocol, ByTicket):
			case protocol == TLS12 && (v.idsOnly() || v.resumes(i, protocol, ByID)):
			default:
				without = append(without, protocol.String())
				if v.self(i, protocol, ByTicket).resumed+v.self(i, protocol, ByID).resumed == 0 {
					who = "returning clients"
				}
			}
		}
		if without != nil {
			v.add(CodeNoTickets, SeverityError, []int{i}, "The node issues no session tickets in TLS %s, so %s make a full handshake. Turn tickets on, with the same keys as on the other nodes.", strings.Join(without, " and "), who)
		}
	}
}

// unsteady finds nodes that answer differently from one try to the next.
func (v *verdict) unsteady() {
	for i, n := range v.nodes {
		own := outcome{}
		for _, protocol := range v.protocols {
			if v.issues(i, protocol) {
				o := v.self(i, protocol, ByTicket)
				own.tries, own.resumed = own.tries+o.tries, own.resumed+o.resumed
			}
		}
		names := n.keys()
		switch {
		case own.tries == 0:
		case len(names) > 1 && !v.fails(i):
			v.explained[i] = true
			v.add(CodeTicketKeysDiffer, SeverityWarning, []int{i}, "Tickets are encrypted with %d keys in turn (%s), and all resume: the keys have just changed, or some processes have not loaded the new ones. If this lasts, restart the server.",
				len(names), shortList(names))
		case len(names) > 1 && own.all():
			v.explained[i] = true
			v.add(CodeTicketKeysDiffer, SeverityError, []int{i}, "Tickets are encrypted with %d keys in turn (%s), and not all resume everywhere: the keys have just changed, or some processes have not loaded the new ones. If this lasts, restart the server.",
				len(names), shortList(names))
		case len(names) > 1, own.resumed > 0 && !own.all() && len(names) == 0:
			v.explained[i] = true
			v.add(CodeTicketKeysDiffer, SeverityError, []int{i}, "The node answers differently from one try to the next: %d of its own %d tickets resume%s. Several processes with different keys share the address. Give all of them the same keys, and restart those with old ones.",
				own.resumed, own.tries, inTurn(names))
		case !own.all():
			v.explained[i] = true
			v.add(CodeNotResumed, SeverityError, []int{i}, "%d of its own %s resume. Its processes may hold different secrets under one key name, or a setting such as the session ID context may prevent resumption.",
				own.resumed, counted(own.tries, "ticket"))
		}
	}
}

func inTurn(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf(", encrypted with %d keys (%s)", len(names), shortList(names))
}

// service compares with what the service knows.
func (v *verdict) service() {
	if v.fleet.service == nil {
		return
	}
	kept := v.kept()
	for i, n := range v.nodes {
		if kept > 0 && n.lifetime() > kept {
			v.add(CodeLifetime, SeverityWarning, []int{i}, "Tickets live for %s, but the service keeps a key for only %s after it stops encrypting: clients that return later make a full handshake. Shorten the lifetime on the server, or raise --ticket-lifetime of the service.",
				span(n.lifetime()), span(kept))
		}
		name := n.class()
		if name == "" || v.explained[i] {
			continue
		}
		key := v.serviceKey(name)
		switch {
		case key == nil:
			v.explained[i] = true
			v.add(CodeUnknownKey, SeverityError, []int{i}, "Tickets are encrypted with key %s, which the service does not have: it was revoked or dropped, or came from elsewhere. Deliver the service's keys to the node and reload it.%s", short(name), v.reports(n))
		case key.Role == "previous":
			v.explained[i] = true
			severity := SeverityWarning
			if v.fails(i) {
				severity = SeverityError
			}
			v.add(CodeStaleKey, severity, []int{i}, "Tickets are encrypted with key %s, which the service replaced%s. The new keys have not reached the node, or it was not reloaded.%s", short(name), v.replaced(key), v.reports(n))
		}
	}
}

// reports says what consumers on the node's host report: those of its name, or of the
// first label of it.
func (v *verdict) reports(n *node) string {
	var b strings.Builder
	label, _, _ := strings.Cut(n.host, ".")
	for _, c := range v.fleet.service.Consumers {
		host, _, _ := strings.Cut(c.Name, "/")
		if !strings.EqualFold(host, n.host) && !strings.EqualFold(host, label) {
			continue
		}
		if c.State == client.ConsumerCurrent && !c.Behind {
			fmt.Fprintf(&b, " Consumer %s reports that it holds the newest keys, so the server has not loaded them.", c.Name)
			continue
		}
		fmt.Fprintf(&b, " Consumer %s is %s since %s", c.Name, c.State, c.Since.UTC().Format(time.RFC3339))
		if c.Detail != nil && *c.Detail != "" {
			fmt.Fprintf(&b, ": %s", *c.Detail)
		}
		b.WriteByte('.')
	}
	return b.String()
}

// fails reports whether a ticket from or to the node was not resumed.
func (v *verdict) fails(i int) bool {
	for p, o := range v.outcomes {
		if p.by == ByTicket && (p.from == i || p.to == i) && o.tries > 0 && !o.all() {
			return true
		}
	}
	return false
}

// serviceKey is the key of that name at the service; nil when it has none, or was not
// asked.
func (f *fleet) serviceKey(name string) *client.TicketKey {
	if f.service == nil {
		return nil
	}
	for i, k := range f.service.Keys.Keys {
		if k.Name == name {
			return &f.service.Keys.Keys[i]
		}
	}
	return nil
}

// current is the key that encrypts, by the service.
func (v *verdict) current() *client.TicketKey {
	for i, k := range v.fleet.service.Keys.Keys {
		if k.Role == "current" {
			return &v.fleet.service.Keys.Keys[i]
		}
	}
	return nil // no service says so: the client checks it
}

// replaced says when the service made another key the current one in place of that key.
func (v *verdict) replaced(key *client.TicketKey) string {
	var at *time.Time
	for _, k := range v.fleet.service.Keys.Keys {
		if key.ActivatedAt != nil && k.ActivatedAt != nil && k.ActivatedAt.After(*key.ActivatedAt) && (at == nil || k.ActivatedAt.Before(*at)) {
			at = k.ActivatedAt
		}
	}
	if at == nil {
		return ""
	}
	return fmt.Sprintf(" at %s", at.UTC().Format(time.RFC3339))
}

// kept is how long the service keeps a key that has stopped to encrypt; 0 when that
// does not show: for a set that it does not rotate, or that still has two of the keys
// that it began with, which were made at one time, and so may grow.
func (v *verdict) kept() time.Duration {
	keys := v.fleet.service.Keys
	if keys.NextRotationAt == nil || v.current().ActivatedAt == nil {
		return 0
	}
	previous := 0
	made := map[int64]bool{}
	for _, k := range keys.Keys {
		if k.Role == "previous" {
			previous++
		}
		made[k.CreatedAt.Unix()] = true
	}
	if len(made) < len(keys.Keys) {
		return 0
	}
	return time.Duration(previous) * keys.NextRotationAt.Sub(*v.current().ActivatedAt).Round(time.Second)
}

// classes are the nodes that make tickets and are not explained, by the name of their
// key.
func (v *verdict) classes() map[string][]int {
	classes := map[string][]int{}
	for i, n := range v.nodes {
		if !v.explained[i] && slices.ContainsFunc(v.protocols, func(p Protocol) bool { return v.issues(i, p) }) {
			classes[n.class()] = append(classes[n.class()], i)
		}
	}
	return classes
}

// between is what came of all tickets of some nodes at others.
func (v *verdict) between(from, to []int) (sum outcome) {
	for p, o := range v.outcomes {
		if p.by != ByTicket || !slices.Contains(from, p.from) || !slices.Contains(to, p.to) ||
			!v.issues(p.from, p.protocol) || !v.issues(p.to, p.protocol) {
			continue
		}
		sum.tries, sum.resumed = sum.tries+o.tries, sum.resumed+o.resumed
		switch {
		case o.decrypts == unknown:
		case sum.decrypts == unknown, o.decrypts == no:
			sum.decrypts = o.decrypts
		}
	}
	return sum
}

// keysDiffer compares nodes whose tickets show that their keys are not the same.
func (v *verdict) keysDiffer() {
	classes := v.classes()
	if nameless, named := classes[""], len(classes); len(nameless) > 0 && named > 1 {
		v.add(CodeTicketKeysDiffer, SeverityError, nameless, "Tickets do not begin with a key name, unlike those of the other nodes: this is another kind of server, and servers resume only tickets of their own kind. Examine each kind by itself.")
	}
	delete(classes, "")
	if len(classes) < 2 {
		return
	}
	names := slices.SortedFunc(maps.Keys(classes), func(a, b string) int {
		if d := len(classes[b]) - len(classes[a]); d != 0 {
			return d
		}
		return classes[a][0] - classes[b][0]
	})
	failing := false
	for _, a := range names {
		for _, b := range names {
			if a == b {
				continue
			}
			there, back := v.between(classes[a], classes[b]), v.between(classes[b], classes[a])
			failing = failing || there.tries != there.resumed
			if there.all() && back.tries > 0 && back.resumed == 0 {
				v.add(CodeStaleKey, SeverityError, classes[a], "Tickets are encrypted with key %s, which other nodes still decrypt. Their tickets are encrypted with key %s, which this node does not have: it missed a rotation. Deliver the new keys to it and reload it.", short(a), short(b))
				for _, i := range classes[a] {
					v.explained[i] = true
				}
			}
		}
	}
	// The rest, by the key of most nodes, if most have one.
	names = slices.DeleteFunc(names, func(name string) bool { return v.explained[classes[name][0]] })
	if len(names) < 2 {
		return
	}
	var odd []int
	common := ""
	if len(classes[names[0]]) > len(classes[names[1]]) {
		common = names[0]
	}
	var keys []string
	for _, name := range names {
		if name != common {
			odd = append(odd, classes[name]...)
			keys = append(keys, name)
		}
	}
	what := "Tickets are encrypted with different keys (" + shortList(keys) + ")"
	if common != "" {
		what = fmt.Sprintf("Tickets are encrypted with key %s, but with %s on %s", shortList(keys), short(common), counted(len(classes[common]), "other node"))
	}
	if failing {
		v.add(CodeTicketKeysDiffer, SeverityError, odd, "%s; the nodes do not resume each other's tickets. Give every node the same keys and reload it.", what)
	} else {
		v.add(CodeTicketKeysDiffer, SeverityWarning, odd, "%s; the nodes still resume each other's tickets, so a rotation is under way. If this lasts, new keys do not reach every node.", what)
	}
}

// sameKey compares nodes whose tickets show no difference of their keys: first those
// with different secrets, then those with the same ones.
func (v *verdict) sameKey() {
	for name, nodes := range v.classes() {
		groups := v.groups(nodes, v.protocols, ByTicket)
		secrets := v.secrets(groups)
		joined := make([][]int, len(secrets))
		for i, same := range secrets {
			joined[i] = slices.Concat(same...)
		}
		v.explain(name, joined)
		for _, same := range secrets {
			v.explain(name, same)
		}
	}
}

// secrets sorts groups into those that decrypt each other's tickets, directly or
// through others.
func (v *verdict) secrets(groups [][]int) (secrets [][][]int) {
	for _, group := range groups {
		same := [][]int{group}
		secrets = slices.DeleteFunc(secrets, func(others [][]int) bool {
			nodes := slices.Concat(others...)
			decrypts := v.between(group, nodes).decrypts == yes || v.between(nodes, group).decrypts == yes
			if decrypts {
				same = append(others, same...)
			}
			return decrypts
		})
		secrets = append(secrets, same)
	}
	return secrets
}

// explain says why groups of nodes do not resume each other's tickets.
func (v *verdict) explain(name string, groups [][]int) {
	if len(groups) < 2 {
		return
	}
	slices.SortStableFunc(groups, func(a, b []int) int { return len(b) - len(a) })
	odd := groups
	if len(groups[0]) > len(groups[1]) {
		odd = groups[1:]
	}
	for _, group := range odd {
		var rest []int
		for _, other := range groups {
			if other[0] != group[0] {
				rest = append(rest, other...)
			}
		}
		v.explainGroup(name, group, rest, len(odd) == len(groups))
	}
}

// explainGroup says why a group of nodes does not resume the tickets of the rest, nor
// they its own, though their keys have the same name or none. even: neither group is
// the larger one.
func (v *verdict) explainGroup(name string, group, rest []int, even bool) {
	nodes, subject := group, "These and the other nodes"
	if even {
		nodes, subject = slices.Sorted(slices.Values(slices.Concat(group, rest))), "These nodes"
	}
	there, back := v.between(group, rest), v.between(rest, group)
	if there.tries+back.tries == 0 { // nothing was offered, as when they speak different versions
		return
	}
	decrypts := there.decrypts
	if decrypts == unknown {
		decrypts = back.decrypts
	}
	key := "the same keys"
	if name != "" {
		key = "the same key (" + short(name) + ")"
	}
	switch {
	case there.all() != back.all() && name == "" && decrypts != yes:
		v.add(CodeTicketKeysDiffer, SeverityError, nodes, "%s resume tickets, which show no key names, in one direction only. One side missed a rotation, or the clocks differ by more than the lifetime of a ticket.", subject)
	case there.all() != back.all():
		v.add(CodeNotResumed, SeverityError, nodes, "%s have %s, and tickets resume in one direction only. The clocks may differ by more than the lifetime of a ticket, or sessions may be bound to settings that differ.", subject, key)
	case name == "" && decrypts != yes:
		v.add(CodeTicketKeysDiffer, SeverityError, nodes, "%s do not resume each other's tickets, which show no key names: their keys differ. Give every node the same keys.", subject)
	case decrypts == no:
		v.add(CodeSwappedLayout, SeverityError, nodes, "%s have a key of the same name (%s) with different secrets, and do not decrypt each other's tickets. Usually the halves of the key are swapped on one side, because servers order them differently. Check that each key file has the format of its server (sessapi keys convert).", subject, short(name))
	case decrypts == yes:
		v.add(CodeNotResumed, SeverityError, nodes, "%s have %s and decrypt each other's tickets, but do not resume the sessions. %s", subject, key, v.context(group, rest))
	default:
		v.add(CodeNotResumed, SeverityError, nodes, "%s have a key of the same name (%s), and do not resume each other's tickets. Either the secrets differ, usually because the halves of the key are swapped on one side, or the nodes bind sessions to something else. %s", subject, short(name), v.context(group, rest))
	}
}

// unexplained finds tickets that do not resume between two nodes which resume those of
// the same others, and each its own.
func (v *verdict) unexplained() {
	inError := map[string]bool{}
	for _, f := range v.findings {
		for _, name := range f.Nodes {
			inError[name] = inError[name] || f.Severity == SeverityError
		}
	}
	var nodes []int
	for p, o := range v.outcomes {
		if p.by != ByTicket || o.tries == o.resumed || !v.issues(p.from, p.protocol) || !v.issues(p.to, p.protocol) ||
			inError[v.nodes[p.from].name] || inError[v.nodes[p.to].name] {
			continue
		}
		nodes = append(nodes, p.from, p.to)
	}
	if nodes != nil {
		slices.Sort(nodes)
		v.add(CodeNotResumed, SeverityError, slices.Compact(nodes), "Some tickets do not resume between these nodes, although other tickets show that they have the same keys. Processes with different keys or settings may share an address. Examine the nodes again.")
	}
}

// context says to what servers bind sessions.
func (v *verdict) context(group, rest []int) string {
	differ := ""
	if v.nodes[group[0]].leaf != v.nodes[rest[0]].leaf {
		differ = " Their certificates differ."
	}
	return "Servers bind sessions to a context, which must be the same on all nodes: in httpd ServerName with its port, in nginx the certificate and the client CAs, in Traffic Server the lines of ssl_multicert.config, in Node.js sessionIdContext. No server resumes sessions of another kind of server." + differ
}

// sessionIDs judges resumption by session ID where clients depend on it: where nothing
// else was asked for, or no node makes tickets. Elsewhere the table shows it.
func (v *verdict) sessionIDs() {
	if slices.Contains(v.mechanisms, ByTicket) && !v.idsOnly() {
		return
	}
	if !slices.Contains(v.mechanisms, ByID) {
		return
	}
	var keep []int
	for _, i := range v.speakers(TLS12) {
		switch o := v.self(i, TLS12, ByID); {
		case o.failed:
		case o.resumed == 0:
			v.add(CodeIDCacheNotShared, SeverityError, []int{i}, "The node keeps no sessions, so no client resumes by session ID. Turn on the session cache or tickets.")
		case !o.all():
			v.add(CodeIDCacheNotShared, SeverityError, []int{i}, "Only %d of its own %s resume by session ID: the processes of the server do not share their session cache. Share it, or turn tickets on.", o.resumed, counted(o.tries, "session"))
		default:
			keep = append(keep, i)
		}
	}
	groups := v.groups(keep, []Protocol{TLS12}, ByID)
	if len(groups) < 2 {
		return
	}
	if len(groups[0]) > len(groups[1]) {
		groups = groups[1:]
	}
	odd := slices.Sorted(slices.Values(slices.Concat(groups...)))
	v.add(CodeIDCacheNotShared, SeverityError, odd, "Sessions do not resume by ID on other nodes: the session cache is not shared. Share it (sessapi keeps sessions for a fleet), or turn tickets on with the same keys everywhere.")
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func shortList(names []string) string {
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = short(name)
	}
	return strings.Join(parts, ", ")
}
