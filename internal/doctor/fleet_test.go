package doctor

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// goFleet serves a node for each key.
func goFleet(t *testing.T, keys ...byte) (targets []string) {
	t.Helper()
	cert := certificate(t, time.Now().Add(time.Hour))
	for _, key := range keys {
		config := &tls.Config{Certificates: []tls.Certificate{cert}}
		config.SetSessionTicketKeys([][32]byte{{key}})
		targets = append(targets, serveTLS(t, config))
	}
	return targets
}

func examine(t *testing.T, targets []string, change func(*Plan)) *Report {
	t.Helper()
	plan := Plan{
		Targets: targets, Client: Client{Insecure: true, Timeout: time.Minute},
		Protocols: []Protocol{TLS12, TLS13}, Mechanisms: byBoth,
	}
	if change != nil {
		change(&plan)
	}
	report, err := Examine(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// With more nodes than are paired each with each, the odd ones are still found, also
// when they do not stand together; and no others.
func TestManyNodes(t *testing.T) {
	t.Parallel()
	apart := []byte{1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1}
	for name, test := range map[string]struct {
		keys []byte
		all  bool
		odd  []int
	}{
		"healthy":           {bytes.Repeat([]byte{1}, 14), false, nil},
		"two odd":           {apart, false, []int{3, 9}},
		"two odd, complete": {apart, true, []int{3, 9}},
		"mixed":             {[]byte{1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1}, false, []int{1, 3, 5, 7, 9, 11}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			targets := goFleet(t, test.keys...)
			r := examine(t, targets, func(p *Plan) { p.AllPairs, p.Protocols = test.all, []Protocol{TLS12} })
			var got, want []string
			for _, f := range r.Findings {
				if f.Code != CodeTicketKeysDiffer {
					t.Errorf("%+v", f)
				}
				got = append(got, f.Nodes...)
			}
			for _, i := range test.odd {
				want = append(want, targets[i])
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("found %v, want %v", got, want)
			}
			if n := len(targets); test.all != (len(r.Resumptions) == 2*n*n) { // by ticket and ID
				t.Errorf("%d pairs", len(r.Resumptions))
			}
			if err := r.WriteTable(&bytes.Buffer{}, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// Processes with keys of their own are found behind a balancer that goes round, too:
// it must not bring every session back to where it began.
func TestBalancer(t *testing.T) {
	t.Parallel()
	cert := certificate(t, time.Now().Add(time.Hour))
	for processes := 2; processes <= tries; processes++ {
		configs := make([]*tls.Config, processes)
		for i := range configs {
			configs[i] = &tls.Config{Certificates: []tls.Certificate{cert}}
			configs[i].SetSessionTicketKeys([][32]byte{{byte(i)}})
		}
		var turn atomic.Uint32
		target := serveTLS(t, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return configs[int(turn.Add(1))%processes], nil
		}})
		for _, protocol := range []Protocol{TLS12, TLS13} {
			r := examine(t, []string{target}, func(p *Plan) { p.Protocols, p.Mechanisms = []Protocol{protocol}, []Mechanism{ByTicket} })
			if r.Healthy() {
				t.Errorf("%d processes, TLS %s: %+v", processes, protocol, r)
			}
			var table bytes.Buffer
			if err := r.WriteTable(&table, false); err != nil {
				t.Fatal(err)
			}
			if r.Resumptions[0].ResumedMS > 0 != strings.Contains(table.String(), " some\n") {
				t.Errorf("%d processes, TLS %s: %s", processes, protocol, &table)
			}
		}
	}
}

// Each address of a name is a node, once.
func TestAddressesOfAName(t *testing.T) {
	t.Parallel()
	_, port, err := net.SplitHostPort(goFleet(t, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	distinct := map[string]bool{}
	for _, ip := range ips {
		distinct[ip.Unmap().String()] = true
	}
	target := net.JoinHostPort("localhost", port)
	r := examine(t, []string{target, target}, nil)
	if len(r.Nodes) != len(distinct) {
		t.Errorf("%+v, of %v", r.Nodes, ips)
	}
}

// A node is examined once, and no two have the same name in the report.
func TestNodesAreDistinct(t *testing.T) {
	t.Parallel()
	targets := []string{"127.0.0.1:443", "127.0.0.1:443", "localhost:443", "127.0.0.1:444", "none.invalid:443", "none.invalid:443"}
	nodes := func(serverName string) (names []string) {
		e := &examiner{Plan: Plan{Targets: targets, Client: Client{ServerName: serverName, Timeout: time.Minute}}}
		f := &fleet{}
		if err := e.resolveAll(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		for _, n := range f.nodes {
			names = append(names, n.name)
		}
		slices.Sort(names)
		if len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("two nodes of one name: %v", names)
		}
		return names
	}
	// Without a server name, localhost is another virtual host of the same server.
	if one, each := nodes("example.test"), nodes(""); len(each) != len(one)+1 {
		t.Errorf("as one server name: %v, as several: %v", one, each)
	}
}

func TestTooManyNodes(t *testing.T) {
	t.Parallel()
	plan := Plan{Targets: make([]string, MaxNodes+1), Client: Client{Timeout: time.Minute}}
	for i := range plan.Targets {
		plan.Targets[i] = fmt.Sprintf("127.0.0.1:%d", 1+i)
	}
	if r, err := Examine(t.Context(), plan); err == nil {
		t.Errorf("%d nodes", len(r.Nodes))
	}
}

// Of a node that fails while sessions are offered to it, not each pair is awaited.
func TestNodeFailsMidway(t *testing.T) {
	t.Parallel()
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t, time.Now().Add(time.Hour))}}
	var connections atomic.Int64
	failing := listen(t, func(conn net.Conn) {
		if connections.Add(1) <= tries {
			reply(tls.Server(conn, config))
		}
	})
	targets := append(goFleet(t, bytes.Repeat([]byte{1}, maxComplete-1)...), failing)
	r := examine(t, targets, func(p *Plan) { p.Protocols, p.Mechanisms = []Protocol{TLS12}, []Mechanism{ByTicket} })
	if n := connections.Load(); n != tries+maxFailedPairs {
		t.Errorf("%d handshakes", n)
	}
	if len(r.Findings) == 0 || r.Findings[0].Code != CodeUnreachable || !slices.Equal(r.Findings[0].Nodes, []string{failing}) {
		t.Errorf("%+v", r.Findings)
	}
}

// A server that sends without end does not keep the doctor.
func TestEndlessServers(t *testing.T) {
	t.Parallel()
	pour := func(first []byte) string {
		return listen(t, func(c net.Conn) {
			_, _ = c.Write(first)
			for {
				if _, err := c.Write(append([]byte{recordHandshake, 3, 3, 0x10, 0}, make([]byte, 0x1000)...)); err != nil {
					return
				}
			}
		})
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t, time.Now().Add(time.Hour))}}
	chatty := listen(t, func(c net.Conn) {
		server := tls.Server(c, config)
		for {
			if _, err := server.Write(make([]byte, 1<<14)); err != nil {
				return
			}
		}
	})
	if r := examine(t, []string{chatty}, nil); r.Nodes[0].Error != "" {
		t.Errorf("%+v", r.Nodes)
	}
	slow := listen(t, func(c net.Conn) {
		for { // a byte at a time
			if _, err := c.Write([]byte{recordHandshake}); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	r := examine(t, []string{pour(nil), slow}, func(p *Plan) { p.Client.Timeout = time.Second })
	if r.Nodes[0].Error == "" || r.Nodes[1].Error == "" {
		t.Errorf("%+v", r.Nodes)
	}
	client := &Client{Insecure: true, Timeout: time.Second}
	if _, err := client.OfferID(t.Context(), pour(nil), []byte{1}); err == nil {
		t.Error("a session ID resumes at a server that sends none")
	}
}

func TestReportFormats(t *testing.T) {
	t.Parallel()
	targets := append(goFleet(t, 1, 1, 2), "127.0.0.1:1")
	r := examine(t, targets, nil)

	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`{"nodes":[{"address":"` + targets[0] + `","protocols":["1.2","1.3"],"ticket_lifetime_seconds":604800},`,
		`{"address":"127.0.0.1:1","protocols":[],"error":"no connection: `,
		`"from":"` + targets[0] + `","to":"` + targets[2] + `","protocol":"1.3","by":"ticket","resumed":false,"full_ms":`,
		`"findings":[{"code":"unreachable","severity":"error","nodes":["127.0.0.1:1"],"text":"No handshake: no connection: `,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}

	path := filepath.Join(t.TempDir(), "doctor.prom")
	for range 2 { // it is replaced
		if err := r.WriteMetrics(path, time.Unix(1700000000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	metrics, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\nsessapi_doctor_healthy 0\n",
		"\nsessapi_doctor_last_run_timestamp_seconds 1.7e+09\n",
		`sessapi_doctor_findings{code="ticket_keys_differ",severity="error"} 1`,
		`sessapi_doctor_node_up{node="127.0.0.1:1"} 0`,
		`sessapi_doctor_node_up{node="` + targets[0] + `"} 1`,
		`sessapi_doctor_resumed{by="ticket",from="` + targets[0] + `",protocol="1.3",to="` + targets[1] + `"} 1`,
		`sessapi_doctor_resumed{by="ticket",from="` + targets[0] + `",protocol="1.3",to="` + targets[2] + `"} 0`,
		`sessapi_doctor_ticket_lifetime_seconds{node="` + targets[0] + `"} 604800`,
	} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("no %s in\n%s", want, metrics)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v: node exporter is another user", info.Mode(), err)
	}

	var table bytes.Buffer
	if err := r.WriteTable(&table, true); err != nil || !strings.Contains(table.String(), "\x1b[31m") {
		t.Errorf("no colours (%v): %s", err, &table)
	}
}
