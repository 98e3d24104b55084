package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
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

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

// previousVersion is the tag or commit that fleets are upgraded from. A maintainer moves
// it after each release: docs/releasing.md.
const previousVersion = "4130e901b7e7"

// buildPrevious builds previousVersion from the history, with flags of go build beside
// those of the command under test.
func buildPrevious(tb testing.TB, flags ...string) (command string) {
	tb.Helper()
	const repository = "../.."
	if err := exec.Command("git", "-C", repository, "cat-file", "-e", previousVersion+"^{commit}").Run(); err != nil {
		const reason = "the history lacks " + previousVersion + ", the version to upgrade from; git fetch --unshallow --tags fetches it"
		if os.Getenv("CI") == "true" {
			tb.Fatal(reason)
		}
		tb.Skip(reason)
	}
	dir := tb.TempDir()
	archive := filepath.Join(dir, "source.tar")
	run(tb, "git", "-C", repository, "archive", "--output", archive, previousVersion)
	source := filepath.Join(dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		tb.Fatal(err)
	}
	run(tb, "tar", "-xf", archive, "-C", source)
	command = filepath.Join(dir, "sessapi")
	build := exec.Command("go", append([]string{"build", "-race", "-buildvcs=false", "-o", command}, append(flags, "./cmd/sessapi")...)...)
	build.Dir = source
	if output, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("%v\n%s", err, output)
	}
	return command
}

// secrets are the names of the keys of a set, with fingerprints of their secrets.
func secrets(d api.TicketKeys) string {
	var b strings.Builder
	for _, k := range d.Keys {
		fmt.Fprintf(&b, "%s %s %d %s\n", k.Role, k.Name, k.Bits, k.Fingerprint)
	}
	return b.String()
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	previous := buildPrevious(t)
	t.Run("fleet", func(t *testing.T) { t.Parallel(); testUpgradeOfFleet(t, previous) })
	t.Run("node", func(t *testing.T) { t.Parallel(); testUpgradeOfNode(t, previous) })
}

