package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

// load is what clients do to all nodes of a fleet, all at once, and what they were
// promised.
type load struct {
	tb    testing.TB
	nodes []*service
	stale time.Duration // how long a node may have what was deleted at another
	keeps bool          // Redis loses nothing

	mu        sync.Mutex // guards what follows
	next      int        // no ID is used twice
	stored    []string   // IDs of sessions that nobody has tried to delete
	deleted   []tombstone
	pushed    map[uint64]string // the names of ticket keys, by generation
	latest    uint64            // the highest of pushed
	confirmed []int             // writes that were, by node
	refused   []int             // and were not
}

// tombstone is a session whose deletion was acknowledged.
type tombstone struct {
	id string
	at time.Time
}

// run starts the load; stop ends it.
func (l *load) run(seed uint64) (stop func()) {
	l.pushed = make(map[uint64]string)
	l.confirmed, l.refused = make([]int, len(l.nodes)), make([]int, len(l.nodes))
	done := make(chan struct{})
	var clients sync.WaitGroup
	for node := range l.nodes {
		for kind, step := range []func(node int, random *rand.Rand){l.put, l.put, l.delete, l.get, l.get, l.push} {
			random := rand.New(rand.NewPCG(seed, uint64(16*node+kind)))
			clients.Go(func() {
				pace := time.NewTicker(8 * time.Millisecond)
				defer pace.Stop()
				for {
					select {
					case <-done:
						return
					case <-pace.C:
						step(node, random)
					}
				}
			})
		}
	}
	return func() { close(done); clients.Wait() }
}

// wrote notes the answer to a write: it was made, or the client is told to come
// again. The load is locked.
func (l *load) wrote(node int, what string, a answer, made ...int) bool {
	if slices.Contains(made, a.status) {
		l.confirmed[node]++
		return true
	}
	l.refused[node]++
	if a.status != http.StatusServiceUnavailable || !bytes.Contains(a.body, []byte(`"backend_unavailable"`)) || a.header.Get("Retry-After") == "" {
		l.tb.Errorf("node %d: %s: %d %v %s", node, what, a.status, a.header, a.body)
	}
	return false
}

func (l *load) put(node int, random *rand.Rand) {
	l.mu.Lock()
	l.next++
	id := fmt.Sprintf("%08x", l.next)
	l.mu.Unlock()
	a := l.nodes[node].ask(l.tb, http.MethodPut, "/sessions/"+id, stamped(id, random))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wrote(node, "PUT", a, http.StatusCreated) {
		l.stored = append(l.stored, id)
	}
}

