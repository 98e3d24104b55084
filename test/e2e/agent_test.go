package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/api"
	handshakes "github.com/sessapi/sessapi/internal/doctor"
)

var (
	rotations = flag.Int("rotations", 2, "how many rotations the agents go through under load")
	faults    = flag.Int("faults", 3, "how many kinds of faults the agents go through")
	faultSeed = flag.Uint64("fault-seed", 0, "order of the faults; 0 is any")
)

// delivered is a kind of server that an agent keeps in step.
type delivered struct {
	name    string
	configs string // folder of its configuration in testdata/agent
	command []string
	target  string // its target in the agent's configuration
	// oneKey: it has the current key and no other, so that no ticket outlives it.
	oneKey bool
}

// deliveredServers are all kinds of real servers that Debian has.
var deliveredServers = []delivered{
	{
		name: "nginx", configs: "nginx",
		command: []string{"nginx", "-e", "stderr", "-c", "${DIR}/nginx.conf"},
		target:  `kind: nginx, file: "${DIR}/web.{key}.key", keys: 4, test: [nginx, -e, stderr, -t, -c, "${DIR}/nginx.conf"], reload: ["${DIR}/reload.sh"], timeout: 5s`,
	},
	{
		name: "haproxy-socket", configs: "haproxy",
		command: []string{"haproxy", "-f", "${DIR}/haproxy.cfg"},
		target:  `kind: haproxy, file: "${DIR}/ticket.keys", socket: "${DIR}/agent.sock"`,
	},
	{
		name: "haproxy-reload", configs: "haproxy",
		command: []string{"haproxy", "-W", "-p", "${DIR}/haproxy.pid", "-f", "${DIR}/haproxy.cfg"},
		target:  `kind: haproxy, file: "${DIR}/ticket.keys", reload: {signal: USR2, pid_file: "${DIR}/haproxy.pid"}`,
	},
	{
		name: "httpd", configs: "httpd",
		command: []string{"apache2", "-D", "FOREGROUND", "-f", "${DIR}/httpd.conf"},
		target:  `kind: httpd, file: "${DIR}/ticket.key", test: [apache2, -t, -f, "${DIR}/httpd.conf"], reload: {signal: USR1, pid_file: "${DIR}/httpd.pid"}`,
		oneKey:  true,
	},
	{
		name: "h2o", configs: "h2o",
		command: []string{"h2o", "-c", "${DIR}/h2o.yaml"},
		target:  `kind: h2o, file: "${DIR}/ticket-keys.yaml"`,
	},
	{
		name: "ats", configs: "trafficserver",
		command: []string{"traffic_manager", "--nosyslog", "--run-root=${DIR}/runroot.yaml"},
		target:  `kind: ats, file: "${DIR}/ticket.keys", reload: [traffic_ctl, "--run-root=${DIR}/runroot.yaml", config, reload]`,
	},
	{
		name: "nghttpx", configs: "nghttpx",
		command: []string{"nghttpx", "--conf=${DIR}/nghttpx.conf"},
		target:  `kind: nghttpx, file: "${DIR}/web.{key}.key", keys: 4, reload: {signal: HUP, pid_file: "${DIR}/nghttpx.pid"}`,
	},
	{
		name: "dnsdist", configs: "dnsdist",
		command: []string{"dnsdist", "--supervised", "--disable-syslog", "-C", "${DIR}/dnsdist.conf"},
		target:  `kind: dnsdist, file: "${DIR}/ticket.keys", reload: [dnsdist, -C, "${DIR}/dnsdist.conf", -e, "getTLSContext(0):loadTicketsKeys('${DIR}/ticket.keys')"]`,
	},
}

// lighttpdDelivered is apart: it looks at its file every 64 seconds.
var lighttpdDelivered = delivered{
	name: "lighttpd", configs: "lighttpd",
	command: []string{"lighttpd", "-D", "-f", "${DIR}/lighttpd.conf"},
	target:  `kind: lighttpd, file: "${DIR}/ticket.stek", reload: {signal: USR1, pid_file: "${DIR}/lighttpd.pid"}`,
}

// edge is one server that an agent keeps in step.
type edge struct {
	*process
	*delivered
	dir, port string
	control   string // port of its console, if it has one
}

