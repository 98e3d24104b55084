package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/logtest"
)

var modelSeed = flag.Uint64("model-seed", 0, "seed of the model test; 0 is any")

// modelKey is a key in the model.
type modelKey struct{ name, hmac, aes []byte }

func newModelKey(r *rand.Rand) modelKey {
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	return modelKey{random(16), random(32), random(32)}
}

func (k modelKey) key() keys.Key { return keys.NewKey(k.name, k.hmac, k.aes) }

// modelService is a service with one set: next, current, previous.
type modelService struct {
	mu         sync.Mutex
	generation uint64
	ring       []modelKey // next, current and the previous ones
	changed    chan struct{}
	down       bool
	before     []modelKey // the ring of the previous generation
	stale      bool       // whether a node still answers with before
	reports    map[string]Report
}

func (s *modelService) set() keys.Set { return setOf(s.ring) }

func setOf(ring []modelKey) keys.Set {
	next := ring[0].key()
	set := keys.Set{Next: &next}
	for _, k := range ring[1:] {
		set.Keys = append(set.Keys, k.key())
	}
	return set
}

// update makes a change of the keys.
func (s *modelService) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = s.ring
	change()
	s.generation++
	s.wake()
}

// wake answers the waiting requests.
func (s *modelService) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

var errDown = errors.New("connection refused")

func (s *modelService) Nodes() int { return 1 }

func (s *modelService) Next(ctx context.Context, generation, floor uint64) (*update, error) {
	for {
		s.mu.Lock()
		g, ring, changed, down := s.generation, s.ring, s.changed, s.down
		if s.stale {
			g, ring = g-1, s.before
		}
		s.mu.Unlock()
		switch {
		case down:
			return nil, errDown
		case g < floor:
			return nil, &olderError{g, floor}
		case g != generation:
			return &update{g, setOf(ring)}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(hold):
			return nil, nil
		}
	}
}

func (s *modelService) Report(_ context.Context, target string, r Report) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return errDown
	}
	s.reports[target] = r
	return nil
}

// modelServer is a server: the keys that it loaded from its files, and its obstacles.
type modelServer struct {
	*Target
	mu      sync.Mutex
	loaded  []string // contents of its files
	ring    []string // of HAProxy with a socket
	reloads int
	// Obstacles.
	brokenTest, brokenReload, hangingReload, hangingSocket, noFolder bool
}

var errObstacle = errors.New("exit status 1")

func (s *modelServer) load() {
	contents := make([]string, len(s.paths()))
	for i, path := range s.paths() {
		data, err := os.ReadFile(path)
		if err != nil {
			return // it keeps its keys
		}
		contents[i] = string(data)
	}
	s.loaded = contents
	if s.Socket != "" {
		if lines := strings.Fields(contents[0]); len(lines) >= ringSize {
			s.ring = lines[len(lines)-ringSize:]
		}
	}
}

func (s *modelServer) run(ctx context.Context, command []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case command[0] == "test":
		if s.brokenTest {
			return errObstacle
		}
		return nil
	case s.hangingReload:
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return ctx.Err()
	case s.brokenReload:
		return errObstacle
	}
	s.reloads++
	s.load()
	return nil
}

func (s *modelServer) ask(ctx context.Context, line []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hangingSocket {
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return nil, ctx.Err()
	}
	var answer bytes.Buffer
	for command := range strings.SplitSeq(string(line), ";") {
		words := strings.Fields(command)
		switch {
		case len(words) == 0:
		case len(words) == 2:
			fmt.Fprintf(&answer, "# id (file)\n0 (/another)\n1 (%s)\n\n", s.File)
		case words[0] == "show" && words[2] == "#1":
			fmt.Fprintf(&answer, "# id secret\n# 1 (%s)\n", s.File)
			for i, key := range s.ring {
				fmt.Fprintf(&answer, "1.%d %s\n", i, key)
			}
		case words[0] == "set" && words[3] == "#1":
			s.ring = append(slices.Clone(s.ring[1:]), words[4])
			answer.WriteString("TLS ticket key updated!\n\n")
		}
	}
	return answer.Bytes(), nil
}