func (l *load) delete(node int, random *rand.Rand) {
	l.mu.Lock()
	if len(l.stored) == 0 {
		l.mu.Unlock()
		return
	}
	i := random.IntN(len(l.stored))
	id := l.stored[i]
	l.stored = slices.Delete(l.stored, i, i+1)
	l.mu.Unlock()
	a := l.nodes[node].ask(l.tb, http.MethodDelete, "/sessions/"+id, nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.status == http.StatusNotFound && !l.keeps {
		return
	}
	if l.wrote(node, "DELETE "+id, a, http.StatusNoContent) {
		l.deleted = append(l.deleted, tombstone{id, time.Now()})
	}
}

func (l *load) get(node int, random *rand.Rand) {
	l.mu.Lock()
	var grave tombstone
	id := ""
	if n := len(l.deleted); n > 0 && random.IntN(2) == 0 {
		grave = l.deleted[max(0, n-1-random.IntN(200))]
		id = grave.id
	} else if n := len(l.stored); n > 0 {
		id = l.stored[max(0, n-1-random.IntN(200))]
	}
	l.mu.Unlock()
	if id == "" {
		return
	}
	asked := time.Now()
	a := l.nodes[node].ask(l.tb, http.MethodGet, "/sessions/"+id, nil)
	switch {
	case a.status == http.StatusNotFound:
	case a.status != http.StatusOK || !isStamped(id, a.body):
		l.tb.Errorf("node %d: GET %s: %d, %d bytes", node, id, a.status, len(a.body))
	case grave.id != "" && asked.Sub(grave.at) > l.stale:
		l.tb.Errorf("node %d has session %s %v after it was deleted", node, id, asked.Sub(grave.at))
	}
}

func (l *load) push(node int, _ *rand.Rand) {
	a := l.nodes[node].ask(l.tb, http.MethodPost, "/ticket-keys", record())
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.wrote(node, "POST /ticket-keys", a, http.StatusOK) {
		return
	}
	d := a.ticketKeys(l.tb)
	if _, ok := l.pushed[d.Generation]; ok && l.keeps {
		l.tb.Errorf("generation %d was acknowledged twice", d.Generation)
	}
	l.pushed[d.Generation] = names(d)
	l.latest = max(l.latest, d.Generation)
}

// awaitWrites waits until each node has confirmed some more writes.
func (l *load) awaitWrites() {
	l.tb.Helper()
	l.mu.Lock()
	before := slices.Clone(l.confirmed)
	l.mu.Unlock()
	redistest.Await(l.tb, "writes", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for node, n := range l.confirmed {
			if n < before[node]+30 {
				return fmt.Errorf("node %d confirmed %d", node, n-before[node])
			}
		}
		return nil
	})
}

// check holds what all nodes have now, without load, against what was promised.
func (l *load) check() {
	l.tb.Helper()
	if n := len(l.deleted); n < 50 {
		l.tb.Errorf("there were %d deletions", n)
	}
	for _, grave := range l.deleted {
		for node, s := range l.nodes {
			if a := s.ask(l.tb, http.MethodGet, "/sessions/"+grave.id, nil); a.status != http.StatusNotFound {
				l.tb.Errorf("node %d: session %s is back: %d", node, grave.id, a.status)
			}
		}
	}
	d := awaitSame(l.tb, l.nodes, l.latest)
	if want, ok := l.pushed[d.Generation]; l.keeps && ok && names(d) != want {
		l.tb.Errorf("generation %d is not what was acknowledged: %s", d.Generation, names(d))
	}
	if !l.keeps {
		return
	}
	for i, id := range l.stored {
		node := i % len(l.nodes)
		redistest.Await(l.tb, "session "+id, func() error { // one that is not answered in time is tried again
			if a := l.nodes[node].ask(l.tb, http.MethodGet, "/sessions/"+id, nil); a.status != http.StatusOK || !isStamped(id, a.body) {
				return fmt.Errorf("node %d: %d", node, a.status)
			}
			return nil
		})
	}
}

// awaitLink waits until a node says that Redis answers, or does not.
func awaitLink(tb testing.TB, s *service, connected bool) {
	tb.Helper()
	want := `"status":"degraded"`
	if connected {
		want = `"name":"fleet","status":"ok"`
	}
	redistest.Await(tb, fmt.Sprintf("a node to be connected: %v", connected), func() error {
		status, ready := s.get(tb, "/readyz", "application/json")
		_, body := s.get(tb, "/status", "application/json")
		var all api.Status
		if err := json.Unmarshal(body, &all); err != nil {
			return err
		}
		if status != http.StatusOK || !strings.Contains(string(ready), want) || all.Fleet.Connected != connected {
			return fmt.Errorf("/readyz: %d %s, /status: %+v", status, ready, *all.Fleet)
		}
		return nil
	})
}