// A fleet is upgraded node by node under load. No read is answered 5xx, no acknowledged
// write is lost, and the ticket keys stay. While both versions run, a change through
// either reaches all nodes.
func testUpgradeOfFleet(t *testing.T, previous string) {
	redis, sealKey := redistest.Start(t), newSealKey(t)
	nodes := make([]*service, 3)
	args := make([][]string, len(nodes))
	balancer := &balancer{nodes: make([]atomic.Pointer[service], len(nodes))}
	for i := range nodes {
		args[i] = []string{
			"--redis=" + redis.URL(), "--seal-key-file=" + sealKey, "--state-file=" + filepath.Join(t.TempDir(), "state"),
			"--redis-read-timeout=5s", "--cache-memory=8MiB",
		}
		nodes[i] = serveWith(t, previous, args[i]...)
		balancer.nodes[i].Store(nodes[i])
	}
	redistest.Await(t, "settled ticket keys", func() error {
		if a := nodes[0].ask(t, http.MethodPost, "/ticket-keys/rotate", nil); a.status != http.StatusOK {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		return nil
	})
	keys := awaitSame(t, nodes, description(t, nodes[0]).Generation)
	reportCurrent(t, nodes[0], "edge/old", keys.Generation)

	traffic := startTraffic(t, balancer)
	for i := range nodes {
		traffic.await(t, 200)
		nodes[i].stop(t, syscall.SIGTERM)
		if nodes[i].err != nil {
			t.Errorf("node %d stopped with %v:\n%s", i, nodes[i].err, nodes[i].out)
		}
		nodes[i] = serve(t, args[i]...)
		balancer.nodes[i].Store(nodes[i])
		traffic.await(t, 200)
		if now := awaitSame(t, nodes, keys.Generation); now.Generation != keys.Generation || secrets(now) != secrets(keys) {
			t.Errorf("the upgrade of node %d changed the ticket keys of generation %d to %d:\n%s%s", i, keys.Generation, now.Generation, secrets(keys), secrets(now))
		}
		for _, through := range []*service{nodes[0], nodes[len(nodes)-1]} { // new; old, but for the last time
			redistest.Await(t, "a rotation", func() error {
				if a := through.ask(t, http.MethodPost, "/ticket-keys/rotate", nil); a.status != http.StatusOK {
					return fmt.Errorf("%d %s", a.status, a.body)
				}
				return nil
			})
			keys = awaitSame(t, nodes, description(t, through).Generation)
		}
	}
	traffic.stop()
	traffic.check(t, nodes)

	reportCurrent(t, nodes[0], "edge/new", keys.Generation)
	redistest.Await(t, "the consumers of both versions", func() error {
		for i, s := range nodes {
			if got := listed(t, s); len(got) != 2 {
				return fmt.Errorf("node %d has %v", i, got)
			}
		}
		return nil
	})
	for i, s := range nodes {
		if got := figure(t, s, `sessapi_fleet_refused_records_total{kind="session"}`); got != 0 {
			t.Errorf("node %d could not open %v sessions", i, got)
		}
	}
}

// balancer sends requests to the nodes in turn. A node that closes a connection without
// an answer, or takes none, is left out, as load balancers do.
type balancer struct {
	nodes []atomic.Pointer[service]
	turn  atomic.Uint64
}

var errNoNode = errors.New("no node answers")

func (b *balancer) do(ctx context.Context, client *http.Client, method, path string, body []byte) (status int, answer []byte, err error) {
	first := b.turn.Add(1)
	for i := range b.nodes {
		s := b.nodes[(first+uint64(i))%uint64(len(b.nodes))].Load()
		request, err := http.NewRequestWithContext(ctx, method, "http://"+s.addr+path, bytes.NewReader(body))
		if err != nil {
			return 0, nil, err
		}
		request.Header.Set("Content-Type", "application/octet-stream")
		request.Header.Set("Accept", "application/octet-stream")
		response, err := client.Do(request)
		if err != nil {
			continue
		}
		answer, err = io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err == nil {
			return response.StatusCode, answer, nil
		}
	}
	return 0, nil, errNoNode
}

// traffic is what clients do meanwhile. Each writes sessions of its own and reads them.
type traffic struct {
	done    atomic.Int64 // acknowledged writes
	cancel  context.CancelFunc
	clients sync.WaitGroup

	mu     sync.Mutex // guards what follows
	stored map[string][]byte
}

// startTraffic starts clients that store, read, replace and delete sessions until stop.
func startTraffic(t *testing.T, b *balancer) *traffic {
	ctx, cancel := context.WithCancel(t.Context())
	l := &traffic{cancel: cancel, stored: make(map[string][]byte)}
	t.Cleanup(l.stop)
	for number := range 4 {
		l.clients.Go(func() { l.client(ctx, t, b, number) })
	}
	return l
}

func (l *traffic) stop() {
	l.cancel()
	l.clients.Wait()
}

func (l *traffic) client(ctx context.Context, t *testing.T, b *balancer, number int) {
	client := &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	do := func(method, id string, session []byte) (status int, answer []byte) {
		status, answer, err := b.do(ctx, client, method, "/sessions/"+id, session)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			t.Errorf("%s %s: %v", method, id, err)
		case status/100 == 5, method == http.MethodPut && status/100 != 2:
			t.Errorf("%s %s: %d %s", method, id, status, answer)
		}
		return status, answer
	}
	for i := 0; ctx.Err() == nil && i < 20000; i++ {
		id, session := fmt.Sprintf("%02x%06x", number, i), make([]byte, 160)
		_, _ = rand.Read(session)
		if status, _ := do(http.MethodPut, id, session); status/100 != 2 {
			continue
		}
		l.keep(id, session)
		if status, got := do(http.MethodGet, id, nil); ctx.Err() == nil && (status != http.StatusOK || !bytes.Equal(got, session)) {
			t.Errorf("GET %s: %d, after it was stored", id, status)
		}
		switch i % 4 {
		case 1:
			switch status, _ := do(http.MethodDelete, id, nil); {
			case status == http.StatusNoContent, status == http.StatusNotFound: // 404 after a retry: it is deleted
				l.keep(id, nil)
			case ctx.Err() == nil:
				t.Errorf("DELETE %s: %d", id, status)
				fallthrough
			default:
				l.forget(id)
			}
		case 2:
			replacement := slices.Clone(session)
			slices.Reverse(replacement)
			if status, _ := do(http.MethodPut, id, replacement); status/100 == 2 {
				l.keep(id, replacement)
			} else {
				l.forget(id)
			}
		}
	}
}

