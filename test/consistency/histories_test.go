package consistency

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/fleet"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/seal"
)

var (
	histories = flag.Int("histories", 8, "`number` of fault histories")
	// By default the same histories are run; make test-consistency runs any.
	firstSeed = flag.Uint64("seed", 4048, "`seed` of the first history, the others follow; 0 is any")
)

// TestHistories runs fleets through faults and checks what clients saw. Odd seeds have
// state files; of each four pairs of seeds two have a Redis that loses nothing that it
// acknowledged, one has a snapshot, and one nothing.
func TestHistories(t *testing.T) { runHistories(t, *histories, newHistory) }

// TestSentinelHistories is TestHistories with failovers by Sentinels, which may lose the
// last writes; there is one for eight others.
func TestSentinelHistories(t *testing.T) {
	runHistories(t, *histories/8, func(t *testing.T, seed uint64) *history {
		h := prepare(t, seed)
		r := redistest.Sentinel(t)
		h.url = r.URL()
		h.faults = []fault{
			{"failover", func() {
				redistest.Await(t, "a failover", func() error {
					if out, err := r.Sentinels[0].Try("SENTINEL", "FAILOVER", redistest.MasterSet); err != nil || out != "OK" {
						return fmt.Errorf("%s %w", out, err)
					}
					return nil
				})
				h.sleep(time.Second, 3*time.Second)
			}},
			{"a node restarts", h.restart},
		}
		h.grow()
		return h
	})
}

// TestClusterHistories is TestHistories with a cluster whose servers lose all they have,
// one at a time; there is one for eight others.
func TestClusterHistories(t *testing.T) {
	runHistories(t, *histories/8, func(t *testing.T, seed uint64) *history {
		h := prepare(t, seed)
		servers := redistest.Cluster(t)
		h.url = redistest.ClusterURL(servers)
		h.faults = []fault{
			{"a server loses data", func() {
				s := servers[h.random.IntN(len(servers))]
				s.Kill()
				h.sleep(0, time.Second)
				s.Restart()
			}},
			{"a server is flushed", func() { servers[h.random.IntN(len(servers))].Do("FLUSHALL") }},
			{"a node restarts", h.restart},
		}
		h.grow()
		return h
	})
}

func runHistories(t *testing.T, number int, start func(*testing.T, uint64) *history) {
	seed := *firstSeed
	if seed == 0 {
		seed = uint64(rand.Uint32())
	}
	for i := range number {
		seed := seed + uint64(i)
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			t.Logf("-seed %d", seed)
			h := start(t, seed)
			h.run()
			for _, broken := range h.keys.Check() {
				t.Error(broken)
			}
			for _, broken := range h.past.Check() {
				t.Error(broken)
			}
			t.Logf("%d updates of ticket keys acknowledged, %d refused; %d operations on sessions; faults: %v", len(h.keys.Updates), h.refused, len(h.past.Operations), h.happened)
			if len(h.keys.Updates) < 10 || len(h.past.Operations) < 100 {
				t.Error("next to nothing happened")
			}
		})
	}
}

// history is a fleet and what happens to it.
type history struct {
	t       *testing.T
	random  *rand.Rand // for the faults alone
	seed    uint64
	seal    *seal.Keys
	url     string            // of Redis when there is no single server
	redis   *redistest.Server // the single server
	faults  []fault
	persist string
	states  bool
	began   time.Time
	quiet   sync.RWMutex // held by an update; locked to have none

	mu      sync.Mutex // guards what follows
	nodes   []*node
	started int
	keys    KeyHistory
	past    SessionHistory
	value   int
	refused int

	happened []string
}

// fault is what may happen to a fleet.
type fault struct {
	name string
	do   func()
}

// prepare makes a history without nodes, of a Redis that may lose data.
func prepare(t *testing.T, seed uint64) *history {
	h := &history{
		t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 0)), began: time.Now(),
		persist: []string{"always", "nothing", "always", "snapshot"}[seed/2%4], states: seed%2 == 1,
	}
	var err error
	if h.seal, err = seal.ParseKeys(seal.GenerateKey()); err != nil {
		t.Fatal(err)
	}
	h.past = SessionHistory{Stale: maxStale + readTimeout, Loses: true}
	return h
}

