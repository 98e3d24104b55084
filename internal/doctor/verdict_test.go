package doctor

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/client"
)

// seen is a node for the verdict: protocols and the keys of its tickets, a letter
// each. "?" is a ticket without a name, "=" a bare session ID.
func seen(protocols, keys string) *node {
	n := &node{speaks: map[Protocol]*speaker{}, missing: map[Protocol]error{}}
	for _, protocol := range []Protocol{TLS12, TLS13} {
		if !strings.Contains(protocols, protocol.String()) {
			n.missing[protocol] = &Error{ProtocolMissing, errors.New("x")}
			continue
		}
		s := &speaker{full: []time.Duration{time.Millisecond}, lifetime: time.Hour}
		for i := range tries {
			if keys == "" {
				break
			}
			key := keys[i%len(keys)]
			ticket := []byte(strings.Repeat(string(key), 100))
			switch key {
			case '?':
				ticket[0], ticket[1] = byte(i), byte(protocol)
			case '=':
				ticket = ticket[:32]
			}
			s.sessions = append(s.sessions, &Session{Protocol: protocol, Ticket: ticket})
		}
		n.speaks[protocol] = s
	}
	return n
}

// name is the hex of a key's name.
func name(key byte) string { return strings.Repeat(fmt.Sprintf("%02x", key), keyNameSize) }

func failed(kind Kind) *node {
	n := &node{err: &Error{kind, errors.New("x")}}
	if kind == ProtocolMissing {
		n.missing = map[Protocol]error{TLS12: n.err, TLS13: n.err}
	}
	return n
}

func flaky() *node {
	n := seen("1.2 1.3", "a")
	n.attempts, n.failures = 8, []error{&Error{Refused, errors.New("x")}}
	return n
}

func invalid(err error) *node {
	n := seen("1.2 1.3", "a")
	n.invalid = err
	return n
}

// expired is a node with an expired certificate, and what x509 says of it.
func expired(detail string) *node {
	return invalid(x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired, Detail: detail})
}

const both = "1.2 1.3"

var byBoth = []Mechanism{ByTicket, ByID}

