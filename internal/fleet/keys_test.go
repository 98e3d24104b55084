package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/logtest"
	"github.com/sessapi/sessapi/internal/seal"
)

// member is a node with ticket keys, behind a proxy of its own.
type member struct {
	node  *Node
	ring  *keys.Ring
	proxy *redistest.Proxy
	local *memoryStore
	stop  func()
}

// startMember starts a node whose own copy of the ticket keys is in local.
func startMember(t *testing.T, server *redistest.Server, k *seal.Keys, local *memoryStore) *member {
	t.Helper()
	m := &member{proxy: redistest.NewProxy(t, server.Addr()), local: local}
	c := settings("redis://"+m.proxy.Addr(), k)
	c.PollEvery = 2 * time.Second // the others have twice as long to restore what Redis has lost
	m.node = join(t, c, nil)
	var own keys.Store
	if local != nil {
		own = local
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ring, err := keys.JoinRing(ctx, m.node.Now, keys.Lifecycle{}, m.node.KeyStore(own), nil)
	if err != nil {
		t.Fatal(err)
	}
	m.ring = ring
	running, end := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { m.node.Run(running, ring.Refresh) })
	m.stop = sync.OnceFunc(func() { end(); all.Wait(); m.node.Close() })
	t.Cleanup(m.stop)
	return m
}

// awaitSet waits until all have the set of want, and then until they can update it.
func awaitSet(t *testing.T, want keys.Description, all ...*member) {
	t.Helper()
	redistest.Await(t, "the set everywhere", func() error {
		for i, m := range all {
			if d := m.ring.Description(); d.Generation != want.Generation || d.Keys[0] != want.Keys[0] {
				return fmt.Errorf("node %d has generation %d, want %d", i, d.Generation, want.Generation)
			}
		}
		return nil
	})
}

func rotate(t *testing.T, m *member) (d keys.Description) {
	t.Helper()
	redistest.Await(t, "a rotation", func() (err error) {
		d, err = m.ring.Rotate(t.Context(), keys.Update{})
		if err != nil && !errors.Is(err, keys.ErrUnavailable) {
			t.Fatal(err)
		}
		return err
	})
	return d
}

// awaitRefusal waits until the node is told that Redis may have lost updates.
func awaitRefusal(t *testing.T, m *member) {
	t.Helper()
	redistest.Await(t, "an update to be refused", func() error {
		_, err := m.ring.Rotate(t.Context(), keys.Update{})
		if err == nil {
			t.Fatal("a node updated what it found in a Redis that had lost updates")
		}
		if !errors.Is(err, keys.ErrUnsettled) {
			return err
		}
		return nil
	})
}

// However Redis loses ticket keys, nobody updates or makes any until the nodes have put
// back what they have, and the newest stays.
func TestRedisLosesTicketKeys(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*redistest.Server){
		"flushed":   func(s *redistest.Server) { s.Do("FLUSHALL") },
		"empty":     func(s *redistest.Server) { s.Kill(); s.Forget(); s.Restart() },
		"older":     func(s *redistest.Server) { s.Kill(); s.Restart() },
		"put there": func(s *redistest.Server) { s.Do("COPY", "older", "test:ticket-keys", "REPLACE") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			sealKeys := newSeal(t)
			a, b := startMember(t, server, sealKeys, nil), startMember(t, server, sealKeys, nil)
			old := rotate(t, a)
			awaitSet(t, old, a, b)
			server.Do("COPY", "test:ticket-keys", "older")
			server.Do("SAVE")
			b.proxy.Cut()
			want := rotate(t, a) // which b has not heard of
			a.proxy.Cut()
			lose(server)
			if name != "put there" { // there is nothing to tell an older record from the last by
				b.proxy.Heal()
				awaitRefusal(t, b)
				late := make(chan *member)
				go func() { late <- startMember(t, server, sealKeys, nil) }()
				a.proxy.Heal()
				c := <-late
				awaitSet(t, want, a, b, c)
			} else {
				a.proxy.Heal()
				b.proxy.Heal()
				awaitSet(t, want, a, b)
				awaitRefusal(t, b)
			}
			next := rotate(t, b)
			awaitSet(t, next, a, b)
			if now := uint64(next.UpdatedAt.UnixMilli()); next.Generation < now {
				t.Errorf("generation %d at %d", next.Generation, now)
			}
		})
	}
}