// While Redis is away, reads are answered, writes are refused with what the client
// can go by, and nothing that was acknowledged is undone. When it is back, all
// nodes recover by themselves.
func TestFleetOutages(t *testing.T) {
	t.Parallel()
	const stale = time.Second
	durable := []string{"--appendonly", "yes", "--appendfsync", "always"}
	for _, outage := range []struct {
		name        string
		redis       []string // arguments
		keeps       bool
		fails, ends func(redis *redistest.Server, proxy *redistest.Proxy)
		lasts       time.Duration
		apart       []int // the nodes for whom Redis is away; the last is behind the proxy
	}{
		{
			name: "killed", redis: durable, keeps: true, lasts: 1500 * time.Millisecond, apart: []int{0, 1, 2},
			fails: func(redis *redistest.Server, _ *redistest.Proxy) { redis.Kill() },
			ends:  func(redis *redistest.Server, _ *redistest.Proxy) { redis.Restart() },
		},
		{
			name: "killed and empty", lasts: 1500 * time.Millisecond, apart: []int{0, 1, 2},
			fails: func(redis *redistest.Server, _ *redistest.Proxy) { redis.Kill() },
			ends:  func(redis *redistest.Server, _ *redistest.Proxy) { redis.Restart() },
		},
		{
			name: "paused", keeps: true, lasts: 3 * time.Second, apart: []int{0, 1, 2},
			fails: func(redis *redistest.Server, _ *redistest.Proxy) { redis.Pause() },
			ends:  func(redis *redistest.Server, _ *redistest.Proxy) { redis.Resume() },
		},
		{
			name: "cut off", keeps: true, lasts: 4 * time.Second, apart: []int{2},
			fails: func(_ *redistest.Server, proxy *redistest.Proxy) { proxy.Cut() },
			ends:  func(_ *redistest.Server, proxy *redistest.Proxy) { proxy.Heal() },
		},
		{
			name: "connections lost", keeps: true, lasts: 500 * time.Millisecond,
			fails: func(_ *redistest.Server, proxy *redistest.Proxy) { proxy.Reset() },
			ends:  func(_ *redistest.Server, proxy *redistest.Proxy) { proxy.Reset() },
		},
		{
			name: "slow", keeps: true, lasts: 2 * time.Second,
			fails: func(_ *redistest.Server, proxy *redistest.Proxy) { proxy.Delay(100 * time.Millisecond) },
			ends:  func(_ *redistest.Server, proxy *redistest.Proxy) { proxy.Delay(0) },
		},
	} {
		t.Run(outage.name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t, outage.redis...)
			proxy := redistest.NewProxy(t, redis.Addr())
			sealKey := newSealKey(t)
			l := &load{tb: t, stale: stale, keeps: outage.keeps}
			for _, url := range []string{redis.URL(), redis.URL(), "redis://" + proxy.Addr()} {
				l.nodes = append(l.nodes, serve(t, "--redis="+url, "--seal-key-file="+sealKey,
					"--redis-max-stale="+stale.String(), "--cache-memory=8MiB"))
			}
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			stop := sync.OnceFunc(l.run(seed))
			defer stop()
			l.awaitWrites()
			outage.fails(redis, proxy)
			failed := time.Now()
			for _, node := range outage.apart {
				awaitLink(t, l.nodes[node], false)
			}
			t.Logf("noticed after %v", time.Since(failed))
			time.Sleep(time.Until(failed.Add(outage.lasts))) // with the load on
			outage.ends(redis, proxy)
			back := time.Now()
			for node, s := range l.nodes {
				redistest.Await(t, fmt.Sprintf("a write of node %d", node), func() error {
					if a := s.ask(t, http.MethodPut, fmt.Sprintf("/sessions/ff%02x", node), record()); a.status/100 != 2 {
						return fmt.Errorf("%d %s", a.status, a.body)
					}
					return nil
				})
				t.Logf("node %d writes within %v", node, time.Since(back))
			}
			l.awaitWrites()
			for _, s := range l.nodes {
				awaitLink(t, s, true)
			}
			stop()
			l.check()
			t.Logf("%d sessions stored and %d deleted, %d sets of keys pushed; %v writes confirmed and %v refused, by node",
				l.next, len(l.deleted), len(l.pushed), l.confirmed, l.refused)
		})
	}
}