// keep notes a session that was stored, or with nil that it was deleted.
func (l *traffic) keep(id string, session []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stored[id] = session
	l.done.Add(1)
}

// forget leaves out a session whose last change was not acknowledged.
func (l *traffic) forget(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.stored, id)
}

// await waits for acknowledged writes.
func (l *traffic) await(t *testing.T, n int64) {
	t.Helper()
	want := l.done.Load() + n
	redistest.Await(t, "acknowledged writes", func() error {
		if got := l.done.Load(); got < want {
			return fmt.Errorf("%d more are to come", want-got)
		}
		return nil
	})
}

// check compares what the nodes have with what they acknowledged.
func (l *traffic) check(t *testing.T, nodes []*service) {
	t.Helper()
	t.Logf("%d writes were acknowledged", l.done.Load())
	i := 0
	for id, session := range l.stored {
		s := nodes[i%len(nodes)]
		i++
		a := s.ask(t, http.MethodGet, "/sessions/"+id, nil, "Accept", "application/octet-stream")
		if session == nil && a.status != http.StatusNotFound || session != nil && (a.status != http.StatusOK || !bytes.Equal(a.body, session)) {
			t.Errorf("an acknowledged write of %s is lost: %d", id, a.status)
		}
	}
}

// A node without Redis keeps its ticket keys, sessions and consumers over an upgrade, and
// over a return to the previous version. An agent of the other version serves with it.
func testUpgradeOfNode(t *testing.T, previous string) {
	dir, session := t.TempDir(), record()
	args := []string{"--seal-key-file=" + newSealKey(t), "--state-file=" + filepath.Join(dir, "state"), "--cache-memory=8MiB"}
	var keys api.TicketKeys
	var consumers []string
	for i, command := range []string{previous, sessapiPath, previous} {
		s := serveWith(t, command, args...)
		now := description(t, s)
		if i == 0 {
			put(t, s, "ab", session)
		} else if now.Generation != keys.Generation || secrets(now) != secrets(keys) {
			t.Errorf("start %d: the ticket keys of generation %d are now of %d:\n%s%s", i, keys.Generation, now.Generation, secrets(keys), secrets(now))
		}
		if got := expect(t, s, "ab", http.StatusOK); !bytes.Equal(got, session) {
			t.Errorf("start %d: the session is another", i)
		}
		if got := listed(t, s); !slices.Equal(got, consumers) {
			t.Errorf("start %d: the consumers are %v, not %v", i, got, consumers)
		}
		if a := s.ask(t, http.MethodPost, "/ticket-keys/rotate", nil); a.status != http.StatusOK {
			t.Errorf("POST /ticket-keys/rotate: %d %s", a.status, a.body)
		}
		keys = description(t, s)

		agent, other := filepath.Join(dir, "agent.yaml"), sessapiPath
		if command == sessapiPath {
			other = previous
		}
		if err := os.WriteFile(agent, fmt.Appendf(nil, `
service: {addresses: ["http://%s"]}
targets: [{kind: file, format: openssl, file: "{key}.key", keys: 2}]
`, s.addr), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, other, "agent", "--config", agent, "--once")
		want := s.ask(t, http.MethodGet, "/ticket-keys?format=openssl&key=0", nil, "Accept", "application/octet-stream")
		if !bytes.Equal(readFile(t, filepath.Join(dir, "0.key")), want.body) {
			t.Errorf("start %d: the agent of the other version writes another key", i)
		}
		reportCurrent(t, s, fmt.Sprintf("edge/%d", i), keys.Generation)
		consumers = listed(t, s)
		s.stop(t, syscall.SIGTERM)
	}
}