// wants returns the wanted state of the server in the model.
func (s *modelServer) wants(set keys.Set) []string {
	if !s.format.OneKey() {
		return []string{string(s.format.Append(nil, set))}
	}
	contents := make([]string, len(s.paths()))
	for i := range contents {
		data, err := s.format.AppendKey(nil, set, i)
		if err != nil {
			data, _ = s.format.AppendKey(nil, set, 0)
		}
		contents[i] = string(data)
	}
	return contents
}

// holds reports whether the server uses the wanted keys and its files contain them.
func (s *modelServer) holds(set keys.Set) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := s.wants(set)
	for i, path := range s.paths() {
		data, err := os.ReadFile(path)
		if err != nil || string(data) != want[i] {
			return false
		}
	}
	if s.Reload == nil && s.Socket == "" {
		s.load() // it rereads files by itself
	}
	if s.Socket != "" {
		lines := strings.Fields(want[0])
		return slices.Equal(s.ring, lines[len(lines)-ringSize:])
	}
	return slices.Equal(s.loaded, want)
}

// model is an agent with its servers and its service.
type model struct {
	t       *testing.T
	r       *rand.Rand
	service *modelService
	servers []*modelServer
	config  *Config
	log     logtest.Buffer
	floor   uint64
	agent   *Agent
	stop    func()
	written map[string]bool // contents that a file may have
	mu      sync.Mutex      // guards known
	known   map[string]keys.Name
	hidden  bool   // whether a server used other keys than its files, which only a probe detects
	newest  uint64 // latest generation that an agent had
}

func newModel(t *testing.T, r *rand.Rand) *model {
	m := &model{
		t: t, r: r, config: &Config{Name: "host"}, written: map[string]bool{}, known: map[string]keys.Name{},
		service: &modelService{generation: 1, changed: make(chan struct{}), reports: map[string]Report{}},
	}
	for range 3 + r.IntN(3) {
		m.service.ring = append(m.service.ring, newModelKey(r))
	}
	for i := range 1 + r.IntN(5) {
		dir := filepath.Join(t.TempDir(), strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		m.config.Targets = append(m.config.Targets, m.randomTarget(i, dir))
	}
	for i := range m.config.Targets {
		target := &m.config.Targets[i]
		if err := target.check(); err != nil {
			t.Fatal(err)
		}
		m.servers = append(m.servers, &modelServer{Target: target})
	}
	m.publish()
	return m
}

func (m *model) randomTarget(i int, dir string) Target {
	t := Target{Name: strconv.Itoa(i), File: filepath.Join(dir, "keys"), Timeout: Duration(5 * time.Second)}
	switch m.r.IntN(5) {
	case 0:
		t.Kind, t.File, t.Keys = "nginx", t.File+".{key}", 1+m.r.IntN(6)
	case 1:
		t.Kind, t.Socket = "haproxy", filepath.Join(dir, "socket")
		return t
	case 2:
		t.Kind = "h2o"
		return t
	case 3:
		t.Kind = "httpd"
	case 4:
		t.Kind = "haproxy"
	}
	t.Reload = &Reload{Command: words{"reload", t.Name}}
	if m.r.IntN(2) == 0 {
		t.Test = words{"test", t.Name}
	}
	if m.r.IntN(2) == 0 {
		t.Probe = t.Name + ":443"
	}
	return t
}

// publish records the possible contents of files after a change of the keys.
func (m *model) publish() {
	m.service.mu.Lock()
	set := m.service.set()
	m.service.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.servers {
		want := s.wants(set)
		for _, content := range want {
			m.written[s.Name+content] = true
		}
		m.known[s.Name+strings.Join(want, "")] = set.Keys[0].Name()
	}
}

func (m *model) server(name string) *modelServer {
	return m.servers[slices.IndexFunc(m.servers, func(s *modelServer) bool { return s.Name == name })]
}

// start runs a new agent, which knows only the floor.
func (m *model) start() {
	by := reach{
		run: func(timeout time.Duration) runner {
			return func(ctx context.Context, command []string) error {
				ctx, cancel := context.WithTimeout(ctx, timeout)
				defer cancel()
				return m.server(command[1]).run(ctx, command)
			}
		},
		ask: func(ctx context.Context, socket string, line []byte) ([]byte, error) {
			return m.server(filepath.Base(filepath.Dir(socket))).ask(ctx, line)
		},
		probe: func(_ context.Context, address string) (keys.Name, error) {
			s := m.server(strings.TrimSuffix(address, ":443"))
			s.mu.Lock()
			defer s.mu.Unlock()
			m.mu.Lock()
			defer m.mu.Unlock()
			name, ok := m.known[s.Name+strings.Join(s.loaded, "")]
			if !ok {
				return keys.Name{1}, nil
			}
			return name, nil
		},
	}
	m.agent = newAgent(m.config, m.service, by, m.floor, slog.New(slog.NewTextHandler(&m.log, nil)))
	ctx, cancel := context.WithCancel(m.t.Context())
	var running sync.WaitGroup
	running.Go(func() { m.agent.Run(ctx) })
	m.stop = func() { cancel(); running.Wait(); m.floor = m.agent.Floor() }
}

// wait lets time pass, and then checks the guarantees.
func (m *model) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
	if g := m.agent.Figures().Generation; g != 0 {
		if g < m.newest {
			m.t.Fatalf("generation %d after %d", g, m.newest)
		}
		m.newest = g
	}
	for _, s := range m.servers {
		for _, path := range s.paths() {
			if data, err := os.ReadFile(path); err == nil && !m.written[s.Name+string(data)] {
				m.t.Fatalf("target %s: %s is neither a set of the service nor what somebody wrote", s.Name, path)
			}
		}
	}
}

