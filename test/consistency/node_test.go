package consistency

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/fleet"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/seal"
	"github.com/sessapi/sessapi/internal/state"
)

// Settings of all nodes. A grace period is two polls.
const (
	pollEvery   = 2 * time.Second
	maxStale    = time.Second
	readTimeout = 50 * time.Millisecond
	startWithin = 40 * time.Second
)

// node is a node of a fleet. That it stops is a crash: nothing is saved.
type node struct {
	number   int
	link     *link
	near     *cache.Cache
	sessions *fleet.Sessions
	ring     *keys.Ring
	state    string // path; "" for none
	quit     func() // ends what clients do with it
	stop     func()
}

// startNode starts a node, which may wait for others to put back ticket keys.
func startNode(t testing.TB, number int, url string, l *link, k *seal.Keys, statePath string) (_ *node, err error) {
	n := &node{number: number, link: l, state: statePath}
	log := slog.New(slog.DiscardHandler)
	var undo []func()
	n.stop = sync.OnceFunc(func() {
		for i := len(undo); i > 0; i-- {
			undo[i-1]()
		}
	})
	defer func() {
		if err != nil {
			n.stop()
		}
	}()
	if n.near, err = cache.New(cache.Config{Memory: 1 << 20, MaxSessionBytes: 1 << 10}); err != nil {
		return nil, err
	}
	undo = append(undo, n.near.Close)
	var local keys.Store
	if statePath != "" {
		file, err := state.Open(statePath, k, log)
		if err != nil {
			return nil, err
		}
		undo = append(undo, func() { _ = file.Close() })
		local = file
	}
	member, err := fleet.New(fleet.Config{
		URL: url, Namespace: "test", ReadTimeout: readTimeout, MaxStale: maxStale, PollEvery: pollEvery, Seal: k, Log: log,
	})
	if err != nil {
		return nil, err
	}
	undo = append(undo, member.Close, func() {
		if got := member.Stats().Violations; got != 0 && l == nil { // a link loses parts of replies
			t.Errorf("node %d closed %d connections for what Redis sent", number, got)
		}
	})
	n.sessions = member.Sessions(n.near, nil, func(time.Duration) {})
	ctx, cancel := context.WithTimeout(t.Context(), startWithin)
	defer cancel()
	for member.Connect(ctx) != nil && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
	if n.ring, err = join(ctx, member, local); err != nil {
		return nil, err
	}
	running, end := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { member.Run(running, n.ring.Refresh) })
	undo = append(undo, func() { end(); all.Wait() })
	return n, nil
}

// join is how a node gets its ticket keys. Tickets live long enough for no key to be
// dropped.
func join(ctx context.Context, member *fleet.Node, local keys.Store) (*keys.Ring, error) {
	return keys.JoinRing(ctx, member.Now, keys.Lifecycle{TicketLifetime: time.Hour}, member.KeyStore(local), nil)
}

func setOf(d keys.Description) (s Set) {
	s.Generation = d.Generation
	var content strings.Builder
	for _, k := range d.Keys {
		s.Keys = append(s.Keys, k.Fingerprint)
		content.WriteString(string(k.Role) + " " + k.Fingerprint + "\n")
	}
	s.Content = content.String()
	return s
}