const frozenDir = "testdata/frozen"

// What earlier versions have left in state files and in Redis opens. make freeze makes
// the samples.
func TestFrozen(t *testing.T) {
	t.Parallel()
	samples, err := os.ReadDir(frozenDir)
	if err != nil || len(samples) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, sample := range samples {
		dir := filepath.Join(frozenDir, sample.Name())
		t.Run(sample.Name(), func(t *testing.T) {
			t.Parallel()
			args := []string{"--seal-key-file=" + filepath.Join(dir, "seal.key"), "--rotate-every=0", "--cache-memory=8MiB"}
			t.Run("state file", func(t *testing.T) {
				t.Parallel()
				state := t.TempDir()
				if err := os.CopyFS(state, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				expectFrozen(t, dir, serve(t, append(args, "--state-file="+filepath.Join(state, "state"))...))
			})
			t.Run("Redis", func(t *testing.T) {
				t.Parallel()
				var records map[string][]byte
				if err := json.Unmarshal(readFile(t, filepath.Join(dir, "redis.json")), &records); err != nil {
					t.Fatal(err)
				}
				redis := redistest.Start(t)
				for key, value := range records {
					set := exec.Command("redis-cli", "-h", "127.0.0.1", "-p", fmt.Sprint(redis.Port), "-x", "SET", key)
					set.Stdin = bytes.NewReader(value)
					if output, err := set.CombinedOutput(); err != nil || !strings.HasPrefix(string(output), "OK") {
						t.Fatalf("SET %s: %v %s", key, err, output)
					}
				}
				expectFrozen(t, dir, serve(t, append(args, "--redis="+redis.URL(), "--redis-read-timeout=5s")...))
			})
		})
	}
}

// frozen is what the service had when a sample was made, as it answered.
type frozen struct {
	TicketKeys api.TicketKeys    `json:"ticket_keys"`
	Sessions   map[string][]byte `json:"sessions"`
	Consumers  []string          `json:"consumers"`
}

func expectFrozen(t *testing.T, dir string, s *service) {
	t.Helper()
	var want frozen
	if err := json.Unmarshal(readFile(t, filepath.Join(dir, "content.json")), &want); err != nil {
		t.Fatal(err)
	}
	got := description(t, s)
	if got.Generation != want.TicketKeys.Generation || got.Source != want.TicketKeys.Source || secrets(got) != secrets(want.TicketKeys) {
		t.Errorf("the ticket keys are of generation %d, %s:\n%snot %d, %s:\n%s", got.Generation, got.Source, secrets(got),
			want.TicketKeys.Generation, want.TicketKeys.Source, secrets(want.TicketKeys))
	}
	if len(want.Sessions) == 0 || len(want.Consumers) == 0 {
		t.Fatal("the sample is empty")
	}
	for id, session := range want.Sessions {
		if got := expect(t, s, id, http.StatusOK); !bytes.Equal(got, session) {
			t.Errorf("session %s is another", id)
		}
	}
	awaitConsumers(t, []*service{s}, want.Consumers...)
}

// TestFreeze makes the sample of previousVersion. It runs only with FREEZE=true, which
// make freeze sets.
//
// Sessions live for a week at most, and samples for years. So the sample is made by a
// build of the version whose clock is a century ahead: a session that was stored in the
// future has its whole lifetime before it.
func TestFreeze(t *testing.T) {
	if os.Getenv("FREEZE") != "true" {
		t.Skip("make freeze runs it")
	}
	dir := filepath.Join(frozenDir, previousVersion)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	command := buildPrevious(t, "-race=false", "-overlay="+clockAhead(t))
	sealKey, state := filepath.Join(dir, "seal.key"), filepath.Join(dir, "state")
	run(t, command, "seal-key", "new", "--out", sealKey)
	args := []string{"--seal-key-file=" + sealKey, "--state-file=" + state, "--rotate-every=0", "--cache-memory=8MiB"}

	alone := serveWith(t, command, args...)
	push(t, alone, append(record(), record()...))
	if a := alone.ask(t, http.MethodPost, "/ticket-keys/rotate", nil); a.status != http.StatusOK { // to 256 bits
		t.Fatalf("POST /ticket-keys/rotate: %d %s", a.status, a.body)
	}
	large := make([]byte, 16<<10)
	_, _ = rand.Read(large)
	openssl, _ := pem.Decode(readFile(t, "../../internal/sslsession/testdata/openssl-1.1.1-server.pem"))
	content := frozen{
		TicketKeys: description(t, alone),
		Sessions: map[string][]byte{
			"01":                     record(),
			strings.Repeat("02", 32): large,
			"03":                     openssl.Bytes,
		},
	}
	content.Consumers = fillFrozen(t, alone, content)
	alone.stop(t, syscall.SIGTERM)
	write := func(name string, value any) {
		t.Helper()
		data, err := json.MarshalIndent(value, "", "  ")
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), append(data, '\n'), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("content.json", content)

	redis := redistest.Start(t)
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	args[1] = "--state-file=" + filepath.Join(copied, "state")
	fillFrozen(t, serveWith(t, command, append(args, "--redis="+redis.URL())...), content)
	records := make(map[string][]byte)
	for key := range strings.FieldsSeq(redis.Do("KEYS", "sessapi:*")) {
		if kind := redis.Do("TYPE", key); kind != "string" {
			t.Fatalf("%s is a %s, which the sample cannot hold", key, kind)
		}
		value, err := exec.Command("redis-cli", "-h", "127.0.0.1", "-p", fmt.Sprint(redis.Port), "GET", key).Output()
		if err != nil {
			t.Fatal(err)
		}
		records[key] = bytes.TrimSuffix(value, []byte("\n"))
	}
	write("redis.json", records)
	if err := os.Remove(state + ".lock"); err != nil {
		t.Fatal(err)
	}
}

// fillFrozen stores the sessions, and two consumers, which it returns.
func fillFrozen(t *testing.T, s *service, content frozen) (consumers []string) {
	t.Helper()
	for id, session := range content.Sessions {
		put(t, s, id+"?ttl_seconds=604800", session)
	}
	for _, name := range []string{"edge-1/nginx", "edge-2/haproxy"} {
		if a := reportCurrent(t, s, name, content.TicketKeys.Generation); a.status != http.StatusNoContent {
			t.Fatalf("PUT /consumers/%s: %d %s", name, a.status, a.body)
		}
	}
	return listed(t, s)
}

// clockAhead is an overlay of go build in which the clock is a century ahead.
func clockAhead(t *testing.T) (overlay string) {
	t.Helper()
	path := filepath.Join(strings.TrimSpace(run(t, "go", "env", "GOROOT")), "src/time/time.go")
	const reading = "sec, nsec, mono := runtimeNow()\n"
	source := strings.Replace(string(readFile(t, path)), reading, reading+"\tsec += 100 * 365 * 24 * 3600\n", 1)
	if !strings.Contains(source, "sec += 100") {
		t.Fatalf("%s does not read the clock with %q", path, reading)
	}
	changed := filepath.Join(t.TempDir(), "time.go")
	overlay = changed + ".json"
	if err := os.WriteFile(changed, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace": {%q: %q}}`, path, changed), 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}
