// Package redistest runs real Redis servers for tests: a single one, a cluster, or
// a replicated pair with Sentinels, all on the loopback, on ports that are free,
// and stopped with the test. [NewProxy] stands between a client and a server and
// can cut and delay what passes.
//
//	server := redistest.Start(t)
//	client, err := rueidis.NewClient(rueidis.MustParseURL(server.URL()))
package redistest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience is how long servers may take to do what they are told.
const patience = time.Minute

// Server is a running redis-server, or a Sentinel.
type Server struct {
	Port int
	Dir  string // with its log and its data

	t        testing.TB
	sentinel bool
	args     []string
	cmd      *exec.Cmd
}

// Start starts a server that keeps nothing on disk. args are added to its command
// line, such as --appendonly, yes. Without redis-server the test is skipped, or
// fails where CI is set.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("redis-server is needed: %v", err)
		}
		t.Skipf("redis-server is needed: %v", err)
	}
	s := &Server{Port: freePort(t), Dir: t.TempDir(), t: t, args: append([]string{"--save", ""}, args...)}
	t.Cleanup(s.Kill)
	s.Restart()
	return s
}

// freePort returns a port that nobody listens at. A cluster takes one 10000 above
// for itself, so that is free, too.
func freePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		bus, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port+10000))
		_ = l.Close()
		if err == nil {
			_ = bus.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// Restart starts the server again, which must not be running.
func (s *Server) Restart() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	args := s.args
	if s.sentinel {
		args = []string{filepath.Join(s.Dir, "sentinel.conf"), "--sentinel"}
	}
	args = append(args, "--port", strconv.Itoa(s.Port), "--bind", "127.0.0.1", "--dir", s.Dir)
	s.cmd = exec.Command("redis-server", args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	Await(s.t, "Redis", func() error {
		out, err := s.Try("PING")
		if err == nil && !strings.Contains(out, "PONG") && !strings.Contains(out, "NOAUTH") {
			err = errors.New(out)
		}
		return err
	})
}

// Kill kills the server at once, and waits for its end.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // it was killed
	s.cmd = nil
}

