package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

// newSealKey makes a file with a seal key.
func newSealKey(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "seal.key")
	run(tb, sessapiPath, "seal-key", "new", "--out", path)
	return path
}

// fleetOf starts nodes that share what they have through Redis, and have the
// patience to wait for it on a busy machine.
func fleetOf(tb testing.TB, n int, redis string, args ...string) []*service {
	tb.Helper()
	sealKey := newSealKey(tb)
	nodes := make([]*service, n)
	for i := range nodes {
		nodes[i] = serve(tb, append([]string{"--redis=" + redis, "--seal-key-file=" + sealKey, "--redis-read-timeout=2s", "--cache-memory=8MiB"}, args...)...)
	}
	return nodes
}

// answer is what a node answered.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// ask makes a request of a node itself, as fast as that goes: there is no contract
// between. Headers are pairs of name and value. Without an answer the test fails,
// and the status is 0.
func (s *service) ask(tb testing.TB, method, path string, body []byte, headers ...string) (a answer) {
	tb.Helper()
	request, err := http.NewRequestWithContext(tb.Context(), method, "http://"+s.addr+path, bytes.NewReader(body))
	if err != nil {
		tb.Error(err)
		return a
	}
	request.Header.Set("Accept", "application/octet-stream, application/json")
	request.Header.Set("Content-Type", "application/octet-stream")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		tb.Errorf("%s %s: %v", method, path, err)
		return a
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		tb.Errorf("%s %s: %v", method, path, err)
		return a
	}
	return answer{response.StatusCode, response.Header, content}
}

// ticketKeys is the description in an answer.
func (a answer) ticketKeys(tb testing.TB) (d api.TicketKeys) {
	tb.Helper()
	if err := json.Unmarshal(a.body, &d); err != nil {
		tb.Errorf("%d %s: %v", a.status, a.body, err)
	}
	return d
}

// put stores a session and expects that it is new.
func put(tb testing.TB, s *service, id string, session []byte) {
	tb.Helper()
	if a := s.ask(tb, http.MethodPut, "/sessions/"+id, session); a.status != http.StatusCreated {
		tb.Fatalf("PUT %s: %d %s", id, a.status, a.body)
	}
}

// expect fetches a session and expects a status.
func expect(tb testing.TB, s *service, id string, status int) (session []byte) {
	tb.Helper()
	a := s.ask(tb, http.MethodGet, "/sessions/"+id, nil)
	if a.status != status {
		tb.Errorf("GET %s: %d %.200s, not %d", id, a.status, a.body, status)
	}
	return a.body
}

// awaitGone waits until a session is gone.
func awaitGone(tb testing.TB, s *service, id string) {
	tb.Helper()
	redistest.Await(tb, "the session to go", func() error {
		if a := s.ask(tb, http.MethodGet, "/sessions/"+id, nil); a.status != http.StatusNotFound {
			return fmt.Errorf("GET %s: %d", id, a.status)
		}
		return nil
	})
}

// awaitSame waits until all nodes have a set of the generation or a later one, and
// the same one, and returns it.
func awaitSame(tb testing.TB, nodes []*service, generation uint64) (d api.TicketKeys) {
	tb.Helper()
	redistest.Await(tb, "the same ticket keys everywhere", func() error {
		for i, s := range nodes {
			other := description(tb, s)
			if other.Generation < generation || i > 0 && (other.Generation != d.Generation || names(other) != names(d)) {
				return fmt.Errorf("node %d has generation %d: %s", i, other.Generation, names(other))
			}
			d = other
		}
		return nil
	})
	return d
}

// figure is a metric of a node, with its labels as they are printed.
func figure(tb testing.TB, s *service, name string) float64 {
	tb.Helper()
	text := s.ask(tb, http.MethodGet, "/metrics", nil, "Accept", "text/plain").body
	match := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindSubmatch(text)
	if match == nil {
		tb.Fatalf("there is no %s", name)
	}
	value, err := strconv.ParseFloat(string(match[1]), 64)
	if err != nil {
		tb.Fatal(err)
	}
	return value
}

