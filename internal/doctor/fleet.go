package doctor

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sessapi/sessapi/client"
)

const (
	// tries is how many full handshakes of each kind a node gets. Of two processes
	// with keys of their own behind one address, 8 tries miss one every 128th time.
	tries = 8
	// pairTries is how many sessions of a node are offered to another one.
	pairTries = 2
	// maxComplete is up to how many nodes each is paired with every other one.
	maxComplete = 12
	// neighbours is with how many of the nodes behind it each is paired otherwise.
	neighbours = 2
	// atOnce is how many nodes are visited at a time, each by one connection.
	atOnce = 8
	// maxFailedPairs is how many pairs may fail one after another at a node, before the
	// rest of its pairs fail without a handshake. Else one that hangs takes the timeout
	// for each.
	maxFailedPairs = 3
	// MaxNodes is how many nodes an examination may have.
	MaxNodes = 256
)

// Mechanism is how a server finds a session again.
type Mechanism string

// The mechanisms. TLS 1.3 has tickets alone.
const (
	ByTicket Mechanism = "ticket"
	ByID     Mechanism = "id"
)

// Plan says what to examine, and how.
type Plan struct {
	// Targets are the nodes as HOST:PORT. Each address that a host has is a node, once
	// for each server name.
	Targets []string
	// Client makes the handshakes. Without a ServerName each node is asked for the
	// host of its target.
	Client     Client
	Protocols  []Protocol
	Mechanisms []Mechanism
	// AllPairs pairs each node with every other one, however many there are.
	AllPairs bool
	// Service is what the service knows of the keys; nil is not asked.
	Service *Service
	// Progress, if any, is called after each handshake with the number of them. Calls
	// may overlap.
	Progress func(handshakes int)
}

// Service is what the service says.
type Service struct {
	Keys *client.TicketKeys
	// Consumers are compared with the nodes on hosts of their name.
	Consumers []client.Consumer
}

// fleet is what the handshakes showed.
type fleet struct {
	nodes      []*node
	outcomes   map[pair]*outcome
	protocols  []Protocol
	mechanisms []Mechanism
	service    *Service
}

// node is one address.
type node struct {
	name       string // for people
	address    string
	host       string // of the target
	serverName string
	err        error                 // why there was no handshake at all
	failures   []error               // of single handshakes
	missing    map[Protocol]error    // the protocols that it does not speak
	attempts   int                   // of which failures failed
	speaks     map[Protocol]*speaker // the protocols that it speaks
	ids        [][]byte              // of the sessions that it says it keeps
	leaf       [sha256.Size]byte
	invalid    error // why its certificate is
}

// speaker is what a node did in full handshakes of one protocol.
type speaker struct {
	full     []time.Duration
	sessions []*Session // one for each handshake that gave one
	lifetime time.Duration
}

// pair is a session of one node that is offered to another: indexes of nodes.
type pair struct {
	from, to int
	protocol Protocol
	by       Mechanism
}

// outcome is what came of a pair.
type outcome struct {
	tries, resumed int
	failed         bool // a handshake did
	took           []time.Duration
	decrypts       answer // whether to decrypts a ticket that it does not resume
}

func (o *outcome) all() bool { return o.tries > 0 && o.resumed == o.tries }

// answer is yes, no or unknown.
type answer uint8

const (
	unknown answer = iota
	yes
	no
)

// examiner makes the handshakes of a plan.
type examiner struct {
	Plan
	handshakes atomic.Int64
}

// Examine makes the handshakes of the plan and says what they show. The error is that
// of ctx, or says that there are too many nodes.
func Examine(ctx context.Context, plan Plan) (*Report, error) {
	e := &examiner{Plan: plan}
	f := &fleet{
		outcomes: map[pair]*outcome{}, protocols: plan.Protocols,
		mechanisms: plan.Mechanisms, service: plan.Service,
	}
	if err := e.resolveAll(ctx, f); err != nil {
		return nil, err
	}
	e.each(len(f.nodes), func(i int) { e.visit(ctx, f.nodes[i]) })
	if len(f.nodes) <= maxComplete || plan.AllPairs {
		e.offer(ctx, f, f.complete())
	} else {
		e.offer(ctx, f, f.ring())
		e.offer(ctx, f, f.representatives())
	}
	e.probe(ctx, f)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return f.report(), nil
}