// check compares the states of the targets with the truth, once nothing changes any
// more.
func (m *model) check(what string) {
	m.wait(25 * time.Second) // a probe may take 15 s
	m.service.mu.Lock()
	set, generation, down, reports := m.service.set(), m.service.generation, m.service.down, maps.Clone(m.service.reports)
	m.service.mu.Unlock()
	for _, status := range m.agent.Status() {
		s := m.server(status.Name)
		holds := s.holds(set)
		if generation != m.agent.Figures().Generation {
			continue // the agent has not heard of the keys
		}
		s.mu.Lock()
		obstructed := s.brokenTest || s.brokenReload || s.hangingReload || s.hangingSocket || s.noFolder
		s.mu.Unlock()
		if !holds && status.State == Current || !obstructed && status.State != Current {
			m.t.Errorf("%s: target %s (%s) is %s (%s), and holds the keys: %v; obstructed: %v", what, s.Name, s.Kind, status.State, status.Detail, holds, obstructed)
		}
		if down {
			continue
		}
		if got := reports[s.Name]; got != status.Report {
			m.t.Errorf("%s: target %s is reported as %+v, not as %+v", what, s.Name, got, status.Report)
		}
	}
}

// folder makes the folder of a server, or a file in its place, where nothing can be
// written.
func (m *model) folder(s *modelServer, there bool) {
	dir := filepath.Dir(s.File)
	var err error
	if s.noFolder = !there; there {
		err = errors.Join(os.Remove(dir), os.Rename(dir+".away", dir))
	} else {
		err = errors.Join(os.Rename(dir, dir+".away"), os.WriteFile(dir, nil, 0o600))
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// events are the random operations. Each returns a description, or "" if it was
// impossible.
func (m *model) event() string {
	if m.r.IntN(14) == 0 {
		m.stop()
		m.start()
		return "agent restarted"
	}
	s := m.servers[m.r.IntN(len(m.servers))]
	s.mu.Lock()
	defer s.mu.Unlock()
	path := s.paths()[m.r.IntN(len(s.paths()))]
	switch m.r.IntN(14) {
	case 0, 1, 2:
		m.service.update(func() {
			ring := m.service.ring
			m.service.ring = append([]modelKey{newModelKey(m.r)}, ring[:len(ring)-1]...)
		})
		m.publish()
		return "rotation"
	case 3:
		m.service.update(func() {
			i := m.r.IntN(len(m.service.ring))
			m.service.ring = slices.Clone(m.service.ring)
			m.service.ring[i] = newModelKey(m.r)
		})
		m.publish()
		return "revocation"
	case 4:
		m.service.mu.Lock()
		m.service.down = !m.service.down
		m.service.mu.Unlock()
		return "service down or up"
	case 5:
		m.service.mu.Lock()
		m.service.stale = !m.service.stale && m.service.before != nil
		m.service.wake()
		m.service.mu.Unlock()
		return "stale node"
	case 6:
		s.brokenTest = !s.brokenTest
		return "test broken or mended"
	case 7:
		s.brokenReload = !s.brokenReload
		return "reload broken or mended"
	case 8:
		s.hangingReload = !s.hangingReload
		return "reload hangs or not"
	case 9:
		s.hangingSocket = !s.hangingSocket
		return "socket hangs or not"
	case 10:
		m.folder(s, s.noFolder)
		return "folder away or back"
	case 11:
		if s.noFolder {
			return ""
		}
		junk := []byte("junk " + strconv.Itoa(m.r.IntN(1000)))
		m.written[s.Name+string(junk)] = true
		if err := os.WriteFile(path, junk, 0o600); err != nil {
			m.t.Fatal(err)
		}
		if s.Reload != nil && m.r.IntN(2) == 0 {
			s.load()
		}
		return "file overwritten"
	case 12:
		if s.Probe == "" {
			return ""
		}
		s.loaded, m.hidden = []string{"junk"}, true
		s.mu.Unlock()
		m.wait(proveEvery + defaultSettle + 10*time.Second)
		s.mu.Lock()
		return "other keys loaded"
	default:
		if s.Socket != "" && len(s.ring) == ringSize {
			s.ring = append(s.ring[1:], base64.StdEncoding.EncodeToString(make([]byte, 80)))
			return "foreign key pushed"
		}
		s.load()
		return "server restarted"
	}
}

// mend ends all failures.
func (m *model) mend() {
	m.service.mu.Lock()
	m.service.down, m.service.stale = false, false
	m.service.wake()
	m.service.mu.Unlock()
	for _, s := range m.servers {
		s.mu.Lock()
		s.brokenTest, s.brokenReload, s.hangingReload, s.hangingSocket = false, false, false, false
		if s.noFolder {
			m.folder(s, true)
		}
		if s.Socket != "" && len(s.ring) == 0 {
			s.ring = make([]string, ringSize) // it started with any file
			for i := range s.ring {
				s.ring[i] = base64.StdEncoding.EncodeToString(make([]byte, 80))
			}
		}
		s.mu.Unlock()
	}
}

// A target is reported as current only while it is. Within 10 seconds after all
// failures end, or as soon as a probe has shown it, every target is current, and
// nothing is reloaded any more.
func TestModel(t *testing.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	for n := range uint64(40) {
		t.Run(strconv.FormatUint(seed+n, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newModel(t, rand.New(rand.NewPCG(seed+n, 0)))
				m.mend()
				m.start()
				var events []string
				for range 10 + m.r.IntN(20) {
					events = append(events, m.event())
					switch m.r.IntN(3) {
					case 0:
						m.wait(time.Duration(m.r.IntN(3000)) * time.Millisecond)
					case 1:
						m.check(strings.Join(events, ", "))
					}
				}
				m.mend()
				within := 10 * time.Second
				if m.hidden {
					within += proveEvery + defaultSettle
				}
				m.wait(within)
				m.service.mu.Lock()
				set := m.service.set()
				m.service.mu.Unlock()
				for _, s := range m.servers {
					if !s.holds(set) {
						t.Errorf("%v after all trouble target %s (%s) does not hold the keys", within, s.Name, s.Kind)
					}
				}
				m.check("after all trouble")
				reloads := func() map[string]int {
					counts := map[string]int{}
					for _, s := range m.servers {
						s.mu.Lock()
						counts[s.Name] = s.reloads
						s.mu.Unlock()
					}
					return counts
				}
				before := reloads()
				m.wait(10 * time.Minute)
				if after := reloads(); !maps.Equal(before, after) {
					t.Errorf("reloads without need: %v before, %v after", before, after)
				}
				m.stop()
				for _, s := range m.servers {
					if left, err := os.ReadDir(filepath.Dir(s.File)); err != nil || len(left) != len(s.paths()) {
						t.Errorf("target %s (%s) left %v (%v)", s.Name, s.Kind, left, err)
					}
				}
				if t.Failed() {
					t.Logf("-model-seed=%d: %s\n%s", seed+n, strings.Join(events, ", "), m.log.String())
				}
			})
		})
	}
}