// A node that starts at an empty Redis waits for those that run, and takes their keys.
func TestEmptyRedisIsNotSeeded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sealKeys := newSeal(t)
	a := startMember(t, server, sealKeys, nil)
	want := a.ring.Description()
	a.proxy.Cut()
	server.Do("FLUSHALL")
	started := make(chan *member)
	go func() { started <- startMember(t, server, sealKeys, nil) }()
	redistest.Await(t, "the node to look", func() error {
		if server.Do("EXISTS", "test:{test:ticket-keys}:mark") != "1" {
			return errors.New("not yet")
		}
		return nil
	})
	a.proxy.Heal()
	c := <-started
	awaitSet(t, want, a, c)
	awaitSet(t, rotate(t, c), a, c)
}

// A key that was revoked does not come back with an older record of Redis, nor does the
// record replace the newer copies of the nodes.
func TestRevokedKeyStaysAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sealKeys := newSeal(t)
	a, b := startMember(t, server, sealKeys, new(memoryStore)), startMember(t, server, sealKeys, new(memoryStore))
	rotate(t, a)
	server.Do("COPY", "test:ticket-keys", "older")
	revoked := a.ring.Description().Keys[0].Name
	want, err := a.ring.Revoke(t.Context(), revoked, keys.Update{})
	if err != nil {
		t.Fatal(err)
	}
	awaitSet(t, want, a, b)
	a.stop()
	b.stop()
	server.Do("COPY", "older", "test:ticket-keys", "REPLACE")
	var log logtest.Buffer
	for _, local := range []*memoryStore{a.local, b.local} {
		copied, _ := local.Load(t.Context())
		if state := keys.PeekState(copied); state.Generation != want.Generation || !state.Shared {
			t.Fatalf("the copy is %+v, want generation %d", state, want.Generation)
		}
		c := settings(server.URL(), sealKeys)
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		n := join(t, c, nil)
		recorded := 0
		ring, err := keys.JoinRing(t.Context(), n.Now, keys.Lifecycle{}, n.KeyStore(local), func(before, after keys.Description, _ error) error {
			if recorded++; before.Generation >= want.Generation || after.Generation != want.Generation {
				t.Errorf("recorded %d to %d", before.Generation, after.Generation)
			}
			return nil
		})
		if err != nil || ring.Generation() != want.Generation {
			t.Fatalf("generation %d, want %d; %v", ring.Generation(), want.Generation, err)
		}
		copied, _ = local.Load(t.Context())
		if state := keys.PeekState(copied); state.Generation != want.Generation {
			t.Errorf("the copy is %+v, want generation %d", state, want.Generation)
		}
		if first := local == a.local; first != (recorded == 1) || first != (n.Stats().RestoredKeys == 1) {
			t.Errorf("put back %d times, recorded %d times", n.Stats().RestoredKeys, recorded)
		}
	}
	if !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("the log has no warning: %s", &log)
	}
}

// A node starts, and goes on, at a Redis that was restarted and refuses writes: nobody
// can say that it was, so it takes no updates until it takes writes again.
func TestRefusingRedisIsRead(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string][2][]string{
		"full":        {{"CONFIG", "SET", "maxmemory", "1"}, {"CONFIG", "SET", "maxmemory", "0"}},
		"no replicas": {{"CONFIG", "SET", "min-replicas-to-write", "1"}, {"CONFIG", "SET", "min-replicas-to-write", "0"}},
		"a replica":   {{"REPLICAOF", "127.0.0.1", "1"}, {"REPLICAOF", "NO", "ONE"}},
		"no snapshot": {{"CONFIG", "SET", "save", "3600 1"}, {"CONFIG", "SET", "save", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			sealKeys := newSeal(t)
			a := startMember(t, server, sealKeys, nil)
			want := rotate(t, a)
			server.Do("SAVE")
			server.Kill()
			a.stop() // before it could look again
			server.Restart()
			failSnapshot(t, server)
			server.Do(refuse[0]...)
			b := startMember(t, server, sealKeys, nil)
			if got := b.ring.Description(); got.Generation != want.Generation {
				t.Errorf("generation %d, want %d", got.Generation, want.Generation)
			}
			if _, err := b.ring.Rotate(t.Context(), keys.Update{}); !errors.Is(err, keys.ErrUnavailable) {
				t.Errorf("an update: %v", err)
			}
			if err := b.ring.Refresh(); err != nil || !b.node.Stats().Refusing {
				t.Errorf("refusing: %v; %v", b.node.Stats().Refusing, err)
			}
			server.Do(refuse[1]...)
			awaitSet(t, rotate(t, b), b)
			if got := b.node.Stats().Violations; got != 0 {
				t.Errorf("%d connections were closed for what Redis sent", got)
			}
		})
	}
}