// placeEdge makes the folder of a server, with its configuration and certificate.
func placeEdge(t *testing.T, d *delivered, pem []byte) *edge {
	t.Helper()
	dir := shortDir(t)
	give(t, dir)
	e := &edge{delivered: d, dir: dir, port: freePort(t), control: freePort(t)}
	e.write(t, "cert.pem", pem)
	configs := filepath.Join("testdata/agent", d.configs)
	files, err := os.ReadDir(configs)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		e.write(t, file.Name(), []byte(e.expand(string(readFile(t, filepath.Join(configs, file.Name()))))))
	}
	return e
}

func (e *edge) expand(text string) string {
	return strings.NewReplacer("${DIR}", e.dir, "${PORT}", e.port, "${CONTROL}", e.control).Replace(text)
}

// write puts a file in place that the server alone can read.
func (e *edge) write(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(e.dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	give(t, path+".new")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (e *edge) start(t *testing.T) {
	t.Helper()
	command := make([]string, len(e.command))
	for i, word := range e.command {
		command[i] = e.expand(word)
	}
	cmd := unprivileged(exec.Command(need(t, command[0]), command[1:]...))
	cmd.Dir = e.dir
	e.process = startCommand(t, cmd)
	awaitListening(t, e.addr())
}

func (e *edge) addr() string { return "127.0.0.1:" + e.port }

// unprivileged has a command run without the privileges of root.
func unprivileged(cmd *exec.Cmd) *exec.Cmd {
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// edgePair is two servers of a kind and the agent that keeps them in step.
type edgePair struct {
	*delivered
	instances [2]*edge
	agent     *process
	config    string // file of the agent
}

// edgeSite is a service with pairs of servers.
type edgeSite struct {
	port    string // of the service
	args    []string
	service *process
	client  *client.Client
	pairs   []*edgePair
}

// openSite starts a service, and with the keys that agents brought them, servers.
func openSite(t *testing.T, servers []delivered) *edgeSite {
	t.Helper()
	dir := t.TempDir()
	s := &edgeSite{port: freePort(t)}
	sealKey := filepath.Join(dir, "seal.key")
	if err := os.WriteFile(sealKey, []byte(run(t, sessapiPath, "seal-key", "new")), 0o600); err != nil {
		t.Fatal(err)
	}
	s.args = []string{"serve", "--listen=127.0.0.1:" + s.port, "--state-file=" + filepath.Join(dir, "state"), "--seal-key-file=" + sealKey}
	s.start(t)
	var err error
	if s.client, err = client.New("http://127.0.0.1:" + s.port); err != nil {
		t.Fatal(err)
	}
	s.rotate(t) // from here on there is a previous key
	cert, key := certificate(t, "/CN=localhost")
	pem := append(readFile(t, cert), readFile(t, key)...)
	for i := range servers {
		p := &edgePair{delivered: &servers[i]}
		for n := range p.instances {
			p.instances[n] = placeEdge(t, p.delivered, pem)
		}
		p.open(t, s)
		s.pairs = append(s.pairs, p)
	}
	return s
}

func (s *edgeSite) start(tb testing.TB) {
	tb.Helper()
	s.service = start(tb, sessapiPath, s.args...)
	s.service.out.await(tb, `"msg":"serving"`)
}

// open starts the agent and the servers, as the units of a host do: the agent writes the
// keys once, then the servers start, then the agent stays.
func (p *edgePair) open(t *testing.T, s *edgeSite) {
	t.Helper()
	var config strings.Builder
	// The first node of the service is always down.
	fmt.Fprintf(&config, "service: {addresses: [\"http://127.0.0.1:%s\", \"http://127.0.0.1:%s\"]}\nname: host\nlisten: 127.0.0.1:0\ntargets:\n", freePort(t), s.port)
	for n, i := range p.instances {
		fmt.Fprintf(&config, "  - {name: %s, probe: \"127.0.0.1:%s\", %s}\n", p.consumer(n), i.port, i.expand(p.target))
		i.write(t, "reload.sh", []byte(i.expand("#!/bin/sh\n[ ! -e ${DIR}/hang ] || sleep 1000\nexec nginx -e stderr -c ${DIR}/nginx.conf -s reload\n")))
		if err := os.Chmod(filepath.Join(i.dir, "reload.sh"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("haproxy.sock", filepath.Join(i.dir, "agent.sock")); err != nil {
			t.Fatal(err)
		}
	}
	p.instances[0].write(t, "agent.yaml", []byte(config.String()))
	p.config = filepath.Join(p.instances[0].dir, "agent.yaml")
	if out, err := unprivileged(exec.Command(sessapiPath, "agent", "--config="+p.config, "--once")).CombinedOutput(); err != nil {
		t.Fatalf("%s: agent --once: %v\n%s", p.name, err, out)
	}
	for _, i := range p.instances {
		i.start(t)
	}
	p.startAgent(t)
}

func (p *edgePair) startAgent(tb testing.TB) {
	tb.Helper()
	p.agent = startCommand(tb, unprivileged(exec.Command(sessapiPath, "agent", "--config="+p.config)))
}

// consumer is the name of the target of the n-th instance.
func (p *edgePair) consumer(n int) string { return p.name + "-" + string(rune('a'+n)) }

func (s *edgeSite) rotate(tb testing.TB) *client.TicketKeys {
	tb.Helper()
	d, err := s.client.Rotate(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// current is the name of the key that encrypts.
func current(d *client.TicketKeys) string {
	for _, k := range d.Keys {
		if k.Role == api.Current {
			return k.Name
		}
	}
	return ""
}

// awaitConsumer waits until what the service knows of a consumer satisfies the
// condition.
func (s *edgeSite) awaitConsumer(tb testing.TB, name, what string, ok func(client.Consumer) bool) client.Consumer {
	tb.Helper()
	var last client.Consumer
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		list, err := s.client.Consumers(tb.Context())
		if err != nil {
			continue
		}
		for _, c := range list.Consumers {
			if c.Name == "host/"+name {
				if last = c; ok(c) {
					return c
				}
			}
		}
	}
	detail := ""
	if last.Detail != nil {
		detail = *last.Detail
	}
	tb.Fatalf("%s is not %s: it is %s at %d, %s", name, what, last.State, last.Generation, detail)
	return last
}

func (s *edgeSite) awaitCurrent(tb testing.TB, name string, generation uint64) client.Consumer {
	tb.Helper()
	return s.awaitConsumer(tb, name, fmt.Sprintf("current at %d", generation), func(c client.Consumer) bool {
		return c.State == "current" && c.Generation == generation
	})
}

// awaitFailed waits until a consumer is failed for the reason.
func (s *edgeSite) awaitFailed(tb testing.TB, name, reason string) {
	tb.Helper()
	s.awaitConsumer(tb, name, "failed: "+reason, func(c client.Consumer) bool {
		return c.State == "failed" && c.Detail != nil && strings.Contains(*c.Detail, reason)
	})
}

// awaitAll waits until all servers are current, and adds how long each took since the
// keys changed.
func (s *edgeSite) awaitAll(tb testing.TB, d *client.TicketKeys, took map[string][]time.Duration) {
	tb.Helper()
	for _, p := range s.pairs {
		for n := range p.instances {
			c := s.awaitCurrent(tb, p.consumer(n), d.Generation)
			if took != nil {
				took[p.name] = append(took[p.name], c.Since.Sub(d.UpdatedAt))
			}
		}
	}
}

func tlsClient() handshakes.Client {
	return handshakes.Client{ServerName: "localhost", Insecure: true, Timeout: 20 * time.Second}
}

// crowd is clients of a pair that come back, to either of its servers, over and over.
type crowd struct {
	resumed, full, lost, failed atomic.Int64
	failure                     atomic.Value // the last error
}

// epochs says since which rotation each key is current.
type epochs struct {
	mu    sync.Mutex
	now   int
	since map[string]int
}

// rotate rotates the keys of the site. Meanwhile no client asks what lasts.
func (e *epochs) rotate(tb testing.TB, s *edgeSite) *client.TicketKeys {
	tb.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	d := s.rotate(tb)
	e.now++
	e.since[current(d)] = e.now
	return d
}

// lasts reports whether every server has the key now: HAProxy keeps one previous key.
func (e *epochs) lasts(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	since, known := e.since[name]
	return known && e.now <= since+1
}

func (l *crowd) run(ctx context.Context, p *edgePair, protocol handshakes.Protocol, e *epochs) {
	c := tlsClient()
	var session *handshakes.Session
	for n := 0; ctx.Err() == nil; n++ {
		h, err := c.Handshake(ctx, p.instances[n%2].addr(), protocol, session)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.failed.Add(1)
			l.failure.Store(err.Error())
			continue
		case session == nil:
			l.full.Add(1)
		case h.Resumed:
			l.resumed.Add(1)
		default:
			if name, ok := session.KeyName(); ok && e.lasts(fmt.Sprintf("%x", name)) {
				l.lost.Add(1)
			}
		}
		if h.Session != nil {
			session = h.Session
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Agents keep every kind of server in step through rotations, a revocation and faults.
// Clients that come back notice nothing.
func TestAgent(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"openssl", "nginx", "haproxy", "apache2", "h2o", "traffic_manager", "traffic_ctl", "nghttpx", "dnsdist"} {
		need(t, name)
	}
	s := openSite(t, deliveredServers)
	d, err := s.client.TicketKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.awaitAll(t, d, nil)
	s.rotateUnderLoad(t, d, *rotations)
	s.revoke(t)
	s.breakThings(t)
}

// lighttpd forgets a revoked key at once, and loses no session at a rotation.
func TestAgentLighttpd(t *testing.T) {
	t.Parallel()
	need(t, "lighttpd")
	s := openSite(t, []delivered{lighttpdDelivered})
	d, err := s.client.TicketKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.awaitAll(t, d, nil)
	if *rotations > 2 { // each takes a minute
		s.rotateUnderLoad(t, d, 2)
	}
	s.revoke(t)
}

func (s *edgeSite) rotateUnderLoad(t *testing.T, d *client.TicketKeys, rotations int) {
	e := &epochs{since: map[string]int{current(d): 0}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	crowds := make([]crowd, len(s.pairs))
	for i, p := range s.pairs {
		for _, protocol := range []handshakes.Protocol{handshakes.TLS12, handshakes.TLS13} {
			clients.Go(func() { crowds[i].run(ctx, p, protocol, e) })
		}
	}
	took := map[string][]time.Duration{}
	for range rotations {
		d := e.rotate(t, s)
		s.awaitAll(t, d, took)
	}
	cancel()
	clients.Wait()
	for i, p := range s.pairs {
		l := &crowds[i]
		times := slices.Sorted(slices.Values(took[p.name]))
		t.Logf("%-15s %d rotations: current after %v (median), %v (worst); %d resumed, %d lost, %d failed",
			p.name, rotations, times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond),
			l.resumed.Load(), l.lost.Load(), l.failed.Load())
		if l.failed.Load() > 0 {
			t.Errorf("%s: %d connections failed: %v", p.name, l.failed.Load(), l.failure.Load())
		}
		if l.lost.Load() > 0 && !p.oneKey {
			t.Errorf("%s: %d sessions were not resumed", p.name, l.lost.Load())
		}
		if l.resumed.Load() == 0 {
			t.Errorf("%s: no session was resumed", p.name)
		}
	}
}

// revoke revokes the key that encrypts. Its tickets are dead everywhere, and those of
// the new key are shared.
func (s *edgeSite) revoke(t *testing.T) {
	c := tlsClient()
	type visitor struct {
		p        *edgePair
		protocol handshakes.Protocol
		session  *handshakes.Session
	}
	var visitors []visitor
	visit := func(i *edge, protocol handshakes.Protocol, session *handshakes.Session) *handshakes.Handshake {
		h, err := c.Handshake(t.Context(), i.addr(), protocol, session)
		if err != nil {
			t.Fatalf("%s: %v", i.name, err)
		}
		return h
	}
	for _, p := range s.pairs {
		for _, protocol := range []handshakes.Protocol{handshakes.TLS12, handshakes.TLS13} {
			h := visit(p.instances[0], protocol, nil)
			if !visit(p.instances[1], protocol, h.Session).Resumed {
				t.Errorf("%s: TLS %v: the second server does not resume the session of the first", p.name, protocol)
			}
			visitors = append(visitors, visitor{p, protocol, h.Session})
		}
	}
	d, err := s.client.TicketKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d, err = s.client.Revoke(t.Context(), current(d)); err != nil {
		t.Fatal(err)
	}
	took := map[string][]time.Duration{}
	s.awaitAll(t, d, took)
	for _, v := range visitors {
		for _, i := range v.p.instances {
			if visit(i, v.protocol, v.session).Resumed {
				t.Errorf("%s: TLS %v: a ticket of the revoked key is resumed", v.p.name, v.protocol)
			}
		}
		h := visit(v.p.instances[1], v.protocol, nil)
		if !visit(v.p.instances[0], v.protocol, h.Session).Resumed {
			t.Errorf("%s: TLS %v: after the revocation the servers do not resume each other's sessions", v.p.name, v.protocol)
		}
	}
	for _, p := range s.pairs {
		t.Logf("%-15s the revoked key is dead after %v", p.name, slices.Max(took[p.name]).Round(time.Millisecond))
	}
}

// fault is something that goes wrong: do makes it so, checks that the report is right
// while it lasts, and ends it. It returns the consumer that it concerned.
type fault struct {
	name string
	do   func(*testing.T, *edgeSite, *rand.Rand) string
}

func (s *edgeSite) pair(name string) *edgePair {
	return s.pairs[slices.IndexFunc(s.pairs, func(p *edgePair) bool { return p.name == name })]
}

func (s *edgeSite) anyPair(r *rand.Rand) *edgePair { return s.pairs[r.IntN(len(s.pairs))] }

var allFaults = []fault{
	{"the service is killed", func(t *testing.T, s *edgeSite, r *rand.Rand) string {
		s.service.stop(t, syscall.SIGKILL)
		p := s.anyPair(r)
		c := tlsClient()
		h, err := c.Handshake(t.Context(), p.instances[0].addr(), handshakes.TLS13, nil)
		if err != nil {
			t.Fatal(err)
		}
		if h, err = c.Handshake(t.Context(), p.instances[1].addr(), handshakes.TLS13, h.Session); err != nil || !h.Resumed {
			t.Errorf("%s: without the service sessions are not resumed (%v)", p.name, err)
		}
		s.start(t)
		return p.consumer(0)
	}},
	{"an agent is killed, and two rotations are missed", func(t *testing.T, s *edgeSite, r *rand.Rand) string {
		p := s.anyPair(r)
		p.agent.stop(t, syscall.SIGKILL)
		s.rotate(t)
		d := s.rotate(t)
		s.awaitConsumer(t, p.consumer(0), "behind", func(c client.Consumer) bool { return c.Behind && c.Generation < d.Generation })
		p.startAgent(t)
		return p.consumer(0)
	}},
	{"a server is killed", func(t *testing.T, s *edgeSite, r *rand.Rand) string {
		p := s.pair([]string{"nginx", "haproxy-socket", "httpd", "h2o"}[r.IntN(4)])
		n := r.IntN(2)
		i := p.instances[n]
		kill(t, i)
		s.awaitFailed(t, p.consumer(n), "")
		i.start(t)
		return p.consumer(n)
	}},
	{"the configuration of nginx is broken", func(t *testing.T, s *edgeSite, r *rand.Rand) string {
		p, n := s.pair("nginx"), r.IntN(2)
		i := p.instances[n]
		good := readFile(t, filepath.Join(i.dir, "nginx.conf"))
		i.write(t, "nginx.conf", append(slices.Clone(good), "broken;\n"...))
		before := encryptsWith(t, i)
		s.rotate(t)
		s.awaitFailed(t, p.consumer(n), "test failed")
		if now := encryptsWith(t, i); now != before {
			t.Errorf("nginx encrypts with %s, not as before with %s", now, before)
		}
		i.write(t, "nginx.conf", good)
		return p.consumer(n)
	}},
	{"the folder cannot be written", func(t *testing.T, s *edgeSite, r *rand.Rand) string {
		p, n := s.anyPair(r), r.IntN(2)
		i := p.instances[n]
		if err := os.Chmod(i.dir, 0o500); err != nil {
			t.Fatal(err)
		}
		s.rotate(t)
		s.awaitFailed(t, p.consumer(n), "permission denied")
		if err := os.Chmod(i.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		return p.consumer(n)
	}},
	{"the stats socket hangs", func(t *testing.T, s *edgeSite, r *rand.Rand) string {
		p, n := s.pair("haproxy-socket"), r.IntN(2)
		i := p.instances[n]
		path := filepath.Join(i.dir, "hung.sock")
		hung, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		give(t, path)
		link := filepath.Join(i.dir, "agent.sock")
		relink := func(to string) {
			if err := os.Symlink(to, link+".new"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(link+".new", link); err != nil {
				t.Fatal(err)
			}
		}
		relink("hung.sock")
		s.rotate(t)
		s.awaitFailed(t, p.consumer(n), "socket")
		relink("haproxy.sock")
		_ = hung.Close()
		return p.consumer(n)
	}},
	{"the reload command hangs", func(t *testing.T, s *edgeSite, r *rand.Rand) string {
		p, n := s.pair("nginx"), r.IntN(2)
		i := p.instances[n]
		i.write(t, "hang", nil)
		s.rotate(t)
		s.awaitFailed(t, p.consumer(n), "killed after")
		if err := os.Remove(filepath.Join(i.dir, "hang")); err != nil {
			t.Fatal(err)
		}
		return p.consumer(n)
	}},
	{"somebody overwrites a file", func(t *testing.T, s *edgeSite, r *rand.Rand) string {
		p, n := s.anyPair(r), r.IntN(2)
		i := p.instances[n]
		path := keyFiles(t, i)[0]
		want := readFile(t, path)
		i.write(t, filepath.Base(path), want[:len(want)/2])
		for deadline := time.Now().Add(time.Minute); string(readFile(t, path)) != string(want); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s stays overwritten", path)
			}
		}
		return p.consumer(n)
	}},
	{"somebody pushes a foreign key into HAProxy", func(t *testing.T, s *edgeSite, r *rand.Rand) string {
		p, n := s.pair("haproxy-socket"), r.IntN(2)
		i := p.instances[n]
		want := showRing(t, i)
		key := strings.Fields(run(t, sessapiPath, "keys", "generate", "--format=haproxy"))[0]
		for range 1 + r.IntN(3) {
			askHAProxy(t, i, "set ssl tls-key #0 "+key)
		}
		for deadline := time.Now().Add(time.Minute); showRing(t, i) != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("HAProxy keeps a foreign key")
			}
		}
		return p.consumer(n)
	}},
}

// breakThings goes through faults in any order. After each, every server is as it is to
// be.
func (s *edgeSite) breakThings(t *testing.T) {
	seed := *faultSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-fault-seed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, i := range r.Perm(len(allFaults))[:min(*faults, len(allFaults))] {
		f := allFaults[i]
		concerned := f.do(t, s, r)
		ended := time.Now()
		d, err := s.client.TicketKeys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.awaitCurrent(t, concerned, d.Generation)
		t.Logf("%s: %s is current %v after its end", f.name, concerned, time.Since(ended).Round(100*time.Millisecond))
		s.awaitAll(t, d, nil)
		for _, p := range s.pairs {
			for _, i := range p.instances {
				if got := encryptsWith(t, i); got != current(d) {
					t.Errorf("%s: %s encrypts with %s, not with %s", f.name, p.name, got, current(d))
				}
			}
		}
	}
}

// encryptsWith is the name of the key of a fresh ticket.
func encryptsWith(t *testing.T, i *edge) string {
	t.Helper()
	c := tlsClient()
	h, err := c.Handshake(t.Context(), i.addr(), handshakes.TLS12, nil)
	if err != nil {
		t.Fatalf("%s: %v", i.name, err)
	}
	name, _ := h.Session.KeyName()
	return fmt.Sprintf("%x", name)
}

// kill kills a server and what it has started, which holds its output open.
func kill(t *testing.T, i *edge) {
	t.Helper()
	children, _ := exec.Command("ps", "-o", "pid=", "--ppid", fmt.Sprint(i.Process.Pid)).Output()
	_ = i.Process.Kill() // all of them may be gone
	for child := range strings.FieldsSeq(string(children)) {
		_ = exec.Command("kill", "-KILL", child).Run()
	}
	i.stop(t, syscall.SIGKILL)
}

// keyFiles are the key files of an instance.
func keyFiles(t *testing.T, i *edge) []string {
	t.Helper()
	var paths []string
	for _, pattern := range []string{"ticket*.key*", "ticket-keys.yaml", "web.*.key"} {
		found, err := filepath.Glob(filepath.Join(i.dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	return paths
}

// showRing is the keys that HAProxy has.
func showRing(t *testing.T, i *edge) string { return askHAProxy(t, i, "show tls-keys #0") }

func askHAProxy(t *testing.T, i *edge, line string) string {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(i.dir, "haproxy.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// The agent says how it is doing, and takes another configuration while it runs.
func TestAgentCommand(t *testing.T) {
	t.Parallel()
	s := serve(t)
	dir := t.TempDir()
	config, key, other := filepath.Join(dir, "agent.yaml"), filepath.Join(dir, "keys"), filepath.Join(dir, "other.yaml")
	write := func(targets string) {
		t.Helper()
		text := "service: {addresses: [\"http://" + s.addr + "\"]}\nname: host\nlisten: 127.0.0.1:0\ntargets:\n" + targets
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := "  - {name: one, kind: file, format: ats, file: keys, mode: \"0640\", reload: [test, -e, go]}\n"

	write("  - {kind: ngnix}\n")
	if out, err := exec.Command(sessapiPath, "agent", "--check", "--config="+config).CombinedOutput(); err == nil ||
		!strings.Contains(string(out), "line 5: ") || !strings.Contains(string(out), "did you mean nginx?") {
		t.Errorf("agent --check: %v\n%s", err, out)
	}
	write(first)
	run(t, sessapiPath, "agent", "--check", "--config="+config)
	// Without its file a server does not run, so that there is nothing to reload.
	run(t, sessapiPath, "agent", "--once", "--config="+config)
	if got := readFile(t, key); string(got) != run(t, sessapiPath, "keys", "pull", "--server=http://"+s.addr, "--format=ats") {
		t.Error("agent --once wrote something else than the keys")
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", info, err)
	}

	cmd := exec.Command(sessapiPath, "agent", "--config="+config)
	cmd.Dir = dir // of the file that its reload looks for
	agent := startCommand(t, cmd)
	url := "http://" + agent.out.await(t, `"name":"agent","address":"([^"]+)"`)[1]
	await := func(path, want string, status int) {
		t.Helper()
		var got string
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			response, err := http.Get(url + path)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if got = fmt.Sprintf("%d %s", response.StatusCode, body); err == nil && response.StatusCode == status && strings.Contains(got, want) {
				return
			}
		}
		t.Fatalf("GET %s: no %d with %s in:\n%s", path, status, want, got)
	}
	await("/livez", "ok", http.StatusOK)
	await("/readyz", `{"name":"keys","status":"ok"},{"name":"target one","status":"ok"}`, http.StatusOK)
	await("/metrics", `sessapi_agent_target_state{kind="file",state="current",target="one"} 1`, http.StatusOK)

	run(t, sessapiPath, "keys", "rotate", "--server=http://"+s.addr)
	await("/readyz", `reload failed: test: exit status 1`, http.StatusServiceUnavailable)
	await("/metrics", `sessapi_agent_target_state{kind="file",state="failed",target="one"} 1`, http.StatusOK)

	write("targets: [\n")
	_ = agent.Process.Signal(syscall.SIGHUP)
	agent.out.await(t, `"msg":"reload failed; keeping the previous configuration"`)
	write(first + "  - {kind: h2o, file: other.yaml}\n")
	_ = agent.Process.Signal(syscall.SIGHUP)
	await("/metrics", `sessapi_agent_target_state{kind="h2o",state="current",target="h2o"} 1`, http.StatusOK)
	readFile(t, other)
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await("/readyz", `"name":"target one","status":"ok"`, http.StatusOK)
	for text := range strings.FieldsSeq(agent.out.String()) {
		if strings.Contains(string(readFile(t, other)), text) && len(text) > 40 {
			t.Error("a key is in the log")
		}
	}
	agent.stop(t, syscall.SIGTERM)
	if agent.err != nil {
		t.Errorf("the agent ended with %v", agent.err)
	}
}
