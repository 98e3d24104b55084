package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/seal"
)

func newSeal(t testing.TB) *seal.Keys {
	t.Helper()
	k, err := seal.ParseKeys(seal.GenerateKey())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// settings are those of a node for tests.
func settings(url string, k *seal.Keys) Config {
	return Config{
		URL: url, Namespace: "test", ReadTimeout: 2 * time.Second, MaxStale: time.Minute, PollEvery: 500 * time.Millisecond,
		Seal: k, Log: slog.New(slog.DiscardHandler),
	}
}

// newNode starts a node that is linked, with sessions and without ticket keys.
func newNode(t testing.TB, c Config) *Node {
	t.Helper()
	n := join(t, c, newLocal(t))
	run(t, n, func() error { return nil })
	return n
}

func newLocal(t testing.TB) *cache.Cache {
	t.Helper()
	local, err := cache.New(cache.Config{Memory: 4 << 20, MaxSessionBytes: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(local.Close)
	return local
}

// join makes a node and links it, but does not run it.
func join(t testing.TB, c Config, local *cache.Cache) *Node {
	t.Helper()
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if local != nil {
		n.Sessions(local, nil, func(time.Duration) {})
	}
	redistest.Await(t, "the link", func() error { return n.Connect(t.Context()) })
	return n
}

func run(t testing.TB, n *Node, refresh func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.Run(ctx, refresh) })
	t.Cleanup(func() { cancel(); running.Wait() })
	redistest.Await(t, "the local cache", func() error {
		if !n.fresh() {
			return errors.New("not fresh")
		}
		return nil
	})
}

func id(i int) cache.ID {
	made, _ := cache.MakeID([]byte(fmt.Sprintf("session-%d", i)))
	return made
}

func lasting(d time.Duration) cache.PutOptions {
	return cache.PutOptions{ExpiresAt: time.Now().Add(d), Mark: 1}
}

func put(t testing.TB, n *Node, i int, data string) (replaced bool) {
	t.Helper()
	replaced, err := n.sessions.Put(t.Context(), id(i), []byte(data), lasting(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return replaced
}

func get(n *Node, i int) string {
	data, _, _ := n.sessions.Get(context.Background(), nil, id(i))
	return string(data)
}

// await waits until the node has heard of a change.
func await(t testing.TB, n *Node, i int, want string) {
	t.Helper()
	redistest.Await(t, fmt.Sprintf("session %d to be %q", i, want), func() error {
		if got := get(n, i); got != want {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// awaitLocal waits until the node has a session in its local cache.
func awaitLocal(t testing.TB, n *Node, i int) {
	t.Helper()
	redistest.Await(t, "the local cache", func() error {
		before := n.Stats().LocalHits
		if get(n, i); n.Stats().LocalHits == before {
			return errors.New("not used")
		}
		return nil
	})
}

func TestSessions(t *testing.T) {
	for name, url := range map[string]func(*testing.T) string{
		"single":  func(t *testing.T) string { return redistest.Start(t).URL() },
		"cluster": func(t *testing.T) string { return redistest.ClusterURL(redistest.Cluster(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testSessions(t, url(t))
		})
	}
}

func testSessions(t *testing.T, url string) {
	sealKeys := newSeal(t)
	a, b := newNode(t, settings(url, sealKeys)), newNode(t, settings(url, sealKeys))

	if put(t, a, 1, "one") {
		t.Error("the first one replaced something")
	}
	if got := get(b, 1); got != "one" {
		t.Fatalf("at the other node: %q", got)
	}
	data, entry, ok := b.sessions.Get(t.Context(), []byte("before "), id(1))
	if string(data) != "before one" || !ok || entry.Size != 3 || entry.Mark != 1 {
		t.Errorf("%q %+v %v", data, entry, ok)
	}
	_, other, _ := a.sessions.Get(t.Context(), nil, id(1))
	for _, e := range []*cache.Entry{&entry, &other} {
		if tag := cache.TagOf([]byte("one")); e.TagOf([]byte("one")) != tag {
			t.Errorf("the tag is %+v, want %+v", e.Tag, tag)
		}
		e.Tag = cache.Tag{} // is known of what has just come from Redis
	}
	if other != entry {
		t.Errorf("%+v at one node, %+v at the other", other, entry)
	}
	if s := b.Stats(); s.RemoteHits == 0 {
		t.Errorf("the first lookup is not remote: %+v", s)
	}
	awaitLocal(t, b, 1)

	if !put(t, b, 1, "two") {
		t.Error("the second one replaced nothing")
	}
	await(t, a, 1, "two")
	tag := cache.TagOf([]byte("two"))
	is := func(want cache.Tag) cache.Condition {
		return func(current cache.Tag, exists bool) bool { return exists && current == want }
	}
	absent := func(_ cache.Tag, exists bool) bool { return !exists }
	conditional := func(n *Node, i int, data string, cond cache.Condition) error {
		o := lasting(time.Hour)
		o.If = cond
		_, err := n.sessions.Put(t.Context(), id(i), []byte(data), o)
		return err
	}
	if err := conditional(a, 1, "x", absent); !errors.Is(err, cache.ErrPrecondition) {
		t.Error(err)
	}
	if err := conditional(a, 1, "x", is(cache.Tag{})); !errors.Is(err, cache.ErrPrecondition) {
		t.Error(err)
	}
	if err := conditional(a, 1, "three", is(tag)); err != nil {
		t.Error(err)
	}
	await(t, b, 1, "three")
	if err := conditional(b, 2, "four", absent); err != nil {
		t.Error(err)
	}
	await(t, a, 2, "four")
	if err := a.sessions.Delete(t.Context(), id(2), is(tag)); !errors.Is(err, cache.ErrPrecondition) {
		t.Error(err)
	}
	if err := a.sessions.Delete(t.Context(), id(2), is(cache.TagOf([]byte("four")))); err != nil {
		t.Error(err)
	}
	await(t, b, 2, "")
	for _, cond := range []cache.Condition{nil, is(tag)} {
		if err := b.sessions.Delete(t.Context(), id(2), cond); !errors.Is(err, cache.ErrNotFound) {
			t.Error(err)
		}
	}
	if err := b.sessions.Delete(t.Context(), id(1), nil); err != nil {
		t.Error(err)
	}
	await(t, a, 1, "")

	for _, test := range []struct {
		data []byte
		end  time.Duration
		want error
	}{
		{nil, time.Hour, cache.ErrEmpty},
		{make([]byte, 16<<10+1), time.Hour, cache.ErrTooLarge},
		{[]byte("x"), -time.Second, cache.ErrExpired},
	} {
		if _, err := a.sessions.Put(t.Context(), id(3), test.data, lasting(test.end)); !errors.Is(err, test.want) {
			t.Errorf("%v, want %v", err, test.want)
		}
	}
	if _, err := a.sessions.Put(t.Context(), id(3), []byte("short"), lasting(50*time.Millisecond)); err != nil {
		t.Error(err)
	}
	await(t, b, 3, "")

	const many = 1200
	for i := range many {
		put(t, a, 100+i, "x")
	}
	if removed, err := b.sessions.Flush(t.Context()); removed != many || err != nil {
		t.Errorf("flushed %d, %v", removed, err)
	}
	for i := range many {
		await(t, a, 100+i, "")
		if got := get(b, 100+i); got != "" {
			t.Fatalf("after the flush: %q", got)
		}
	}
}

// Lookups of one session at the same time make one call of Redis.
func TestCoalesced(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sealKeys := newSeal(t)
	waits := settings(server.URL(), sealKeys)
	waits.ReadTimeout = 5 * time.Second
	a, b := newNode(t, settings(server.URL(), sealKeys)), newNode(t, waits)
	put(t, a, 1, "one")
	redistest.Await(t, "what it told of", func() error { // lookups after that do not wait for those before
		if n := b.Stats().Invalidations; n != 1 {
			return fmt.Errorf("%d invalidations", n)
		}
		return nil
	})
	server.Pause()
	const lookups = 50
	var all sync.WaitGroup
	for range lookups {
		all.Go(func() {
			if got := get(b, 1); got != "one" {
				t.Errorf("%q", got)
			}
		})
	}
	redistest.Await(t, "all lookups", func() error {
		if n := b.Stats().Coalesced; n != lookups-1 {
			return fmt.Errorf("%d wait for another", n)
		}
		return nil
	})
	server.Resume()
	all.Wait()
	if s := b.Stats(); s.RemoteHits != lookups {
		t.Errorf("%+v", s)
	}
	if out := server.Do("INFO", "commandstats"); !strings.Contains(out, "cmdstat_getrange:calls=1,") {
		t.Error(out)
	}
}

// A node that does not hear from Redis serves what it has for a while, then
// misses, refuses writes all the while, and forgets what it had when it is back.
func TestCutOff(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	sealKeys := newSeal(t)
	c := settings("redis://"+proxy.Addr(), sealKeys)
	c.MaxStale, c.ReadTimeout = 5*time.Second, 50*time.Millisecond
	a, b := newNode(t, settings(server.URL(), sealKeys)), newNode(t, c)
	put(t, a, 1, "one")
	put(t, a, 2, "two")
	awaitLocal(t, b, 1)

	proxy.Cut()
	if err := a.sessions.Delete(t.Context(), id(1), nil); err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	if got := get(b, 1); got != "one" {
		t.Errorf("right after the cut: %q", got)
	}
	if got := get(b, 2); got != "" {
		t.Errorf("what only Redis has: %q", got)
	}
	if s := b.Stats(); s.Failures > 0 { // of connections that were given up
		t.Errorf("a read waited for longer than ReadTimeout: %+v", s)
	}
	if _, err := b.sessions.Put(t.Context(), id(3), []byte("x"), lasting(time.Hour)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a write: %v", err)
	}
	for asked := time.Now(); get(b, 1) != ""; asked = time.Now() {
		if asked.Sub(deleted) > c.MaxStale {
			t.Fatalf("it was served %v after it was deleted", asked.Sub(deleted))
		}
	}
	redistest.Await(t, "the node to notice", func() error {
		if s := b.Stats(); s.Connected {
			return errors.New("connected")
		}
		return nil
	})
	if _, err := b.sessions.Put(t.Context(), id(3), []byte("x"), lasting(time.Hour)); !errors.Is(err, ErrNotConnected) {
		t.Errorf("a write: %v", err)
	}
	if _, err := b.sessions.Flush(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a flush: %v", err)
	}

	proxy.Heal()
	await(t, b, 2, "two")
	if got := get(b, 1); got != "" {
		t.Errorf("deleted while it was away: %q", got)
	}
	awaitLocal(t, b, 2)
}

// What was learnt through a connection that was lost is not served after it.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	sealKeys := newSeal(t)
	a, b := newNode(t, settings(server.URL(), sealKeys)), newNode(t, settings("redis://"+proxy.Addr(), sealKeys))
	for round := range 20 {
		put(t, a, round, "one")
		await(t, b, round, "one")
		var both sync.WaitGroup
		both.Go(proxy.Reset)
		both.Go(func() {
			if err := a.sessions.Delete(t.Context(), id(round), nil); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		await(t, b, round, "")
	}
}

// Records that are not what they should be are refused, counted and missing.
func TestRefused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sealKeys := newSeal(t)
	n, stranger := newNode(t, settings(server.URL(), sealKeys)), newNode(t, settings(server.URL(), newSeal(t)))
	c := settings(server.URL(), sealKeys)
	c.Namespace = "other"
	other := newNode(t, c)
	put(t, n, 1, "one")
	put(t, n, 2, "two")
	put(t, stranger, 3, "three")
	put(t, other, 4, "four")
	raw, err := rueidis.NewClient(rueidis.MustParseURL(server.URL()))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	read := func(key string) string {
		record, err := raw.Do(t.Context(), raw.B().Get().Key(key).Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		return record
	}
	write := func(i int, record string) {
		if err := raw.Do(t.Context(), raw.B().Set().Key(n.sessionName(id(i))).Value(record).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	two := read(n.sessionName(id(2)))
	swapped, foreign := two, read(other.sessionName(id(4)))
	cut, flipped := two[:len(two)-1], []byte(two)
	flipped[len(flipped)-1] ^= 1
	write(1, swapped)
	write(4, foreign)
	write(5, cut)
	write(6, string(flipped))
	write(7, "x")
	for i, want := range map[int]string{1: "", 2: "two", 3: "", 4: "", 5: "", 6: "", 7: ""} {
		await(t, n, i, want)
	}
	if s := n.Stats(); s.RefusedSessions < 6 {
		t.Errorf("%d were counted", s.RefusedSessions)
	}
	for _, cond := range []cache.Condition{nil, func(_ cache.Tag, exists bool) bool { return !exists }} {
		o := lasting(time.Hour)
		o.If = cond
		if _, err := n.sessions.Put(t.Context(), id(5), []byte("right"), o); err != nil || get(n, 5) != "right" {
			t.Errorf("in the place of one that does not open: %v", err)
		}
		write(5, cut)
		await(t, n, 5, "")
	}
}

// Nodes agree with a plain model, as soon as Redis has told them.
func TestModel(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SESSAPI_TEST_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SESSAPI_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	sealKeys := newSeal(t)
	nodes := []*Node{
		newNode(t, settings(server.URL(), sealKeys)),
		newNode(t, settings(server.URL(), sealKeys)),
		newNode(t, settings("redis://"+proxy.Addr(), sealKeys)),
	}
	model := map[int]string{}
	for step := range 4000 {
		n := nodes[random.IntN(len(nodes))]
		i := random.IntN(20)
		_, exists := model[i]
		switch random.IntN(12) {
		case 0, 1, 2:
			data := fmt.Sprintf("%d-%d", step, random.Uint64())
			replaced, err := n.sessions.Put(t.Context(), id(i), []byte(data), lasting(time.Hour))
			if errors.Is(err, ErrUnavailable) && n == nodes[2] {
				// It may have been made.
				if nodes[0].sessions.Delete(t.Context(), id(i), nil) != nil && exists {
					t.Fatalf("step %d: session %d is gone", step, i)
				}
				delete(model, i)
				continue
			}
			if err != nil || replaced != exists {
				t.Fatalf("step %d: put %v, replaced %v, want %v", step, err, replaced, exists)
			}
			model[i] = data
		case 3:
			err := n.sessions.Delete(t.Context(), id(i), nil)
			if errors.Is(err, ErrUnavailable) && n == nodes[2] {
				_ = nodes[0].sessions.Delete(t.Context(), id(i), nil)
			} else if errors.Is(err, cache.ErrNotFound) == exists || err != nil && exists {
				t.Fatalf("step %d: delete %v, exists %v", step, err, exists)
			}
			delete(model, i)
		case 4:
			if random.IntN(20) == 0 {
				if removed, err := nodes[random.IntN(2)].sessions.Flush(t.Context()); err != nil || removed != len(model) {
					t.Fatalf("step %d: flushed %d of %d, %v", step, removed, len(model), err)
				}
				clear(model)
			}
		case 5:
			if random.IntN(40) == 0 {
				proxy.Reset()
			}
		default:
			if random.IntN(10) > 0 {
				await(t, n, i, model[i])
			} else {
				await(t, nodes[random.IntN(2)], i, model[i])
			}
		}
	}
	for i := range 20 {
		for _, n := range nodes {
			await(t, n, i, model[i])
		}
	}
}

// Readers, writers and invalidations of one session at once never leave an old one
// behind.
func TestRace(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sealKeys := newSeal(t)
	a, b := newNode(t, settings(server.URL(), sealKeys)), newNode(t, settings(server.URL(), sealKeys))
	for round := range 40 {
		var all sync.WaitGroup
		for _, n := range []*Node{a, b} {
			for writer := range 2 {
				all.Go(func() {
					for i := range 10 {
						if _, err := n.sessions.Put(t.Context(), id(1), fmt.Appendf(nil, "%d-%d-%d", round, writer, i), lasting(time.Hour)); err != nil {
							t.Error(err)
						}
						get(n, 1)
					}
				})
				all.Go(func() {
					for range 20 {
						get(n, 1)
					}
				})
			}
		}
		all.Wait()
		// The last write is that which Redis has.
		record, err := a.get(t.Context(), time.Second, a.sessionName(id(1)))
		if err != nil {
			t.Fatal(err)
		}
		data, _, ok := a.open(nil, id(1), record)
		if !ok {
			t.Fatal("does not open")
		}
		await(t, a, 1, string(data))
		await(t, b, 1, string(data))
		if err := a.sessions.Delete(t.Context(), id(1), nil); err != nil {
			t.Fatal(err)
		}
		if got := get(a, 1); got != "" {
			t.Fatalf("after the delete: %q", got)
		}
		await(t, b, 1, "")
	}
}

func TestAuthFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth")
	for _, test := range []struct{ content, user, wantUser, wantPassword string }{
		{"secret\n", "", "", "secret"},
		{"secret", "me", "me", "secret"},
		{"you secret\n", "", "you", "secret"},
		{"you a secret", "", "you", "a secret"},
		{"a secret", "me", "me", "a secret"},
		{"you\n a secret \n", "me", "you", " a secret "},
		{"you\r\na secret\r\n", "", "you", "a secret"},
		{"\na secret\n", "", "", "a secret"},
		{"", "", "", ""},
		{"\n", "me", "", ""},
		{"you \n", "", "", ""},
		{"you\na b c\nd", "", "", ""},
		{strings.Repeat("x", maxAuthFile+1), "", "", ""},
	} {
		if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readAuth(path, test.user)
		if got.Username != test.wantUser || got.Password != test.wantPassword || (err == nil) != (test.wantPassword != "") {
			t.Errorf("%.20q: %q %q %v", test.content, got.Username, got.Password, err)
		}
		if err != nil && strings.Contains(err.Error(), "a b c") {
			t.Error(err)
		}
	}
}

// A Redis that wants credentials says which setting lacks or is wrong, and takes
// passwords with spaces, of the default user and of another one.
func TestCredentials(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "a secret")
	server.Do("-a", "a secret", "--no-auth-warning", "ACL", "SETUSER", "me", "on", ">my  secret", "~*", "&*", "+@all")
	for _, test := range []struct {
		user, file string
		want       error
	}{
		{"", "", ErrNoPassword},
		{"", "wrong", ErrWrongPassword},
		{"", "default a secret", nil},
		{"", "\na secret\n", nil},
		{"default@", "a secret\n", nil},
		{"me@", "my  secret", nil},
		{"", "me\nmy  secret\n", nil},
		{"me@", "a secret", ErrWrongPassword},
	} {
		c := settings(strings.Replace(server.URL(), "redis://", "redis://"+test.user, 1), newSeal(t))
		if test.file != "" {
			c.AuthFile = filepath.Join(t.TempDir(), "auth")
			if err := os.WriteFile(c.AuthFile, []byte(test.file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Connect(t.Context()); !errors.Is(err, test.want) {
			t.Errorf("%s %q: %v, want %v", test.user, test.file, err, test.want)
		}
		n.Close()
	}
}

// FuzzRecord opens whatever may be under a good seal.
func FuzzRecord(f *testing.F) {
	n := &Node{cfg: Config{Namespace: "test", Seal: newSeal(f)}}
	f.Add([]byte{})
	f.Add([]byte{recordVersion, 1})
	f.Add(append([]byte{recordVersion, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1}, make([]byte, 30)...))
	f.Fuzz(func(t *testing.T, plain []byte) {
		record := n.cfg.Seal.Seal(nil, plain, n.sessionBinding(id(1)))
		data, e, ok := n.open([]byte("before"), id(1), string(record))
		if !bytes.HasPrefix(data, []byte("before")) {
			t.Fatalf("%q", data)
		}
		if ok && (e.Size != len(data)-6 || !bytes.Equal(data[6:], plain[recordHeader:])) || !ok && len(data) != 6 {
			t.Errorf("%v %+v %q", ok, e, data)
		}
	})
}

// A fleet has one set of ticket keys, whoever changes it.
func TestTicketKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	sealKeys := newSeal(t)
	const nodes = 3
	var rings [nodes]*keys.Ring
	var stores [nodes]*KeyStore
	var links [nodes]*Node
	for i := range nodes {
		links[i] = join(t, settings(server.URL(), sealKeys), nil)
		stores[i] = links[i].KeyStore(nil)
		ring, err := keys.JoinRing(t.Context(), links[i].Now, keys.Lifecycle{}, stores[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		rings[i] = ring
		run(t, links[i], ring.Refresh)
		if stores[i].Found() != (i > 0) {
			t.Errorf("node %d found keys: %v", i, stores[i].Found())
		}
	}
	agree := func(want uint64) {
		t.Helper()
		redistest.Await(t, "all to agree", func() error {
			for _, ring := range rings {
				a, b := ring.Description(), rings[0].Description()
				if want != 0 && a.Generation != want || fmt.Sprint(a.Generation, a.Keys) != fmt.Sprint(b.Generation, b.Keys) {
					return fmt.Errorf("generations %d and %d, want %d", a.Generation, b.Generation, want)
				}
			}
			return nil
		})
	}
	agree(0)
	d, err := rings[0].Rotate(t.Context(), keys.Update{})
	if err != nil {
		t.Fatal(err)
	}
	agree(d.Generation)

	// Everybody at once: each update that was acknowledged has a generation of its own.
	var mu sync.Mutex
	seen := map[uint64]bool{}
	highest := uint64(0)
	var all sync.WaitGroup
	for _, ring := range rings {
		all.Go(func() {
			for range 30 {
				d, err := ring.Replace(t.Context(), keys.Generate(128, 2), keys.Update{Source: keys.SourceAPI})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[d.Generation] {
					t.Errorf("generation %d twice", d.Generation)
				}
				seen[d.Generation] = true
				highest = max(highest, d.Generation)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	agree(highest)

	// If the set is the expected one: nobody undoes what another did.
	base := rings[0].Generation()
	wins := 0
	for _, ring := range rings {
		all.Go(func() {
			_, err := ring.Rotate(t.Context(), keys.Update{If: func(g uint64) bool { return g == base }})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				wins++
			} else if !errors.Is(err, keys.ErrPrecondition) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if wins != 1 {
		t.Errorf("%d of them won", wins)
	}
	highest = rings[0].Generation()
	for _, ring := range rings {
		highest = max(highest, ring.Generation())
	}
	agree(highest)

	// A record that is lost, or older, is put back. One that does not open stops
	// updates, and nothing else.
	old := server.Do("--no-raw", "GET", links[0].keysName())
	if old == "" {
		t.Fatal("nothing there")
	}
	if _, err := rings[1].Rotate(t.Context(), keys.Update{}); err != nil {
		t.Fatal(err)
	}
	agree(0)
	server.Do("COPY", links[0].keysName(), "saved")
	d, err = rings[2].Rotate(t.Context(), keys.Update{})
	if err != nil {
		t.Fatal(err)
	}
	agree(d.Generation)
	for _, lose := range [][]string{{"COPY", "saved", links[0].keysName(), "REPLACE"}, {"DEL", links[0].keysName()}, {"FLUSHALL"}} {
		server.Do(lose...)
		redistest.Await(t, "the set to be put back", func() error {
			late, err := New(settings(server.URL(), sealKeys))
			if err != nil {
				return err
			}
			defer late.Close()
			if err := late.Connect(t.Context()); err != nil {
				return err
			}
			store := late.KeyStore(nil)
			if record, err := late.get(t.Context(), time.Second, late.keysName()); err != nil || record == "" {
				return fmt.Errorf("%q %w", record, err)
			}
			ring, err := keys.JoinRing(t.Context(), late.Now, keys.Lifecycle{}, store, nil)
			if err != nil {
				return err
			}
			if got := ring.Generation(); got != d.Generation {
				return fmt.Errorf("generation %d, want %d", got, d.Generation)
			}
			return nil
		})
		agree(d.Generation)
	}
	server.Do("SET", links[0].keysName(), "nonsense")
	redistest.Await(t, "the record to be refused", func() error {
		for _, n := range links {
			if n.Stats().RefusedKeys == 0 {
				return errors.New("not yet")
			}
		}
		return nil
	})
	if _, err := rings[0].Rotate(t.Context(), keys.Update{}); !errors.Is(err, keys.ErrUnavailable) {
		t.Errorf("over a record that does not open: %v", err)
	}
	if out := server.Do("GET", links[0].keysName()); out != "nonsense" {
		t.Errorf("it was replaced by %q", out)
	}
	server.Do("DEL", links[0].keysName())
	agree(d.Generation)
}

// A store of the node has a copy of every set, and what an empty fleet starts with.
func TestLocalKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sealKeys := newSeal(t)
	local := new(memoryStore)
	alone, err := keys.OpenRing(time.Now, keys.Lifecycle{}, local)
	if err != nil {
		t.Fatal(err)
	}
	want := alone.Description()

	n := join(t, settings(server.URL(), sealKeys), nil)
	store := n.KeyStore(local)
	ring, err := keys.JoinRing(t.Context(), n.Now, keys.Lifecycle{}, store, nil)
	if err != nil || ring.Generation() != want.Generation || store.Found() {
		t.Fatal(err, ring.Description(), store.Found())
	}
	run(t, n, ring.Refresh)
	second := join(t, settings(server.URL(), sealKeys), nil)
	var other *keys.Ring
	redistest.Await(t, "the fleet to be seeded", func() error {
		if record, err := second.get(t.Context(), time.Second, second.keysName()); err != nil || record == "" {
			return fmt.Errorf("%q %w", record, err)
		}
		return nil
	})
	if other, err = keys.JoinRing(t.Context(), second.Now, keys.Lifecycle{}, second.KeyStore(nil), nil); err != nil {
		t.Fatal(err)
	}
	if got := other.Description(); got.Generation != want.Generation || got.Keys[0].Fingerprint != want.Keys[0].Fingerprint {
		t.Errorf("%+v, want %+v", got, want)
	}
	d, err := other.Rotate(t.Context(), keys.Update{})
	if err != nil {
		t.Fatal(err)
	}
	redistest.Await(t, "the copy", func() error {
		copied, err := keys.OpenRing(time.Now, keys.Lifecycle{}, local)
		if err == nil && copied.Generation() != d.Generation {
			err = fmt.Errorf("generation %d, want %d", copied.Generation(), d.Generation)
		}
		return err
	})

	// Without Redis the copy will do for a start; nothing will not.
	server.Kill()
	for _, test := range []struct {
		local keys.Store
		want  error
	}{{local, nil}, {new(memoryStore), ErrNotConnected}, {nil, ErrNotConnected}} {
		away, err := New(settings(server.URL(), sealKeys))
		if err != nil {
			t.Fatal(err)
		}
		if err := away.Connect(t.Context()); err == nil {
			t.Error("connected to nothing")
		}
		if _, err := keys.JoinRing(t.Context(), away.Now, keys.Lifecycle{}, away.KeyStore(test.local), nil); !errors.Is(err, test.want) {
			t.Errorf("%v, want %v", err, test.want)
		}
		away.Close()
	}
}

// memoryStore keeps a state in memory.
type memoryStore struct {
	mu    sync.Mutex
	state []byte
}

func (s *memoryStore) Load(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.state), nil
}

func (s *memoryStore) Save(_ context.Context, state []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = bytes.Clone(state)
	return nil
}

// What Redis says of a refusal goes into the log, without the session's ID.
func TestRefusalsRepeatNoCommand(t *testing.T) {
	for text, want := range map[string]string{
		"ERR unknown command 'SET', with args beginning with: 'sessapi:session:0a' 'sealed'": "ERR unknown command 'SET'",
		"OOM command not allowed when used memory > 'maxmemory'.":                            "OOM command not allowed when used memory > 'maxmemory'.",
	} {
		if got := withoutArguments(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What Redis refuses is told from what it did not confirm, and shows for a minute or
// until it takes a write again.
func TestRefusedWrites(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	n := newNode(t, settings(server.URL(), newSeal(t)))
	put(t, n, 1, "one")
	always := func(cache.Tag, bool) bool { return true }
	server.Do("CONFIG", "SET", "maxmemory", "1")
	for _, cond := range []cache.Condition{nil, always} {
		o := lasting(time.Hour)
		o.If = cond
		if _, err := n.sessions.Put(t.Context(), id(2), []byte("x"), o); !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrRefused) {
			t.Error(err)
		}
		if !n.Stats().Refusing {
			t.Error("it does not show")
		}
	}
	n.refused.Add(-int64(refusalHolds))
	if n.Stats().Refusing {
		t.Error("it shows though nothing was written for a while")
	}
	if got := get(n, 1); got != "one" {
		t.Errorf("a lookup: %q", got)
	}
	_, _ = n.sessions.Put(t.Context(), id(2), []byte("x"), lasting(time.Hour)) // is refused
	server.Do("CONFIG", "SET", "maxmemory", "0")
	if put(t, n, 2, "two"); n.Stats().Refusing {
		t.Error("it shows for good")
	}
}