// newHistory is one with a single server.
func newHistory(t *testing.T, seed uint64) *history {
	h := prepare(t, seed)
	var args []string
	if h.persist == "always" {
		args = []string{"--appendonly", "yes", "--appendfsync", "always"}
	}
	h.redis = redistest.Start(t, args...)
	h.past.Loses = h.persist != "always"
	h.faults = []fault{
		{"Redis loses data", func() { h.lose(nil) }},
		{"Redis loses data", func() { h.lose(nil) }},
		{"Redis loses data, a node joins", func() { h.lose(func() *node { return h.start(h.statePath()) }) }},
		{"Redis loses data, a node returns", h.loseAndReturn},
		{"Redis is paused", func() { h.redis.Pause(); h.sleep(200*time.Millisecond, 2*time.Second); h.redis.Resume() }},
		{"a link fails", h.cut},
		{"a node restarts", h.restart},
	}
	h.grow()
	return h
}

// grow starts the first nodes.
func (h *history) grow() {
	for range 3 {
		h.add(h.start(h.statePath()))
	}
}

func (h *history) now() time.Duration { return time.Since(h.began) }

// statePath is that of a new node; "" without state files.
func (h *history) statePath() string {
	if !h.states {
		return ""
	}
	return filepath.Join(h.t.TempDir(), "state")
}

// start starts a node; nil when it could not join, which a fault may be the reason of.
func (h *history) start(statePath string) *node {
	url := h.url
	var l *link
	if h.redis != nil {
		l = newLink(h.t, h.redis.Addr())
		url = "redis://" + l.listener.Addr().String()
	}
	h.mu.Lock()
	number := h.started
	h.started++
	h.mu.Unlock()
	n, err := startNode(h.t, number, url, l, h.seal, statePath)
	if err != nil {
		h.t.Logf("node %d: %v", number, err)
		return nil
	}
	h.t.Cleanup(n.stop)
	return n
}

// add has clients use a node.
func (h *history) add(n *node) {
	if n == nil {
		return
	}
	h.mu.Lock()
	h.nodes = append(h.nodes, n)
	h.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	random := func(i uint64) *rand.Rand { return rand.New(rand.NewPCG(h.seed, uint64(n.number)<<8+i)) }
	clients.Go(func() { h.watch(ctx, n) })
	clients.Go(func() { h.update(ctx, n, random(1)) })
	for i := range 2 {
		clients.Go(func() { h.use(ctx, n, random(uint64(2+i))) })
	}
	stop := n.stop
	n.quit = cancel
	n.stop = sync.OnceFunc(func() { cancel(); clients.Wait(); stop() })
	h.t.Cleanup(n.stop)
}

// remove crashes a node.
func (h *history) remove(n *node) {
	h.mu.Lock()
	h.nodes = slices.DeleteFunc(h.nodes, func(o *node) bool { return o == n })
	h.mu.Unlock()
	n.stop()
}

// leave crashes a node when the others have what it acknowledged.
func (h *history) leave(n *node) {
	h.quiet.Lock()
	h.agree()
	n.quit()
	h.quiet.Unlock()
	h.remove(n)
}

// watch notes each set that a node hands out.
func (h *history) watch(ctx context.Context, n *node) {
	for {
		changed := n.ring.Changed()
		s := Sighting{Node: n.number, Set: setOf(n.ring.Description()), At: h.now()}
		h.mu.Lock()
		h.keys.Sightings = append(h.keys.Sightings, s)
		h.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// pace waits for a random time, and reports whether ctx goes on.
func pace(ctx context.Context, random *rand.Rand, most time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Duration(random.Int64N(int64(most)))):
		return true
	}
}