// each runs do for 0 to n-1, some at a time.
func (e *examiner) each(n int, do func(int)) {
	var group sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		group.Go(func() { do(i); <-slots })
	}
	group.Wait()
}

// resolveAll adds the nodes of all targets.
func (e *examiner) resolveAll(ctx context.Context, f *fleet) error {
	resolved := make([][]*node, len(e.Targets))
	if len(resolved) <= MaxNodes {
		e.each(len(resolved), func(i int) { resolved[i] = e.resolve(ctx, e.Targets[i]) })
	}
	nodes := slices.Concat(resolved...)
	if n := max(len(resolved), len(nodes)); n > MaxNodes {
		return fmt.Errorf("there are %d nodes; the limit is %d", n, MaxNodes)
	}
	taken := map[string]bool{} // names, which tell nodes apart
	seen := map[[2]string]bool{}
	for _, n := range nodes {
		id := [2]string{n.address, n.serverName}
		if seen[id] {
			continue
		}
		seen[id] = true
		if taken[n.name] { // an address of two hosts
			n.name = n.host + "/" + n.address
		}
		taken[n.name] = true
		f.nodes = append(f.nodes, n)
	}
	return nil
}

// resolve returns a node for each address of the target.
func (e *examiner) resolve(ctx context.Context, target string) []*node {
	newNode := func(name, address, host string) *node {
		return &node{name: name, address: address, host: host, serverName: cmp.Or(e.Client.ServerName, host), speaks: map[Protocol]*speaker{}, missing: map[Protocol]error{}}
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		n := newNode(target, target, "")
		n.err = &Error{Unreachable, err}
		return []*node{n}
	}
	ctx, cancel := context.WithTimeout(ctx, e.Client.Timeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		n := newNode(target, target, host)
		n.err = &Error{Unreachable, err}
		return []*node{n}
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	ips = slices.Compact(ips)
	var nodes []*node
	for _, ip := range ips {
		address, name := net.JoinHostPort(ip.String(), port), target
		if len(ips) > 1 {
			name = address
		}
		nodes = append(nodes, newNode(name, address, host))
	}
	return nodes
}

// client is that of a node.
func (e *examiner) client(n *node) *Client {
	c := e.Client
	c.ServerName = n.serverName
	return &c
}

func (e *examiner) count() {
	if n := e.handshakes.Add(1); e.Progress != nil {
		e.Progress(int(n))
	}
}

// visit makes the full handshakes with a node.
func (e *examiner) visit(ctx context.Context, n *node) {
	if n.err != nil {
		return
	}
	c := e.client(n)
	for _, protocol := range e.Protocols {
		if n.isGone() {
			break
		}
		if slices.Contains(e.Mechanisms, ByTicket) {
			e.try(ctx, n, protocol, func(s *speaker) (*Handshake, error) {
				h, err := c.Handshake(ctx, n.address, protocol, nil)
				if err == nil && h.Session != nil {
					s.sessions = append(s.sessions, h.Session)
				}
				return h, err
			})
		}
		if protocol == TLS12 && slices.Contains(e.Mechanisms, ByID) && !n.isGone() {
			e.try(ctx, n, protocol, func(*speaker) (*Handshake, error) {
				id, h, err := c.StoreSession(ctx, n.address)
				if len(id) > 0 {
					n.ids = append(n.ids, id)
				}
				return h, err
			})
		}
	}
	for _, s := range n.speaks {
		if len(s.sessions) > 0 {
			s.lifetime = s.sessions[0].Lifetime()
		}
	}
	if len(n.speaks) == 0 {
		for _, err := range n.missing {
			n.err = err
		}
		if len(n.failures) > 0 {
			n.err = n.failures[0]
		}
	}
}

// isGone reports whether the node is not worth a try in another protocol.
func (n *node) isGone() bool {
	return len(n.speaks) == 0 && len(n.failures) > 0 && !isKind(n.failures[0], Refused)
}

// try makes full handshakes of one kind until the first or two fail.
func (e *examiner) try(ctx context.Context, n *node, protocol Protocol, handshake func(*speaker) (*Handshake, error)) {
	s := n.speaks[protocol]
	if s == nil {
		s = &speaker{}
	}
	failed := 0
	for range tries {
		h, err := handshake(s)
		e.count()
		switch {
		case ctx.Err() != nil:
			return
		case isKind(err, ProtocolMissing) && len(s.full) == 0:
			n.missing[protocol] = err
			return
		case err != nil:
			n.attempts++
			n.failures = append(n.failures, err)
			if failed++; failed == 2 || len(s.full) == 0 {
				return
			}
			continue
		}
		n.attempts++
		s.full = append(s.full, h.Took)
		n.speaks[protocol] = s
		n.leaf = h.Leaf
		if n.invalid == nil {
			n.invalid = h.Certificate
		}
	}
}

// offer makes the handshakes of the pairs, those with one node one after another.
func (e *examiner) offer(ctx context.Context, f *fleet, pairs []pair) {
	byNode := make([][]pair, len(f.nodes))
	for _, p := range pairs {
		if f.outcomes[p] == nil {
			f.outcomes[p] = &outcome{}
			byNode[p.to] = append(byNode[p.to], p)
		}
	}
	e.each(len(f.nodes), func(i int) {
		failed := 0 // pairs, one after another
		for _, p := range byNode[i] {
			o := f.outcomes[p]
			if failed == maxFailedPairs {
				o.failed = true
			} else if e.offerPair(ctx, f, p); o.failed {
				failed++
			} else {
				failed = 0
			}
		}
	})
}

func (e *examiner) offerPair(ctx context.Context, f *fleet, p pair) {
	from, to, o := f.nodes[p.from], f.nodes[p.to], f.outcomes[p]
	c := e.client(to)
	n := len(from.ids)
	if p.by == ByTicket {
		n = len(from.speaks[p.protocol].sessions)
	}
	if p.from != p.to {
		n = min(n, pairTries)
	}
	for i := range n {
		// Every other session, then the rest: a balancer that goes round would bring
		// each session back to its own process if they came in order.
		at := 2 * i
		if at >= n {
			at = (at - n) | 1
		}
		var resumed bool
		var err error
		if p.by == ByID {
			resumed, err = c.OfferID(ctx, to.address, from.ids[at])
		} else {
			var h *Handshake
			if h, err = c.Handshake(ctx, to.address, p.protocol, from.speaks[p.protocol].sessions[at]); err == nil {
				if resumed = h.Resumed; resumed {
					o.took = append(o.took, h.Took)
				}
			}
		}
		e.count()
		if ctx.Err() != nil {
			return
		}
		to.attempts++
		if err != nil {
			to.failures, o.failed = append(to.failures, err), true
			return
		}
		o.tries++
		if resumed {
			o.resumed++
		}
	}
}

// complete pairs each node with every one, itself included.
func (f *fleet) complete() (pairs []pair) {
	for from := range f.nodes {
		for to := range f.nodes {
			pairs = f.appendPairs(pairs, from, to)
		}
	}
	return pairs
}

// appendPairs appends the pairs of two nodes: one for each protocol that both speak and
// each mechanism.
func (f *fleet) appendPairs(pairs []pair, from, to int) []pair {
	for _, protocol := range f.protocols {
		if f.nodes[from].speaks[protocol] == nil || f.nodes[to].speaks[protocol] == nil {
			continue
		}
		for _, by := range f.mechanisms {
			if by == ByTicket || protocol == TLS12 {
				pairs = append(pairs, pair{from, to, protocol, by})
			}
		}
	}
	return pairs
}

// ring pairs each node with those behind it, in a circle in which those with the same
// key stand together. A circle that resumes all along has no difference in it.
func (f *fleet) ring() (pairs []pair) {
	order := make([]int, len(f.nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(f.nodes[a].class(), f.nodes[b].class()) })
	for i, from := range order {
		pairs = f.appendPairs(pairs, from, from)
		for next := 1; next <= neighbours; next++ {
			to := order[(i+next)%len(order)]
			pairs = f.appendPairs(f.appendPairs(pairs, from, to), to, from)
		}
	}
	return pairs
}

// representatives pairs one node of each group that resumes each other with one of each
// other group: without them, groups that the circle tears apart would seem to differ.
func (f *fleet) representatives() (pairs []pair) {
	for _, protocol := range f.protocols {
		for _, by := range f.mechanisms {
			groups := f.groups(f.speakers(protocol), []Protocol{protocol}, by)
			groups = groups[:min(len(groups), maxComplete)]
			for _, from := range groups {
				for _, to := range groups {
					if by == ByTicket || protocol == TLS12 {
						pairs = append(pairs, pair{from[0], to[0], protocol, by})
					}
				}
			}
		}
	}
	return pairs
}

// speakers are the nodes that speak the protocol.
func (f *fleet) speakers(protocol Protocol) (nodes []int) {
	for i, n := range f.nodes {
		if n.speaks[protocol] != nil {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// groups sorts nodes into those that resume each other both ways, directly or through
// others, in all the protocols; the largest first.
func (f *fleet) groups(nodes []int, protocols []Protocol, by Mechanism) (groups [][]int) {
	seen := map[int]bool{}
	for _, first := range nodes {
		if seen[first] {
			continue
		}
		seen[first] = true
		group := []int{first}
		for i := 0; i < len(group); i++ {
			for _, other := range nodes {
				if !seen[other] && f.mutual(group[i], other, protocols, by) {
					seen[other] = true
					group = append(group, other)
				}
			}
		}
		groups = append(groups, group)
	}
	slices.SortStableFunc(groups, func(a, b []int) int { return cmp.Compare(len(b), len(a)) })
	return groups
}

// mutual reports whether two nodes were paired, and resumed what was offered.
func (f *fleet) mutual(a, b int, protocols []Protocol, by Mechanism) bool {
	paired := false
	for _, protocol := range protocols {
		there, back := f.outcomes[pair{a, b, protocol, by}], f.outcomes[pair{b, a, protocol, by}]
		for _, o := range []*outcome{there, back} {
			if o == nil || o.failed || o.tries == 0 {
				continue
			}
			if !o.all() {
				return false
			}
			paired = true
		}
	}
	return paired
}

// probe finds out of the tickets of TLS 1.3 that were not resumed, though nothing shows
// that their key differs, whether they are decrypted.
func (e *examiner) probe(ctx context.Context, f *fleet) {
	byNode := make([][]pair, len(f.nodes))
	for p, o := range f.outcomes {
		from, to := f.nodes[p.from], f.nodes[p.to]
		if p.by == ByTicket && p.protocol == TLS13 && !o.failed && o.resumed < o.tries && from.class() == to.class() && len(from.speaks[TLS13].sessions) > 1 {
			byNode[p.to] = append(byNode[p.to], p)
		}
	}
	e.each(len(f.nodes), func(i int) {
		for _, p := range byNode[i] {
			to, sessions := f.nodes[p.to], f.nodes[p.from].speaks[TLS13].sessions
			decoy, err := sessions[0].decoy(sessions[1])
			if err != nil {
				continue
			}
			h, err := e.client(to).Handshake(ctx, to.address, TLS13, decoy)
			e.count()
			if isKind(err, Refused) {
				f.outcomes[p].decrypts = yes
			} else if err == nil && !h.Resumed {
				f.outcomes[p].decrypts = no
			}
		}
	})
}

// keys are the names of the keys that encrypted the node's tickets, in the order in
// which they appeared; nil when its tickets do not begin with a name. Tickets that are
// all different at their beginning have no name there.
func (n *node) keys() (names []string) {
	tickets := 0
	for _, protocol := range []Protocol{TLS12, TLS13} {
		s := n.speaks[protocol]
		if s == nil {
			continue
		}
		for _, session := range s.sessions {
			name, ok := session.KeyName()
			if !ok {
				continue
			}
			tickets++
			if text := hex.EncodeToString(name[:]); !slices.Contains(names, text) {
				names = append(names, text)
			}
		}
	}
	if len(names) == tickets && tickets > 1 {
		return nil
	}
	return names
}

// class is the name of the node's key; empty without a name. Nodes of different classes
// have different keys.
func (n *node) class() string {
	if names := n.keys(); len(names) > 0 {
		return names[0]
	}
	return ""
}