// pushSettled pushes ticket keys once the nodes have had the time to put back what Redis
// may have lost.
func pushSettled(tb testing.TB, s *service, set []byte) {
	tb.Helper()
	redistest.Await(tb, "an update of the ticket keys", func() error {
		a := s.ask(tb, http.MethodPost, "/ticket-keys", set)
		if a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != "" {
			return errors.New("not settled")
		}
		if a.status != http.StatusOK {
			tb.Fatalf("POST /ticket-keys: %d %s", a.status, a.body)
		}
		return nil
	})
}

// A session that one node stored resumes through each other one, and one that was
// deleted at a node resumes through none.
func TestFleetResumes(t *testing.T) {
	t.Parallel()
	nodes := fleetOf(t, 3, redistest.Start(t).URL())
	cert, key := certificate(t, "/CN=localhost")
	ports := make([]string, len(nodes))
	for i, s := range nodes {
		ports[i] = nodeServer(t, s, cert, key, "sessions")
	}
	session := filepath.Join(t.TempDir(), "session")
	if v := nodeClient(t, ports[0], "", session); v.Reused {
		t.Fatalf("the first visit: %+v", v)
	}
	for i, port := range ports {
		if v := nodeClient(t, port, session, ""); !v.Reused {
			t.Errorf("it does not resume through node %d: %+v", i, v)
		}
	}
	_, body := nodes[0].get(t, "/sessions", "application/json")
	var page api.SessionPage
	if err := json.Unmarshal(body, &page); err != nil || len(page.Sessions) != 1 {
		t.Fatalf("the node that stored it has %s (%v)", body, err)
	}
	id := page.Sessions[0].ID
	if status, _ := nodes[2].do(t, http.MethodDelete, "/sessions/"+id, nil); status != http.StatusNoContent {
		t.Fatalf("DELETE: %d", status)
	}
	for _, s := range nodes {
		awaitGone(t, s, id)
	}
	for i, port := range ports {
		if v := nodeClient(t, port, session, ""); v.Reused {
			t.Errorf("a deleted session resumes through node %d", i)
		}
	}
}

// What one node has changed all nodes know: a session that was deleted while all of them
// have it, and a new set of ticket keys. -v logs how soon; run it alone for figures that
// mean something.
func TestFleetConverges(t *testing.T) {
	t.Parallel()
	const rounds = 50
	nodes := fleetOf(t, 3, redistest.Start(t).URL())
	var deletes, pushes []time.Duration
	for i := range rounds {
		id := fmt.Sprintf("%08x", i)
		put(t, nodes[i%3], id, record())
		for _, s := range nodes {
			expect(t, s, id, http.StatusOK)
		}
		if a := nodes[(i+1)%3].ask(t, http.MethodDelete, "/sessions/"+id, nil); a.status != http.StatusNoContent {
			t.Fatalf("DELETE: %d %s", a.status, a.body)
		}
		began := time.Now()
		for _, s := range nodes {
			awaitGone(t, s, id)
		}
		deletes = append(deletes, time.Since(began))

		a := nodes[i%3].ask(t, http.MethodPost, "/ticket-keys", record())
		if a.status != http.StatusOK {
			t.Fatalf("POST: %d %s", a.status, a.body)
		}
		began = time.Now()
		awaitSame(t, nodes, a.ticketKeys(t).Generation)
		pushes = append(pushes, time.Since(began))
	}
	slices.Sort(deletes)
	slices.Sort(pushes)
	t.Logf("a deleted session was gone everywhere within %v (median), %v (longest)", deletes[rounds/2], deletes[rounds-1])
	t.Logf("new ticket keys were active everywhere within %v (median), %v (longest)", pushes[rounds/2], pushes[rounds-1])
}