// update rotates ticket keys and revokes some.
func (h *history) update(ctx context.Context, n *node, random *rand.Rand) {
	for pace(ctx, random, 150*time.Millisecond) {
		h.quiet.RLock()
		if ctx.Err() == nil {
			h.updateOnce(n, random)
		}
		h.quiet.RUnlock()
	}
}

func (h *history) updateOnce(n *node, random *rand.Rand) {
	var u Update
	before := n.ring.Description()
	var d keys.Description
	var err error
	if revoke := before.Keys[random.IntN(len(before.Keys))]; len(before.Keys) > 40 || random.IntN(3) == 0 {
		u.Revoked = revoke.Fingerprint
		d, err = n.ring.Revoke(h.t.Context(), revoke.Name, keys.Update{})
	} else if d, err = n.ring.Rotate(h.t.Context(), keys.Update{}); err == nil {
		u.Made = d.Keys[1].Fingerprint
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		u.Node, u.Set, u.At = n.number, setOf(d), h.now()
		h.keys.Updates = append(h.keys.Updates, u)
	case errors.Is(err, keys.ErrUnavailable):
		h.refused++
		if u.Revoked != "" && !changedNothing(err) {
			u.Node, u.Set, u.At = n.number, setOf(before), h.now()
			h.keys.Unknown = append(h.keys.Unknown, u)
		}
	case !errors.Is(err, keys.ErrKeyNotFound):
		h.t.Errorf("node %d: %v", n.number, err)
	}
}

// changedNothing reports whether an update that failed tells its client that it was not made.
func changedNothing(err error) bool {
	return errors.Is(err, keys.ErrUnsettled) || errors.Is(err, fleet.ErrNotConnected) || errors.Is(err, fleet.ErrRefused)
}

// use stores, deletes and looks up sessions.
func (h *history) use(ctx context.Context, n *node, random *rand.Rand) {
	for pace(ctx, random, 10*time.Millisecond) {
		o := Operation{Node: n.number, ID: random.IntN(8), Kind: Get, Outcome: Done, Begin: h.now()}
		id, err := cache.MakeID([]byte{byte(o.ID)})
		if err != nil {
			h.t.Error(err)
			return
		}
		switch random.IntN(6) {
		case 0:
			h.mu.Lock()
			h.value++
			o.Kind, o.Value = Put, h.value
			h.mu.Unlock()
			_, err = n.sessions.Put(ctx, id, []byte(strconv.Itoa(o.Value)), cache.PutOptions{ExpiresAt: time.Now().Add(time.Hour)})
		case 1:
			o.Kind = Delete
			err = n.sessions.Delete(ctx, id, nil)
		default:
			data, _, ok := n.sessions.Get(ctx, nil, id)
			if !ok {
				o.Outcome = None
			} else if o.Value, err = strconv.Atoi(string(data)); err != nil {
				h.t.Errorf("session %d is %q", o.ID, data)
			}
		}
		switch {
		case errors.Is(err, fleet.ErrUnavailable):
			o.Outcome = Unknown
		case errors.Is(err, cache.ErrNotFound):
			o.Outcome = None
		case err != nil:
			h.t.Error(err)
		}
		o.End = h.now()
		h.mu.Lock()
		h.past.Operations = append(h.past.Operations, o)
		h.mu.Unlock()
	}
}

// agree waits until all nodes have the same set.
func (h *history) agree() {
	h.t.Helper()
	redistest.Await(h.t, "the nodes to agree", func() error {
		for _, n := range h.nodes {
			if got, want := n.ring.Generation(), h.nodes[0].ring.Generation(); got != want {
				return fmt.Errorf("node %d has generation %d, node %d %d", n.number, got, h.nodes[0].number, want)
			}
		}
		return nil
	})
}

// settled waits until updates are made again.
func (h *history) settled() {
	h.t.Helper()
	h.mu.Lock()
	before := len(h.keys.Updates)
	h.mu.Unlock()
	redistest.Await(h.t, "updates", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.keys.Updates) < before+3 {
			return errors.New("none was made")
		}
		return nil
	})
}