// failSnapshot has a snapshot of the server fail. It refuses writes from then on while it
// has a schedule for snapshots.
func failSnapshot(t *testing.T, server *redistest.Server) {
	t.Helper()
	file := filepath.Join(server.Dir, "dump.rdb")
	if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
		t.Fatal(err)
	}
	server.Do("BGSAVE")
	redistest.Await(t, "the snapshot to fail", func() error {
		if out := server.Do("INFO", "persistence"); !strings.Contains(out, "rdb_last_bgsave_status:err") {
			return errors.New(out)
		}
		return nil
	})
}

// Redis itself refuses an update when it has lost data since the node asked it: the
// record is the one that the node knows, and the mark is gone.
func TestScriptRefusesUpdates(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sealKeys := newSeal(t)
	n := join(t, settings(server.URL(), sealKeys), nil)
	if _, err := keys.JoinRing(t.Context(), n.Now, keys.Lifecycle{}, n.KeyStore(nil), nil); err != nil {
		t.Fatal(err)
	}
	older, newer := n.KeyStore(nil), n.KeyStore(nil)
	state, err := older.Load(t.Context())
	if _, newerErr := newer.Load(t.Context()); err != nil || newerErr != nil {
		t.Fatal(err, newerErr)
	}
	if err := errors.Join(older.Settled(), newer.Settled()); err != nil {
		t.Fatal(err)
	}
	server.Do("COPY", n.keysName(), "older")
	if err := newer.Save(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	server.Do("COPY", "older", n.keysName(), "REPLACE")
	server.Do("DEL", n.markName())
	for _, s := range []*KeyStore{older, newer} {
		if err := s.Save(t.Context(), state); !errors.Is(err, keys.ErrUnsettled) {
			t.Errorf("saved: %v", err)
		}
		err := s.Settled()
		unsettled, ok := errors.AsType[*UnsettledError](err)
		if !ok || !errors.Is(err, keys.ErrUnsettled) || unsettled.RetryAfter() > s.gracePeriod() {
			t.Errorf("settled: %v", err)
		}
	}
}

// A grace period is logged when it begins and ends, and once when it does not end.
func TestGraceIsLogged(t *testing.T) {
	var log logtest.Buffer
	c := settings("redis://127.0.0.1:1", newSeal(t))
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s := n.KeyStore(nil)
	for range 2 {
		s.note(0)
		s.note(time.Hour)
		if left := s.Settled().(*UnsettledError).RetryAfter(); left > time.Hour || left <= 0 {
			t.Errorf("%v left", left)
		}
		s.note(time.Hour)
		s.since = s.since.Add(-6 * s.gracePeriod())
		s.note(time.Hour)
		s.note(time.Hour)
		if s.note(0); s.Settled() != nil {
			t.Error(s.Settled())
		}
	}
	for level, want := range map[string]int{"WARN": 2, "ERROR": 2, "INFO": 2} {
		if got := strings.Count(log.String(), "level="+level); got != want {
			t.Errorf("%d times %s: %s", got, level, &log)
		}
	}
}

// A node that comes with the state file of another fleet, newer than what this one has,
// takes the keys of this one, and keeps a copy of them from then on.
func TestStateFileOfAnotherFleet(t *testing.T) {
	t.Parallel()
	sealKeys := newSeal(t)
	b := startMember(t, redistest.Start(t), sealKeys, nil)
	first := b.ring.Description()
	here := redistest.Start(t)
	a := startMember(t, here, sealKeys, new(memoryStore))
	for a.ring.Generation() <= first.Generation {
		rotate(t, a)
	}
	a.stop()

	var log logtest.Buffer
	c := settings("redis://"+b.proxy.Addr(), sealKeys)
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	n := join(t, c, nil)
	ring, err := keys.JoinRing(t.Context(), n.Now, keys.Lifecycle{}, n.KeyStore(a.local), nil)
	if err != nil || ring.Description().Keys[0] != first.Keys[0] {
		t.Fatalf("%+v, want %+v; %v", ring.Description(), first, err)
	}
	if copied, _ := a.local.Load(t.Context()); keys.PeekState(copied).Generation != first.Generation {
		t.Errorf("the copy is %+v, want generation %d", keys.PeekState(copied), first.Generation)
	}
	if !strings.Contains(log.String(), "level=WARN") || n.Stats().RestoredKeys != 0 {
		t.Errorf("put back %d times: %s", n.Stats().RestoredKeys, &log)
	}
	if err := b.ring.Refresh(); err != nil || b.ring.Description().Keys[0] != first.Keys[0] {
		t.Errorf("%+v, want %+v; %v", b.ring.Description(), first, err)
	}
}

// The end of a session is a time, however long Redis takes to store it.
func TestEndIsAbsolute(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	n := newNode(t, settings(server.URL(), newSeal(t)))
	put(t, n, 2, "others")
	always := func(cache.Tag, bool) bool { return true }
	for _, cond := range []cache.Condition{nil, always} {
		redistest.Await(t, "a session that is stored after its end", func() error {
			server.Do("CLIENT", "PAUSE", "600", "WRITE")
			o := lasting(300 * time.Millisecond)
			o.If = cond
			_, err := n.sessions.Put(t.Context(), id(1), []byte("short"), o)
			if err == nil && time.Now().Before(o.ExpiresAt) {
				err = errors.New("the pause ended before the session")
			}
			return err
		})
		if got := get(n, 1); got != "" {
			t.Fatalf("it is there after its end: %q", got)
		}
		if err := n.sessions.Delete(t.Context(), id(1), nil); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("deleted after its end: %v", err)
		}
	}
}