// Clients of all nodes push ticket keys at the same time. Every set that was
// acknowledged has a generation of its own, and with If-Match it follows the very
// one that its client knew; in the end all nodes have the last.
func TestFleetOrdersTicketKeys(t *testing.T) {
	t.Parallel()
	nodes := fleetOf(t, 3, redistest.Start(t).URL())
	start := awaitSame(t, nodes, 0).Generation
	const clients, pushes = 2, 25 // of each node, of each client

	var mu sync.Mutex // guards what follows
	follows := make(map[uint64]uint64)
	pushed := make(map[uint64]bool)
	conflicts := 0
	load := func(push func(s *service)) {
		var all sync.WaitGroup
		for _, s := range nodes {
			for range clients {
				all.Go(func() {
					for range pushes {
						push(s)
					}
				})
			}
		}
		all.Wait()
	}
	load(func(s *service) {
		a := s.ask(t, http.MethodPost, "/ticket-keys", record())
		if a.status != http.StatusOK {
			t.Errorf("POST /ticket-keys: %d %s", a.status, a.body)
			return
		}
		generation := a.ticketKeys(t).Generation
		mu.Lock()
		defer mu.Unlock()
		if pushed[generation] {
			t.Errorf("generation %d is two sets", generation)
		}
		pushed[generation] = true
	})
	if len(pushed) != len(nodes)*clients*pushes {
		t.Errorf("%d pushes made %d generations", len(nodes)*clients*pushes, len(pushed))
	}
	latest := start
	for generation := range pushed {
		latest = max(latest, generation)
	}
	if d := awaitSame(t, nodes, latest); d.Generation != latest {
		t.Errorf("generation %d is active, %d was the last that was acknowledged", d.Generation, latest)
	}

	start = latest
	load(func(s *service) {
		for {
			before := s.ask(t, http.MethodGet, "/ticket-keys", nil, "Accept", "application/json").ticketKeys(t).Generation
			a := s.ask(t, http.MethodPost, "/ticket-keys", record(), "If-Match", fmt.Sprintf("%q", strconv.FormatUint(before, 10)))
			mu.Lock()
			switch a.status {
			case http.StatusOK:
				after := a.ticketKeys(t).Generation
				if other, ok := follows[before]; ok {
					t.Errorf("generations %d and %d both followed %d", after, other, before)
				}
				follows[before] = after
				mu.Unlock()
				return
			case http.StatusPreconditionFailed:
				conflicts++
				mu.Unlock()
			default:
				mu.Unlock()
				t.Errorf("POST /ticket-keys: %d %s", a.status, a.body)
				return
			}
		}
	})
	last, links := start, 0
	for next, ok := follows[last]; ok && links <= len(follows); next, ok = follows[last] {
		last, links = next, links+1
	}
	if links != len(nodes)*clients*pushes {
		t.Errorf("%d updates make a chain of %d", len(nodes)*clients*pushes, links)
	}
	if d := awaitSame(t, nodes, last); d.Generation != last {
		t.Errorf("generation %d is active, %d was the last that was acknowledged", d.Generation, last)
	}
	t.Logf("%d updates came after another one's and were refused", conflicts)
}