func TestVerdict(t *testing.T) {
	t.Parallel()
	now := time.Now()
	// Rows are nodes whose sessions are offered, columns those that they are offered
	// to: y is resumed, n not, s sometimes; d not resumed but decrypted, u not
	// decrypted.
	for _, test := range []struct {
		name       string
		nodes      []*node
		tickets    string // of both protocols
		tickets12  string // of TLS 1.2, where it differs
		ids        string
		mechanisms []Mechanism
		protocols  []Protocol
		service    string // roles of keys: "c:b p:a"
		want       string
		text       string // in the first
	}{
		{name: "healthy", nodes: []*node{seen(both, "a"), seen(both, "a")}, tickets: "yy yy"},
		{name: "healthy, and IDs of its own", nodes: []*node{seen(both, "a"), seen(both, "a")}, tickets: "yy yy", ids: "yn ny"},
		{name: "healthy without names", nodes: []*node{seen(both, "?"), seen(both, "?")}, tickets: "yy yy"},
		{name: "one node", nodes: []*node{seen(both, "a")}, tickets: "y"},
		{name: "TLS 1.2 everywhere", nodes: []*node{seen("1.2", "a"), seen("1.2", "a")}, tickets: "yy yy"},
		{name: "IDs instead of tickets", nodes: []*node{seen("1.2", ""), seen("1.2", "")}, ids: "yy yy"},
		{name: "shared sessions of TLS 1.3", nodes: []*node{seen("1.3", "="), seen("1.3", "=")}, tickets: "yy yy"},

		{name: "nobody there", nodes: []*node{seen(both, "a"), failed(Unreachable)}, tickets: "y- --", want: "error unreachable 1"},
		{name: "no TLS", nodes: []*node{seen(both, "a"), failed(NotTLS)}, tickets: "y- --", want: "error unreachable 1", text: "port"},
		{name: "hangs", nodes: []*node{seen(both, "a"), failed(NoAnswer)}, tickets: "y- --", want: "error unreachable 1", text: "in time"},
		{name: "wants a certificate", nodes: []*node{failed(Refused)}, want: "error unreachable 0", text: "--cert"},
		{name: "flaky", nodes: []*node{seen(both, "a"), flaky()}, tickets: "yy yy", want: "error unreachable 1", text: "1 of 8"},
		{name: "no good certificate", nodes: []*node{seen(both, "a"), invalid(errors.New("bad\x1b[31m"))}, tickets: "yy yy", want: "error certificate 1", text: "bad\uFFFD[31m"},
		{name: "expired, checked at two times", nodes: []*node{expired("now is 11:59:59"), expired("now is 12:00:00")}, tickets: "yy yy", want: "error certificate 0 1", text: "Renew"},
		{name: "another name", nodes: []*node{invalid(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"})}, tickets: "y", want: "error certificate 0", text: "--servername"},
		{name: "unknown CA", nodes: []*node{invalid(x509.UnknownAuthorityError{})}, tickets: "y", want: "error certificate 0", text: "--ca"},
		{name: "TLS 1.3 off", nodes: []*node{seen(both, "a"), seen("1.2", "a")}, tickets: "yy yy", want: "error protocol_missing 1", text: "TLS 1.3 is missing, but enabled on 1 other node:"},
		{name: "TLS 1.2 off", nodes: []*node{seen(both, "a"), seen("1.3", "a")}, tickets: "yy yy", want: "error protocol_missing 1", text: "TLS 1.2"},
		{name: "no version in common", nodes: []*node{seen("1.2", "a"), seen("1.3", "a")}, tickets: "yy yy", want: "error protocol_missing 0; error protocol_missing 1"},
		{name: "the version asked for is missing everywhere", nodes: []*node{failed(ProtocolMissing)}, protocols: []Protocol{TLS13}, want: "error protocol_missing 0"},

		{name: "no tickets on one", nodes: []*node{seen(both, "a"), seen(both, "")}, tickets: "yn --", want: "error no_tickets 1", text: "returning clients"},
		{name: "no tickets on one that keeps sessions", nodes: []*node{seen(both, "a"), seen(both, "=")}, tickets: "yn ny", ids: "yn ny", want: "error no_tickets 1", text: "clients that return to another node"},
		{name: "no tickets in TLS 1.2 alone", nodes: []*node{seen(both, "a"), seen(both, "a")}, tickets: "yy yy", tickets12: "-- --", want: "error no_tickets 0 1"},
		{name: "nothing at all", nodes: []*node{seen("1.2", ""), seen("1.2", "")}, ids: "nn nn", want: "error no_tickets 0 1"},
		{name: "no tickets, IDs not asked for", nodes: []*node{seen("1.2", "")}, mechanisms: []Mechanism{ByTicket}, want: "error no_tickets 0"},

		{name: "other keys on one of two", nodes: []*node{seen(both, "a"), seen(both, "b")}, tickets: "yn ny", want: "error ticket_keys_differ 0 1"},
		{name: "other keys on one of three", nodes: []*node{seen(both, "a"), seen(both, "b"), seen(both, "a")}, tickets: "yny nyn yny", want: "error ticket_keys_differ 1", text: "2 other nodes"},
		{name: "other keys without names", nodes: []*node{seen(both, "?"), seen(both, "?"), seen(both, "?")}, tickets: "yyu yyu uuy", want: "error ticket_keys_differ 2"},
		{name: "another kind of server", nodes: []*node{seen(both, "a"), seen(both, "a"), seen(both, "?")}, tickets: "yyn yyn nny", want: "error ticket_keys_differ 2", text: "kind"},
		{name: "swapped", nodes: []*node{seen(both, "a"), seen(both, "a"), seen(both, "a")}, tickets: "yyu yyu uuy", want: "error swapped_layout 2"},
		{name: "swapped on one of two", nodes: []*node{seen(both, "a"), seen(both, "a")}, tickets: "yu uy", want: "error swapped_layout 0 1"},
		{name: "context", nodes: []*node{seen(both, "a"), seen(both, "a"), seen(both, "a")}, tickets: "yyd yyd ddy", want: "error not_resumed_with_same_key 2", text: "ServerName"},
		{name: "context without names", nodes: []*node{seen(both, "?"), seen(both, "?")}, tickets: "yd dy", want: "error not_resumed_with_same_key 0 1"},
		{name: "swapped on one, context on another", nodes: []*node{seen(both, "a"), seen(both, "a"), seen(both, "a"), seen(both, "a")}, tickets: "yyud yyud uuyu dduy", want: "error swapped_layout 2; error not_resumed_with_same_key 3"},
		{name: "swapped on one, context on each", nodes: []*node{seen(both, "a"), seen(both, "a"), seen(both, "a")}, tickets: "yud uyu duy", want: "error swapped_layout 1; error not_resumed_with_same_key 0 2"},
		{name: "swapped or context, in TLS 1.2", nodes: []*node{seen("1.2", "a"), seen("1.2", "a")}, tickets: "yn ny", want: "error not_resumed_with_same_key 0 1", text: "swapped"},
		{name: "clocks", nodes: []*node{seen(both, "a"), seen(both, "a")}, tickets: "yd yy", want: "error not_resumed_with_same_key 0 1", text: "clocks"},
		{name: "clocks, with the ticket too old to be looked into", nodes: []*node{seen(both, "a"), seen(both, "a")}, tickets: "yu yy", want: "error not_resumed_with_same_key 0 1", text: "clocks"},
		{name: "one direction without names", nodes: []*node{seen(both, "?"), seen(both, "?")}, tickets: "yu yy", want: "error ticket_keys_differ 0 1", text: "one direction"},
		{name: "rotation under way", nodes: []*node{seen(both, "a"), seen(both, "b")}, tickets: "yy yy", want: "warning ticket_keys_differ 0 1"},
		{name: "missed a rotation", nodes: []*node{seen(both, "b"), seen(both, "a"), seen(both, "b")}, tickets: "yny yyy yny", want: "error stale_key 1"},
		{name: "missed one, and another has other keys", nodes: []*node{seen(both, "b"), seen(both, "a"), seen(both, "b"), seen(both, "c")}, tickets: "ynyn yyyn ynyn nnny", want: "error ticket_keys_differ 3; error stale_key 1"},

		{name: "two processes with keys of their own", nodes: []*node{seen(both, "ab"), seen(both, "a")}, tickets: "ss sy", want: "error ticket_keys_differ 0", text: "from one try to the next"},
		{name: "two processes without names", nodes: []*node{seen(both, "?")}, tickets: "s", want: "error ticket_keys_differ 0"},
		{name: "two processes, one behind", nodes: []*node{seen(both, "ab"), seen(both, "b")}, tickets: "yy yy", want: "warning ticket_keys_differ 0"},
		{name: "now and then, between two of three", nodes: []*node{seen(both, "a"), seen(both, "a"), seen(both, "a")}, tickets: "ysy yyy yyy", want: "error not_resumed_with_same_key 0 1", text: "Some tickets"},
		{name: "two processes, one of them ahead of another node", nodes: []*node{seen(both, "ab"), seen(both, "a")}, tickets: "ys yy", want: "error ticket_keys_differ 0", text: "not all resume everywhere"},
		{name: "not even its own", nodes: []*node{seen(both, "a"), seen(both, "a")}, tickets: "nn nn", want: "error not_resumed_with_same_key 0 1"},

		{name: "IDs not shared", nodes: []*node{seen("1.2", ""), seen("1.2", "")}, ids: "yn ny", want: "error id_cache_not_shared 0 1"},
		{name: "IDs not shared by one of three", nodes: []*node{seen("1.2", ""), seen("1.2", ""), seen("1.2", "")}, ids: "yyn yyn nny", want: "error id_cache_not_shared 2"},
		{name: "IDs not shared, and asked for", nodes: []*node{seen("1.2", ""), seen("1.2", "")}, mechanisms: []Mechanism{ByID}, protocols: []Protocol{TLS12}, ids: "yn ny", want: "error id_cache_not_shared 0 1"},
		{name: "IDs of several processes", nodes: []*node{seen("1.2", ""), seen("1.2", "")}, ids: "sn ny", want: "error id_cache_not_shared 0", text: "processes"},
		{name: "IDs kept by one", nodes: []*node{seen("1.2", ""), seen("1.2", "")}, ids: "yn nn", want: "error id_cache_not_shared 1"},

		{name: "the service's current key", nodes: []*node{seen(both, "a"), seen(both, "a")}, tickets: "yy yy", service: "c:a n:b"},
		{name: "the service's next key", nodes: []*node{seen(both, "b"), seen(both, "b")}, tickets: "yy yy", service: "c:a n:b"},
		{name: "the service's previous key, decrypted", nodes: []*node{seen(both, "a"), seen(both, "b")}, tickets: "yy yy", service: "c:b p:a", want: "warning stale_key 0"},
		{name: "one of several previous keys", nodes: []*node{seen(both, "a")}, tickets: "y", service: "c:d n:e p:c p:a p:f", want: "warning stale_key 0", text: "replaced at " + now.Add(-time.Hour).UTC().Format(time.RFC3339)},
		{name: "the service's previous key", nodes: []*node{seen(both, "a"), seen(both, "b")}, tickets: "yn ny", service: "c:b p:a", want: "error stale_key 0"},
		{name: "a key that the service has not", nodes: []*node{seen(both, "x"), seen(both, "b")}, tickets: "yn ny", service: "c:b", want: "error unknown_key 0"},
		{name: "a key that has not reached the server", nodes: []*node{seen(both, "a")}, tickets: "y", service: "c:b p:a", want: "warning stale_key 0", text: "Consumer Edge-7/web reports that it holds the newest keys"},
		{name: "a key that has not reached the consumer", nodes: []*node{seen(both, "a")}, tickets: "y", service: "c:b p:a", want: "warning stale_key 0", text: "Consumer edge-7.example/api is failed since 2026-11-30T00:00:00Z: no such file."},
		{name: "the service's key, swapped", nodes: []*node{seen(both, "a"), seen(both, "a")}, tickets: "yu uy", service: "c:a", want: "error swapped_layout 0 1"},
		{name: "tickets outlive keys", nodes: []*node{seen(both, "a"), seen(both, "a")}, tickets: "yy yy", service: "c:a p:b 20m", want: "warning lifetime_beyond_keys 0 1"},
		{name: "keys outlive tickets", nodes: []*node{seen(both, "a")}, tickets: "y", service: "c:a p:b p:c 31m"},
		{name: "too young to tell", nodes: []*node{seen(both, "a")}, tickets: "y", service: "c:a o:b 20m"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := &fleet{
				nodes: test.nodes, outcomes: map[pair]*outcome{},
				protocols: []Protocol{TLS12, TLS13}, mechanisms: byBoth,
			}
			if test.protocols != nil {
				f.protocols = test.protocols
			}
			if test.mechanisms != nil {
				f.mechanisms = test.mechanisms
			}
			if test.service != "" {
				f.service = serviceOf(now, test.service)
			}
			for i, n := range f.nodes {
				n.name, n.host = fmt.Sprint(i), "edge-7.example"
				if test.tickets12 != "" {
					n.speaks[TLS12].sessions = nil
				}
			}
			for _, p := range f.complete() {
				matrix := test.tickets
				if p.protocol == TLS12 && test.tickets12 != "" {
					matrix = test.tickets12
				}
				if p.by == ByID {
					matrix = test.ids
				}
				f.outcomes[p] = outcomeOf(p, matrix)
			}
			r := f.report()
			var got []string
			for _, found := range r.Findings {
				slices.Sort(found.Nodes)
				got = append(got, fmt.Sprintf("%s %s %s", found.Severity, found.Code, strings.Join(found.Nodes, " ")))
			}
			if strings.Join(got, "; ") != test.want {
				t.Fatalf("found %q, want %q\n%+v", strings.Join(got, "; "), test.want, r.Findings)
			}
			if test.text != "" && !strings.Contains(r.Findings[0].Text, test.text) {
				t.Errorf("%q is not in %q", test.text, r.Findings[0].Text)
			}
			for _, found := range r.Findings {
				if strings.Contains(found.Text, "edge-8") {
					t.Errorf("a consumer of another host: %s", found.Text)
				}
			}
			if want := !strings.Contains(test.want, "error"); r.Healthy() != want {
				t.Errorf("healthy: %t", r.Healthy())
			}
			var out strings.Builder
			if err := r.WriteTable(&out, false); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				if len([]rune(line)) > width+1 || strings.ContainsRune(line, '\x1b') {
					t.Errorf("the line %q", line)
				}
			}
		})
	}
}

// outcomeOf reads the cell of the pair.
func outcomeOf(p pair, matrix string) *outcome {
	rows := strings.Fields(matrix)
	if p.from >= len(rows) {
		return &outcome{}
	}
	o := &outcome{tries: 2}
	switch rows[p.from][p.to] {
	case 'y':
		o.resumed, o.took = 2, []time.Duration{time.Millisecond, time.Millisecond}
	case 's':
		o.resumed = 1
	case '-':
		o.tries = 0
	case 'd':
		if p.protocol == TLS13 {
			o.decrypts = yes
		}
	case 'u':
		if p.protocol == TLS13 {
			o.decrypts = no
		}
	}
	return o
}

// serviceOf has keys by role, c, n, p or o, which is a previous one made at the same
// time as the one before, and rotates them in that interval, if any.
func serviceOf(now time.Time, text string) *Service {
	roles := map[byte]client.TicketKeyRole{'c': "current", 'n': "next", 'p': "previous", 'o': "previous"}
	set := &client.TicketKeys{Generation: 7}
	created, activated := now, now
	for word := range strings.FieldsSeq(text) {
		if interval, err := time.ParseDuration(word); err == nil {
			set.NextRotationAt = new(now.Add(interval))
			continue
		}
		if word[0] != 'o' {
			created = created.Add(-time.Hour)
		}
		k := client.TicketKey{Name: name(word[2]), Role: roles[word[0]], CreatedAt: created}
		if word[0] != 'n' {
			k.ActivatedAt, activated = new(activated), activated.Add(-time.Hour)
		}
		set.Keys = append(set.Keys, k)
	}
	at := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	return &Service{Keys: set, Consumers: []client.Consumer{
		{Name: "Edge-7/web", State: client.ConsumerCurrent, Generation: 7, Since: at},
		{Name: "edge-7.example/api", State: client.ConsumerFailed, Behind: true, Since: at, Detail: new("no such file")},
		{Name: "edge-8/web", State: client.ConsumerMissing, Since: at},
	}}
}

// Whatever the handshakes show: a ticket that does not resume makes an error, and
// tickets of one key that all resume make none.
func TestVerdictMissesNothing(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	kinds := []string{"a", "a", "a", "b", "?", "ab", "=", ""}
	for range 20000 {
		f := &fleet{outcomes: map[pair]*outcome{}, protocols: []Protocol{TLS12, TLS13}, mechanisms: byBoth}
		for i := range 1 + random.IntN(4) {
			n := seen([]string{both, both, "1.2", "1.3"}[random.IntN(4)], kinds[random.IntN(len(kinds))])
			n.name = fmt.Sprint(i)
			f.nodes = append(f.nodes, n)
		}
		cells := []string{"y", "yyyyn", "ynsud"}[random.IntN(3)]
		v := verdict{fleet: f}
		broken, sound := false, true
		for _, p := range f.complete() {
			o := outcomeOf(pair{protocol: p.protocol}, string(cells[random.IntN(len(cells))]))
			f.outcomes[p] = o
			if p.by == ByTicket {
				broken = broken || v.issues(p.from, p.protocol) && v.issues(p.to, p.protocol) && !o.all()
				sound = sound && o.all() && f.nodes[p.from].class() == name('a') && len(f.nodes[p.from].keys()) == 1
			}
		}
		for _, n := range f.nodes {
			sound = sound && len(n.speaks) == 2
		}
		r := f.report()
		if broken && r.Healthy() || sound && len(r.Findings) > 0 {
			t.Fatalf("seed %d: broken %t, sound %t: %+v", seed, broken, sound, r)
		}
	}
}