// A clock of Redis that is off by years is not believed, and warned of once.
func TestClockOfRedis(t *testing.T) {
	var log logtest.Buffer
	c := settings("redis://127.0.0.1:1", newSeal(t))
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ ahead, want time.Duration }{
		{time.Second, time.Second},
		{5 * 365 * 24 * time.Hour, maxClockOffset},
		{1<<63 - 1, maxClockOffset},
		{-1 << 63, -maxClockOffset},
		{-time.Second, -time.Second},
	} {
		n.setOffset(test.ahead)
		if got := time.Until(n.Now()).Round(time.Second); got != test.want {
			t.Errorf("ahead by %v: believed %v, want %v", test.ahead, got, test.want)
		}
	}
	if warnings := strings.Count(log.String(), "level=WARN"); warnings != 1 {
		t.Errorf("%d warnings: %s", warnings, &log)
	}
}

// A Redis beyond this host is warned about without TLS.
func TestExposed(t *testing.T) {
	for url, warns := range map[string]bool{
		"redis://127.0.0.1:6379": false, "redis://[::1]:6379": false, "redis://localhost": false, "unix:///run/redis.sock": false,
		"rediss://redis.example:6379": false, "redis://redis.example:6379": true, "redis://127.0.0.1?addr=10.0.0.1:6379": true,
	} {
		var log logtest.Buffer
		c := settings(url, newSeal(t))
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		if _, err := New(c); err != nil || strings.Contains(log.String(), "level=WARN") != warns {
			t.Errorf("%s: %v %s", url, err, &log)
		}
	}
}

// After a connection was made anew a node is told to look at the ticket keys when it can
// ask for them, and not before: the next poll may come after the grace period.
func TestLooksAfterReconnect(t *testing.T) {
	t.Parallel()
	n := join(t, settings(redistest.Start(t).URL(), newSeal(t)), newLocal(t))
	<-n.keysWake
	n.setUp(false, errors.New("away"))
	n.broke()
	n.sessions.table.mu.Lock() // which the beat needs before it is over
	done := make(chan error)
	go func() { done <- n.Connect(t.Context()) }()
	select {
	case <-n.keysWake:
		t.Error("it was told while it could not ask")
	case <-time.After(200 * time.Millisecond): // of which a node that is right needs none
	}
	n.sessions.table.mu.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.keysWake:
	default:
		t.Error("it was not told")
	}
}

// A node whose look at the ticket keys was not answered looks again soon, and a node that
// has not reached Redis when it does: the next poll may come after the grace period. What
// Redis answers is not asked again before the next poll.
func TestLooksAgainSoon(t *testing.T) {
	for name, test := range map[string]struct {
		failure error
		want    int // looks in the first second
	}{
		"answered":   {nil, 1},
		"unanswered": {fmt.Errorf("%w: %w", keys.ErrUnavailable, unavailable(context.DeadlineExceeded)), 2},
		"refused":    {unavailable(ErrRefused), 1},
		"unreadable": {errUnreadable, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := settings("redis://127.0.0.1:1", newSeal(t))
				c.PollEvery = time.Hour
				n, err := New(c)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				looks := 0
				done := make(chan struct{})
				go func() {
					defer close(done)
					n.refreshKeys(ctx, func() error {
						if looks++; looks == 1 {
							return test.failure
						}
						return nil
					})
				}()
				time.Sleep(time.Minute)
				if looks != 0 {
					t.Error("it looked before it reached Redis")
				}
				n.setUp(true, nil)
				time.Sleep(time.Second)
				cancel()
				<-done
				if looks != test.want {
					t.Errorf("%d looks, want %d", looks, test.want)
				}
			})
		})
	}
}