// Forget removes what the server, which must not be running, has saved.
func (s *Server) Forget() {
	s.t.Helper()
	for _, name := range []string{"dump.rdb", "appendonlydir", "appendonly.aof"} {
		if err := os.RemoveAll(filepath.Join(s.Dir, name)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// Pause stops the server in its tracks until Resume.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
}

// Addr is the address of the server.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.Port) }

// URL is the URL of the server, for --redis.
func (s *Server) URL() string { return "redis://" + s.Addr() }

// Do runs a command with redis-cli and returns what it prints.
func (s *Server) Do(args ...string) string {
	s.t.Helper()
	out, err := s.Try(args...)
	if err != nil {
		s.t.Fatalf("%q: %v", args, err)
	}
	return out
}

// Try is Do that may fail.
func (s *Server) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "redis-cli", append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(s.Port)}, args...)...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Cluster starts a cluster of three masters without replicas.
func Cluster(t testing.TB) []*Server {
	t.Helper()
	servers := make([]*Server, 3)
	create := []string{"--cluster", "create"}
	for i := range servers {
		servers[i] = Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
		create = append(create, servers[i].Addr())
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "redis-cli", append(create, "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("redis-cli --cluster create: %v\n%s", err, out)
	}
	for _, s := range servers {
		Await(t, "the cluster", func() error {
			if out := s.Do("CLUSTER", "INFO"); !strings.Contains(out, "cluster_state:ok") {
				return errors.New(out)
			}
			return nil
		})
	}
	return servers
}

// Replicated is a master with a replica, watched by three Sentinels.
type Replicated struct {
	Servers   [2]*Server // the first is the master at first
	Sentinels [3]*Server
}

// MasterSet is what the Sentinels know the master by.
const MasterSet = "sessapi"

// Sentinel starts a master, a replica and three Sentinels.
func Sentinel(t testing.TB) *Replicated {
	t.Helper()
	r := new(Replicated)
	r.Servers[0] = Start(t)
	r.Servers[1] = Start(t, "--replicaof", "127.0.0.1 "+strconv.Itoa(r.Servers[0].Port))
	Await(t, "the replica", func() error {
		if out := r.Servers[1].Do("INFO", "replication"); !strings.Contains(out, "master_link_status:up") {
			return errors.New(out)
		}
		return nil
	})
	for i := range r.Sentinels {
		s := &Server{Port: freePort(t), Dir: t.TempDir(), t: t, sentinel: true}
		config := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d 2\nsentinel down-after-milliseconds %[1]s 1000\nsentinel failover-timeout %[1]s 5000\n",
			MasterSet, r.Servers[0].Port)
		if err := os.WriteFile(filepath.Join(s.Dir, "sentinel.conf"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Kill)
		s.Restart()
		r.Sentinels[i] = s
	}
	for _, s := range r.Sentinels {
		Await(t, "the Sentinels", func() error {
			out := s.Do("SENTINEL", "CKQUORUM", MasterSet)
			if others := s.Do("SENTINEL", "MASTER", MasterSet); !strings.HasPrefix(out, "OK 3") || !strings.Contains(others, "num-slaves\n1") {
				return errors.New(out)
			}
			return nil
		})
	}
	return r
}

// URL is the URL of the Sentinels, for --redis.
func (r *Replicated) URL() string {
	return fmt.Sprintf("redis://%s?addr=%s&addr=%s&master_set=%s",
		r.Sentinels[0].Addr(), r.Sentinels[1].Addr(), r.Sentinels[2].Addr(), MasterSet)
}

// ClusterURL is the URL of a cluster, for --redis.
func ClusterURL(servers []*Server) string {
	others := make([]string, len(servers)-1)
	for i, s := range servers[1:] {
		others[i] = "addr=" + s.Addr()
	}
	return servers[0].URL() + "?" + strings.Join(others, "&")
}

// Await waits until ready returns nil.
func Await(t testing.TB, what string, ready func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = ready(); err == nil {
			return
		}
	}
	t.Fatalf("waited in vain for %s: %v", what, err)
}

// Proxy passes what comes in at its address on to a server.
type Proxy struct {
	listener net.Listener
	to       string
	delay    atomic.Int64

	mu    sync.Mutex
	cut   bool // nothing passes, and nobody is told
	heal  chan struct{}
	conns []net.Conn
	all   sync.WaitGroup
}

// NewProxy starts a proxy to an address.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, to: to, heal: make(chan struct{})}
	close(p.heal)
	p.all.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Heal()
		p.Reset()
		p.all.Wait()
	})
	return p
}

// Addr is the address of the proxy.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Delay makes everything take that much longer, each way.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// Cut lets nothing through any more, as when a cable is pulled: no connection
// ends, new ones are not answered.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cut {
		p.cut, p.heal = true, make(chan struct{})
	}
}

// Heal ends a Cut. What was sent meanwhile arrives.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		p.cut = false
		close(p.heal)
	}
}

// Reset ends all connections.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

func (p *Proxy) accept() {
	for {
		from, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.all.Go(func() { p.serve(from) })
	}
}

// wait waits while nothing gets through.
func (p *Proxy) wait() {
	p.mu.Lock()
	heal := p.heal
	p.mu.Unlock()
	<-heal
}

func (p *Proxy) serve(from net.Conn) {
	defer from.Close()
	p.wait()
	to, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer to.Close()
	p.mu.Lock()
	p.conns = append(p.conns, from, to)
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pass(to, from) })
	both.Go(func() { p.pass(from, to) })
	both.Wait()
}

// pass copies from one to the other, and ends both when one ends.
func (p *Proxy) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		time.Sleep(time.Duration(p.delay.Load()))
		p.wait()
		if _, writeErr := io.Copy(to, bytes.NewReader(buf[:n])); err != nil || writeErr != nil {
			return
		}
	}
}
