package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/fleet/redistest"
	"github.com/sessapi/sessapi/internal/seal"
)

// startRoster starts a node that is on the roster until the returned function is called.
func startRoster(t *testing.T, url string, k *seal.Keys, self Member) (*Roster, func()) {
	t.Helper()
	n := newNode(t, settings(url, k))
	r := n.Roster(func() Member { return self })
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	stop := func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return r, stop
}

func awaitRoster(t *testing.T, r *Roster, want string) {
	t.Helper()
	redistest.Await(t, "the roster", func() error {
		var b strings.Builder
		for _, m := range r.List() {
			fmt.Fprintf(&b, "%s %s %d", m.Host, m.Listen, m.Generation)
			if m.Missing {
				b.WriteString(" missing")
			}
			b.WriteString("; ")
		}
		if got := b.String(); got != want {
			return fmt.Errorf("it has %q, want %q", got, want)
		}
		return nil
	})
}

// Every node knows all others, and a node that stops is gone.
func TestRoster(t *testing.T) {
	t.Parallel()
	url, k := redistest.Start(t).URL(), newSeal(t)
	a, _ := startRoster(t, url, k, Member{Host: "a", Listen: ":8440", Generation: 7})
	b, stop := startRoster(t, url, k, Member{Host: "b", Listen: ":8440", Generation: 8})
	const both = "a :8440 7; b :8440 8; "
	awaitRoster(t, a, both)
	awaitRoster(t, b, both)
	stop()
	awaitRoster(t, a, "a :8440 7; ")

	// One that was killed is missing, later forgotten.
	now := a.node.Now()
	setRoster(
		t, a.node, k,
		Member{Host: "c", Listen: ":8440", SeenAt: now.Add(-missingAfter - time.Second)},
		Member{Host: "d", Listen: ":8440", SeenAt: now.Add(-forgottenAfter - time.Second)},
	)
	awaitRoster(t, a, "a :8440 7; c :8440 0 missing; ")
}

// A full roster fits into a record, and the node seen the longest ago leaves it.
func TestRosterLimit(t *testing.T) {
	t.Parallel()
	k := newSeal(t)
	n := newNode(t, settings(redistest.Start(t).URL(), k))
	setRoster(t, n, k, Member{Host: "oldest", SeenAt: n.Now().Add(-time.Minute)}) // the clock of Redis is not exact
	long := strings.Repeat("x", maxMemberText)
	var r *Roster
	for i := range maxMembers {
		r = n.Roster(func() Member {
			return Member{Host: fmt.Sprintf("%03d%s", i, long), Listen: long, Version: long, Generation: 1 << 63}
		})
		if err := r.update(true); err != nil {
			t.Fatal(err)
		}
	}
	list := r.List()
	if len(list) != maxMembers || list[len(list)-1].Host == "oldest" || n.Stats().RefusedRosters != 0 {
		t.Errorf("%d nodes, the last %.6s, %d refused", len(list), list[len(list)-1].Host, n.Stats().RefusedRosters)
	}
}

// setRoster replaces the record of the roster.
func setRoster(t *testing.T, n *Node, k *seal.Keys, members ...Member) {
	t.Helper()
	record, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	sealed := k.Seal(nil, record, seal.Binding{Kind: rosterKind, Namespace: "test"})
	if _, err := n.set(t.Context(), "test:nodes", string(sealed), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
}

// A record of another seal key is counted and replaced.
func TestRosterOfAnotherKey(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	theirs := newNode(t, settings(url, newSeal(t))).Roster(func() Member { return Member{Host: "a"} })
	ours := newNode(t, settings(url, newSeal(t))).Roster(func() Member { return Member{Host: "b"} })
	for _, r := range []*Roster{theirs, ours} {
		if err := r.update(true); err != nil {
			t.Fatal(err)
		}
	}
	if list := ours.List(); len(list) != 1 || list[0].Host != "b" || ours.node.Stats().RefusedRosters != 1 {
		t.Errorf("the roster is %v, %d refused", list, ours.node.Stats().RefusedRosters)
	}
}