// quoted is how redis-cli prints bytes (sdscatrepr in Redis's sds.c).
func quoted(b []byte) string {
	var text strings.Builder
	for _, c := range b {
		switch i := bytes.IndexByte([]byte("\\\"\n\r\t\a\b"), c); {
		case i >= 0:
			text.WriteString(`\` + string(`\"nrtab`[i]))
		case c >= ' ' && c <= '~':
			text.WriteByte(c)
		default:
			fmt.Fprintf(&text, `\x%02x`, c)
		}
	}
	return text.String()
}

// encodings are what a secret looks like: as it is, as hex, and as base64 at any
// place in what is encoded.
func encodings(secret []byte) (all []string) {
	for offset := range 3 {
		part := secret[offset : offset+12]
		all = append(all, quoted(part), fmt.Sprintf("%x", part), fmt.Sprintf("%X", part), base64.StdEncoding.EncodeToString(part))
	}
	return all
}

// Who reads all that Redis has and all that it is told sees no secret.
func TestFleetHidesSecrets(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	monitor := start(t, need(t, "redis-cli"), "-p", strconv.Itoa(redis.Port), "MONITOR")
	monitor.out.await(t, "OK")
	nodes := fleetOf(t, 2, redis.URL())
	var secrets [][]byte
	for i := range 20 {
		id, session := fmt.Sprintf("%04x", i), record()
		secrets = append(secrets, session[:16], session[16:32], session[32:])
		put(t, nodes[i%2], id, session)
		if got := expect(t, nodes[(i+1)%2], id, http.StatusOK); !bytes.Equal(got, session) {
			t.Fatal("another session")
		}
		key := record()
		secrets = append(secrets, key[16:32], key[32:])
		push(t, nodes[i%2], key)
	}
	if a := nodes[0].ask(t, http.MethodPut, "/sessions/0001", record(), "If-None-Match", "*"); a.status != http.StatusPreconditionFailed {
		t.Errorf("PUT of a session that is there: %d %s", a.status, a.body)
	}
	redis.Do("SET", "the end", "\x01\"\\\n of it")
	monitor.out.await(t, regexp.QuoteMeta(quoted([]byte("\x01\"\\\n of it"))))
	read := monitor.out.String()
	for name := range strings.Lines(redis.Do("KEYS", "*")) {
		name = strings.TrimSpace(name)
		read += name + redis.Do("--no-raw", "GET", name) + redis.Do("--no-raw", "DUMP", name)
	}
	for _, want := range []string{`"SET" "sessapi:session:0001"`, "sessapi:ticket-keys"} {
		if !strings.Contains(read, want) {
			t.Fatalf("the test does not see what Redis is told: no %s", want)
		}
	}
	for _, secret := range secrets {
		for _, encoded := range encodings(secret) {
			if strings.Contains(read, encoded) {
				t.Fatalf("a secret is in Redis: %s", encoded)
			}
		}
	}
}

// cutShort is a script that drops the last byte of a value.
const cutShort = "return redis.call('SET', KEYS[1], string.sub(redis.call('GET', KEYS[1]), 1, -2))"

// What somebody else put into Redis, or moved there, is refused, counted and
// treated as if it were not there.
func TestFleetRefusesForeignRecords(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	nodes := fleetOf(t, 2, redis.URL())
	fleetElsewhere := fleetOf(t, 1, redis.URL()+"/1")[0] // with a seal key of its own
	sealKey := ""
	for _, arg := range nodes[0].Args {
		if path, ok := strings.CutPrefix(arg, "--seal-key-file="); ok {
			sealKey = path
		}
	}
	otherNamespace := serve(t, "--redis="+redis.URL(), "--seal-key-file="+sealKey, "--namespace=other")

	for name, tamper := range map[string]func(id string){
		"of another session": func(id string) {
			put(t, nodes[0], id+"00", record())
			redis.Do("COPY", "sessapi:session:"+id+"00", "sessapi:session:"+id, "REPLACE")
		},
		"cut short": func(id string) { redis.Do("EVAL", cutShort, "1", "sessapi:session:"+id) },
		"empty":     func(id string) { redis.Do("SET", "sessapi:session:"+id, "") },
		"no record": func(id string) { redis.Do("SET", "sessapi:session:"+id, "something else") },
		"of another seal key": func(id string) {
			put(t, fleetElsewhere, id, record())
			redis.Do("-n", "1", "COPY", "sessapi:session:"+id, "sessapi:session:"+id, "DB", "0", "REPLACE")
		},
		"of another namespace": func(id string) {
			put(t, otherNamespace, id, record())
			redis.Do("COPY", "other:session:"+id, "sessapi:session:"+id, "REPLACE")
		},
		"of the ticket keys": func(id string) {
			redis.Do("COPY", "sessapi:ticket-keys", "sessapi:session:"+id, "REPLACE")
		},
	} {
		t.Run("session "+name, func(t *testing.T) {
			id := fmt.Sprintf("%x", name)
			put(t, nodes[0], id, record())
			for _, s := range nodes {
				expect(t, s, id, http.StatusOK) // it has it near
			}
			refused := figure(t, nodes[1], `sessapi_fleet_refused_records_total{kind="session"}`)
			tamper(id)
			awaitGone(t, nodes[0], id)
			awaitGone(t, nodes[1], id)
			if figure(t, nodes[1], `sessapi_fleet_refused_records_total{kind="session"}`) == refused && name != "empty" {
				t.Error("the record is not counted")
			}
			if a := nodes[1].ask(t, http.MethodPut, "/sessions/"+id, record()); a.status/100 != 2 {
				t.Errorf("PUT in its place: %d %s", a.status, a.body)
			}
			expect(t, nodes[1], id, http.StatusOK)
		})
	}

	push(t, nodes[0], record())
	redis.Do("COPY", "sessapi:ticket-keys", "older", "REPLACE")
	active := nodes[1].ask(t, http.MethodPost, "/ticket-keys", record()).ticketKeys(t)
	awaitSame(t, nodes, active.Generation)
	for name, tamper := range map[string]func(){
		"cut short": func() { redis.Do("EVAL", cutShort, "1", "sessapi:ticket-keys") },
		"no record": func() { redis.Do("SET", "sessapi:ticket-keys", "something else") },
		"of another seal key": func() {
			redis.Do("-n", "1", "COPY", "sessapi:ticket-keys", "sessapi:ticket-keys", "DB", "0", "REPLACE")
		},
		"of another namespace": func() { redis.Do("COPY", "other:ticket-keys", "sessapi:ticket-keys", "REPLACE") },
		"of a session": func() {
			put(t, nodes[0], "5e", record())
			redis.Do("COPY", "sessapi:session:5e", "sessapi:ticket-keys", "REPLACE")
			nodes[0].ask(t, http.MethodDelete, "/sessions/5e", nil)
		},
	} {
		t.Run("ticket keys "+name, func(t *testing.T) {
			redis.Do("COPY", "sessapi:ticket-keys", "good", "REPLACE")
			refused := figure(t, nodes[1], `sessapi_fleet_refused_records_total{kind="ticket_keys"}`)
			tamper()
			redistest.Await(t, "the record to be counted", func() error {
				if figure(t, nodes[1], `sessapi_fleet_refused_records_total{kind="ticket_keys"}`) == refused {
					return fmt.Errorf("still %v", refused)
				}
				return nil
			})
			for i, s := range nodes {
				if status, body := s.do(t, http.MethodPost, "/ticket-keys", record(), "Content-Type", "application/octet-stream"); status != http.StatusServiceUnavailable {
					t.Errorf("node %d: POST /ticket-keys: %d %s", i, status, body)
				}
				if d := description(t, s); names(d) != names(active) {
					t.Errorf("node %d has other keys: %s", i, names(d))
				}
				if status, body := s.get(t, "/readyz", "application/json"); status != http.StatusOK {
					t.Errorf("node %d: /readyz: %d %s", i, status, body)
				}
			}
			redis.Do("COPY", "good", "sessapi:ticket-keys", "REPLACE")
		})
	}

	// A record that was good once is not any more: the nodes know better, and so
	// does one that comes later.
	restored := func() float64 {
		return figure(t, nodes[0], "sessapi_fleet_ticket_keys_restored_total") + figure(t, nodes[1], "sessapi_fleet_ticket_keys_restored_total")
	}
	before := restored()
	redis.Do("COPY", "older", "sessapi:ticket-keys", "REPLACE")
	redistest.Await(t, "the set to be put back", func() error {
		if restored() == before {
			return fmt.Errorf("still %v", before)
		}
		return nil
	})
	late := serve(t, "--redis="+redis.URL(), "--seal-key-file="+sealKey)
	if d := awaitSame(t, append(slices.Clone(nodes), late), active.Generation); names(d) != names(active) {
		t.Errorf("an older set came back: %s", names(d))
	}
	redis.Do("DEL", "sessapi:ticket-keys")
	pushSettled(t, nodes[0], record())
	awaitSame(t, append(nodes, late), active.Generation+1)
}

// On the day that Redis comes the ticket keys stay as they are.
func TestFleetStartsFromStateFile(t *testing.T) {
	t.Parallel()
	sealKey, stateFile := newSealKey(t), filepath.Join(t.TempDir(), "state")
	own := []string{"--seal-key-file=" + sealKey, "--state-file=" + stateFile}
	alone := serve(t, own...)
	push(t, alone, append(record(), record()...))
	before := description(t, alone)
	alone.stop(t, syscall.SIGTERM)

	redis := redistest.Start(t)
	moved := serve(t, append(own, "--redis="+redis.URL())...)
	second := serve(t, "--seal-key-file="+sealKey, "--redis="+redis.URL())
	for i, s := range []*service{moved, second} {
		d := description(t, s)
		if names(d) != names(before) || d.Generation != before.Generation || d.Keys[1].Fingerprint != before.Keys[1].Fingerprint {
			t.Errorf("node %d has other keys: %s", i, names(d))
		}
	}

	// Its state file follows the fleet, and does for a start without Redis.
	pushed := second.ask(t, http.MethodPost, "/ticket-keys", record()).ticketKeys(t)
	awaitSame(t, []*service{moved, second}, pushed.Generation)
	moved.stop(t, syscall.SIGTERM)
	redis.Kill()
	keyFile := filepath.Join(t.TempDir(), "keys") // may be older than the fleet's set, which cannot be asked
	if err := os.WriteFile(keyFile, record(), 0o600); err != nil {
		t.Fatal(err)
	}
	apart := serve(t, append(own, "--redis="+redis.URL(), "--ticket-key-file="+keyFile)...)
	if d := description(t, apart); names(d) != names(pushed) {
		t.Errorf("without Redis the node has other keys: %s", names(d))
	}
	if _, body := apart.get(t, "/readyz", "application/json"); !bytes.Contains(body, []byte(`"status":"degraded"`)) {
		t.Errorf("without Redis: /readyz: %s", body)
	}

	began := time.Now()
	lost := start(t, sessapiPath, "serve", "--listen=127.0.0.1:0", "--seal-key-file="+sealKey, "--redis="+redis.URL(),
		"--state-file="+filepath.Join(t.TempDir(), "not-there-yet"))
	lost.wait(t)
	if took := time.Since(began); took < 5*time.Second {
		t.Errorf("a node without keys waits only %v for Redis", took)
	}
	lines := strings.Split(strings.TrimSpace(lost.out.String()), "\n")
	if last := lines[len(lines)-1]; lost.ProcessState.ExitCode() != 1 || !strings.Contains(last, "a state file") {
		t.Errorf("exit code %d: %s", lost.ProcessState.ExitCode(), last)
	}
	var told int
	for _, line := range lines {
		if strings.Contains(line, "--redis") {
			told++
		}
	}
	if told != 1 {
		t.Errorf("it is said %d times:\n%s", told, lost.out)
	}

	redis.Restart()
	if d := awaitSame(t, []*service{apart, second}, pushed.Generation); names(d) != names(pushed) {
		t.Errorf("an empty Redis does not get the keys: %s", names(d))
	}
}

// redisRights are what sessapi may do in Redis, as ACL SETUSER takes it, wherever
// it is; with Sentinels it needs one more.
var redisRights = []string{
	"on", ">correct-horse", "resetchannels", "~sessapi:*", "-@all",
	"+ping", "+time", "+client|tracking",
	"+getrange", "+exists", "+set", "+del", "+unlink", "+scan", "+eval", "+evalsha", "+info", "+cluster|slots",
}

// allow makes the user sessapi at a Redis, with some rights beside redisRights, and
// returns the flag of its password.
func allow(tb testing.TB, redis *redistest.Server, more ...string) (flag string) {
	tb.Helper()
	redis.Do(slices.Concat([]string{"ACL", "SETUSER", "sessapi"}, redisRights, more)...)
	path := filepath.Join(tb.TempDir(), "redis-auth")
	if err := os.WriteFile(path, []byte("sessapi correct-horse\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	return "--redis-auth-file=" + path
}

// expectAllowed expects that nothing was denied to the user sessapi.
func expectAllowed(tb testing.TB, redis *redistest.Server) {
	tb.Helper()
	if log := redis.Do("ACL", "LOG"); log != "" {
		tb.Errorf("something was denied:\n%s", log)
	}
}

// With TLS, client certificates, and a user who may do what is needed and no more.
func TestFleetWithTLSAndRights(t *testing.T) {
	t.Parallel()
	serverCert, serverKey := certificate(t, "/CN=redis")
	clientCert, clientKey := certificate(t, "/CN=sessapi")
	port := freePort(t)
	redis := redistest.Start(t, "--tls-port", port, "--tls-cert-file", serverCert, "--tls-key-file", serverKey,
		"--tls-ca-cert-file", clientCert, "--tls-auth-clients", "yes")
	auth := allow(t, redis)
	redis.Do("CONFIG", "RESETSTAT")
	nodes := fleetOf(t, 2, "rediss://127.0.0.1:"+port, auth,
		"--redis-ca="+serverCert, "--redis-cert="+clientCert, "--redis-key="+clientKey)
	useFleet(t, nodes)
	expectAllowed(t, redis)
	stats := redis.Do("INFO", "commandstats")
	for _, right := range redisRights {
		command, ok := strings.CutPrefix(right, "+")
		if command == "ping" { // that is for a connection that nothing else goes through
			continue
		}
		if ok && !strings.Contains(stats, "cmdstat_"+command+":") {
			t.Errorf("%s is not needed", right)
		}
	}
}

// useFleet does everything that there is to do, and leaves no session and no consumer.
func useFleet(t *testing.T, nodes []*service) {
	t.Helper()
	const sessions = 60
	var kept []string
	for i := range sessions {
		id, session := fmt.Sprintf("%04x", i), record()
		put(t, nodes[i%len(nodes)], id, session)
		for j, s := range nodes {
			if got := expect(t, s, id, http.StatusOK); !bytes.Equal(got, session) {
				t.Errorf("node %d has another session %s", j, id)
			}
		}
		if i%2 == 0 {
			kept = append(kept, id)
			continue
		}
		deleter := nodes[(i+1)%len(nodes)]
		tag := deleter.ask(t, http.MethodGet, "/sessions/"+id, nil).header.Get("ETag")
		if a := deleter.ask(t, http.MethodPut, "/sessions/"+id, session, "If-None-Match", "*"); a.status != http.StatusPreconditionFailed {
			t.Errorf("PUT of a session that is there: %d %s", a.status, a.body)
		}
		if a := deleter.ask(t, http.MethodDelete, "/sessions/"+id, nil, "If-Match", tag); a.status != http.StatusNoContent {
			t.Errorf("DELETE: %d %s", a.status, a.body)
		}
		for _, s := range nodes {
			awaitGone(t, s, id)
		}
		if a := deleter.ask(t, http.MethodDelete, "/sessions/"+id, nil); a.status != http.StatusNotFound {
			t.Errorf("DELETE of what is gone: %d %s", a.status, a.body)
		}
	}
	status, body := nodes[0].do(t, http.MethodDelete, "/sessions", nil)
	if want := fmt.Sprintf(`{"removed":%d}`, len(kept)); status != http.StatusOK || strings.TrimSpace(string(body)) != want {
		t.Errorf("DELETE /sessions: %d %s, not %s", status, body, want)
	}
	for _, id := range kept {
		for _, s := range nodes {
			awaitGone(t, s, id)
		}
	}

	var consumers []string
	for i, s := range nodes {
		name := fmt.Sprintf("edge/%d", i)
		if a := reportCurrent(t, s, name, 7); a.status != http.StatusNoContent {
			t.Errorf("PUT /consumers/%s: %d %s", name, a.status, a.body)
		}
		consumers = append(consumers, name+"=7")
	}
	awaitConsumers(t, nodes, consumers...)
	for i := range nodes {
		path := fmt.Sprintf("/consumers/edge/%d", i)
		if a := nodes[(i+1)%len(nodes)].ask(t, http.MethodDelete, path, nil); a.status != http.StatusNoContent {
			t.Errorf("DELETE %s: %d %s", path, a.status, a.body)
		}
	}
	awaitConsumers(t, nodes)

	generation := uint64(0)
	for _, s := range nodes {
		pushSettled(t, s, record())
		generation = description(t, s).Generation
		if status, body := s.do(t, http.MethodPost, "/ticket-keys/rotate", nil); status != http.StatusOK {
			t.Errorf("POST /ticket-keys/rotate: %d %s", status, body)
		}
	}
	awaitSame(t, nodes, generation+1)
}

// A cluster serves a fleet, and with one of its masters dead what the others have.
func TestFleetOnCluster(t *testing.T) {
	t.Parallel()
	servers := redistest.Cluster(t)
	for _, s := range servers {
		s.Do("CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	var auth string
	for _, s := range servers {
		auth = allow(t, s)
	}
	nodes := fleetOf(t, 3, redistest.ClusterURL(servers), auth, "--redis-max-stale=2s")
	useFleet(t, nodes)
	for _, s := range servers {
		expectAllowed(t, s)
	}

	for i := range 90 {
		put(t, nodes[i%3], fmt.Sprintf("%04x", i), record())
	}
	dead := 0 // not that of the ticket keys
	for strings.Contains(servers[dead].Do("KEYS", "*"), "sessapi:ticket-keys") {
		dead++
	}
	onDead := servers[dead].Do("KEYS", "sessapi:session:*")
	if n := strings.Count(onDead, "\n"); n < 10 || n > 60 {
		t.Fatalf("a master has %d of 90 sessions", n)
	}
	servers[dead].Kill()
	for round, deadline := 0, time.Now().Add(4*time.Second); time.Now().Before(deadline); round++ {
		for i := range 90 {
			id := fmt.Sprintf("%04x", i)
			a := nodes[(i+round)%3].ask(t, http.MethodGet, "/sessions/"+id, nil)
			if lost := strings.Contains(onDead, ":"+id); a.status != http.StatusOK && (!lost || a.status != http.StatusNotFound) {
				t.Fatalf("GET %s, of the dead master: %v: %d %s", id, lost, a.status, a.body)
			}
		}
	}
	push(t, nodes[0], record())
	awaitSame(t, nodes, description(t, nodes[0]).Generation)
}

// Sentinels put a replica in the place of a master that died. Then everything goes
// on, and the ticket keys are no older than what was acknowledged.
func TestFleetWithSentinels(t *testing.T) {
	t.Parallel()
	replicated := redistest.Sentinel(t)
	var auth string
	for _, s := range replicated.Servers {
		auth = allow(t, s, "+role")
	}
	nodes := fleetOf(t, 3, replicated.URL(), auth)
	useFleet(t, nodes)
	for _, s := range replicated.Servers {
		expectAllowed(t, s)
	}
	acknowledged := nodes[0].ask(t, http.MethodPost, "/ticket-keys", record()).ticketKeys(t)
	replicated.Servers[0].Kill()
	killed := time.Now()
	for i, s := range nodes {
		redistest.Await(t, "a write", func() error {
			expect(t, s, "ab", http.StatusNotFound)
			if a := s.ask(t, http.MethodPut, fmt.Sprintf("/sessions/a%d", i), record()); a.status/100 != 2 {
				return fmt.Errorf("%d %s", a.status, a.body)
			}
			return nil
		})
		t.Logf("node %d writes again after %v", i, time.Since(killed))
	}
	if d := awaitSame(t, nodes, acknowledged.Generation); names(d) != names(acknowledged) {
		t.Errorf("the failover changed the ticket keys: %s", names(d))
	}
	for i, s := range nodes {
		if got := figure(t, s, "sessapi_fleet_protocol_violations_total"); got != 0 {
			t.Errorf("node %d closed %v connections for what Redis and the Sentinels sent", i, got)
		}
	}
	if a := nodes[0].ask(t, http.MethodDelete, "/sessions", nil); a.status != http.StatusOK {
		t.Errorf("DELETE /sessions: %d %s", a.status, a.body)
	}
	useFleet(t, nodes)
}

// An older record that is put back into Redis while all nodes are stopped brings no
// revoked key back: their state files have newer ones. It is in the audit log.
func TestFleetRevokedKeyStaysAway(t *testing.T) {
	t.Parallel()
	redis, sealKey := redistest.Start(t), newSealKey(t)
	auditLog := filepath.Join(t.TempDir(), "audit")
	args := make([][]string, 2)
	nodes := make([]*service, len(args))
	start := func() {
		for i := range nodes {
			nodes[i] = serve(t, args[i]...)
		}
	}
	for i := range args {
		args[i] = []string{
			"--redis=" + redis.URL(), "--seal-key-file=" + sealKey, "--cache-memory=8MiB",
			"--state-file=" + filepath.Join(t.TempDir(), "state"), "--audit-log=" + auditLog + strconv.Itoa(i),
		}
	}
	start()
	redis.Do("COPY", "sessapi:ticket-keys", "older")
	revoked := description(t, nodes[0]).Keys[0].Name
	if a := nodes[0].ask(t, http.MethodDelete, "/ticket-keys/"+revoked, nil); a.status != http.StatusOK {
		t.Fatalf("DELETE: %d %s", a.status, a.body)
	}
	want := awaitSame(t, nodes, description(t, nodes[0]).Generation)
	for _, s := range nodes {
		s.stop(t, syscall.SIGTERM)
	}
	redis.Do("COPY", "older", "sessapi:ticket-keys", "REPLACE")
	start()
	if d := awaitSame(t, nodes, want.Generation); names(d) != names(want) || strings.Contains(names(d), revoked) {
		t.Errorf("the keys are %s", names(d))
	}
	record, err := os.ReadFile(auditLog + "0")
	if err != nil || !strings.Contains(string(record), `"source":"put back"`) {
		t.Errorf("the audit log has no line: %s %v", record, err)
	}
}