// between is a random time.
func (h *history) between(least, most time.Duration) time.Duration {
	return least + time.Duration(h.random.Int64N(int64(most-least)))
}

func (h *history) sleep(least, most time.Duration) { time.Sleep(h.between(least, most)) }

// run has faults happen, one after another, and heals them.
func (h *history) run() {
	h.settled()
	for range 3 {
		f := h.faults[h.random.IntN(len(h.faults))]
		h.happened = append(h.happened, f.name)
		f.do()
		h.settled()
	}
	h.quiet.Lock()
	h.agree()
	for _, n := range h.nodes {
		h.keys.Last = append(h.keys.Last, setOf(n.ring.Description()))
	}
	for _, n := range h.nodes {
		n.quit()
	}
	h.quiet.Unlock()
	for _, n := range h.nodes {
		n.stop()
	}
}

// cut disturbs the link of a node, in one direction or both, for a while.
func (h *history) cut() {
	n := h.nodes[h.random.IntN(len(h.nodes))]
	var ways [2]way
	var delays [2]time.Duration
	for i := range ways {
		ways[i] = way(h.random.IntN(3))
		delays[i] = h.between(0, 100*time.Millisecond)
	}
	n.link.set(ways, delays)
	h.sleep(100*time.Millisecond, 2*time.Second)
	n.link.heal()
}

// restart crashes a node and starts it again, or without a state file another one, when
// the others have what it acknowledged.
func (h *history) restart() {
	n := h.nodes[h.random.IntN(len(h.nodes))]
	if h.states {
		h.remove(n)
	} else {
		h.leave(n)
	}
	h.sleep(0, 500*time.Millisecond)
	h.add(h.start(n.state))
}

// lose has Redis lose what it does not persist, at a time when some nodes do not hear of
// what others do. first, if any, starts a node that gets to Redis before the others.
func (h *history) lose(first func() *node) {
	if h.persist == "snapshot" {
		h.redis.Do("SAVE")
		h.sleep(50*time.Millisecond, 300*time.Millisecond)
	}
	var apart []*node
	for _, n := range h.nodes {
		if first != nil || h.random.IntN(2) == 0 {
			apart = append(apart, n)
		}
	}
	if len(apart) < len(h.nodes) || first != nil && h.random.IntN(2) == 0 {
		for _, n := range apart {
			n.link.set([2]way{hold, hold}, [2]time.Duration{})
		}
		h.sleep(0, 300*time.Millisecond)
	}
	// Half of the time nobody asks for an update until the grace period is over: then the
	// nodes put back what they have by themselves alone.
	if h.random.IntN(2) == 0 {
		h.quiet.Lock()
		defer func(lost time.Time) {
			time.Sleep(time.Until(lost.Add(2*pollEvery + time.Second)))
			h.quiet.Unlock()
		}(time.Now())
	}
	if h.persist == "nothing" && h.random.IntN(2) == 0 {
		h.redis.Do("FLUSHALL")
	} else {
		h.redis.Kill()
		h.sleep(0, 500*time.Millisecond)
		h.redis.Restart()
	}
	for _, n := range apart {
		n.link.set([2]way{hold, hold}, [2]time.Duration{})
	}
	started := make(chan *node, 1)
	if first != nil {
		go func() { started <- first() }()
	}
	time.Sleep(h.between(0, pollEvery/4))
	h.random.Shuffle(len(apart), func(i, j int) { apart[i], apart[j] = apart[j], apart[i] })
	for _, n := range apart {
		n.link.heal()
		h.sleep(0, pollEvery/8)
	}
	if first != nil {
		h.add(<-started)
	}
}

// loseAndReturn has a node be away while keys are revoked, and be the first to get to a
// Redis that has lost what it had.
func (h *history) loseAndReturn() {
	n := h.nodes[h.random.IntN(len(h.nodes))]
	h.leave(n)
	h.settled()
	h.lose(func() *node { return h.start(n.state) })
}
