package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/sessapi/sessapi/internal/seal"
)

const (
	rosterKind = "fleet: roster"
	// rosterEvery is how often a node enters itself, give or take a half.
	rosterEvery = 5 * time.Second
	// missingAfter is after how long without an entry a node is missing. After
	// forgottenAfter it is removed.
	missingAfter   = 20 * time.Second
	forgottenAfter = time.Hour
	// maxMembers of the largest size fit into maxRecord. Beyond it the node that was seen
	// the longest ago is removed.
	maxMembers = 100
	// maxMemberText is the size of the largest text of a Member.
	maxMemberText = 128
)

// Member is a node as the others know it.
type Member struct {
	Host       string    `json:"host"`
	Listen     string    `json:"listen"`
	Version    string    `json:"version"`
	Generation uint64    `json:"generation"` // of its ticket keys
	SeenAt     time.Time `json:"seen_at"`
	Missing    bool      `json:"-"`
}

// Roster is the list of the nodes of the fleet. It is one record in Redis. Each node
// replaces its entry there every few seconds, and so reads those of the others.
type Roster struct {
	node *Node
	self func() Member

	mu      sync.Mutex // guards what follows
	members []Member
	read    time.Time // when members was read
}

// Roster returns the list of the fleet's nodes. self describes this node, SeenAt aside.
// The caller must call Run.
func (n *Node) Roster(self func() Member) *Roster { return &Roster{node: n, self: self} }

// List returns the nodes as last read from Redis, ordered by host and address.
func (r *Roster) List() []Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Clone(r.members)
	for i := range list {
		list[i].Missing = r.read.Sub(list[i].SeenAt) > missingAfter
	}
	return list
}

// Run keeps the entry of this node until ctx ends, then removes it. Failures are not
// logged: the same loss of Redis is logged where it matters.
func (r *Roster) Run(ctx context.Context) {
	for {
		_ = r.update(true)
		timer := time.NewTimer(rosterEvery/2 + rand.N(rosterEvery))
		select {
		case <-ctx.Done():
			timer.Stop()
			_ = r.update(false)
			return
		case <-timer.C:
		}
	}
}

// update replaces the entry of this node, or removes it.
func (r *Roster) update(present bool) error {
	n := r.node
	key := n.cfg.Namespace + ":nodes"
	binding := seal.Binding{Kind: rosterKind, Namespace: n.cfg.Namespace}
	self := r.self()
	for _, text := range []*string{&self.Host, &self.Listen, &self.Version} {
		*text = (*text)[:min(len(*text), maxMemberText)]
	}
	for range maxSwaps {
		old, err := n.get(context.Background(), writeTimeout, key)
		if err != nil {
			return err
		}
		now := n.Now()
		members := slices.DeleteFunc(r.open(old, binding), func(m Member) bool {
			return m.Host == self.Host && m.Listen == self.Listen || now.Sub(m.SeenAt) > forgottenAfter
		})
		if present {
			self.SeenAt = now
			members = append(members, self)
		}
		if excess := len(members) - maxMembers; excess > 0 {
			slices.SortFunc(members, func(a, b Member) int { return a.SeenAt.Compare(b.SeenAt) })
			members = members[excess:]
		}
		slices.SortFunc(members, func(a, b Member) int {
			return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Listen, b.Listen))
		})
		record, err := json.Marshal(members)
		if err != nil {
			return err
		}
		done, err := n.replace(context.Background(), key, old, rueidis.BinaryString(n.cfg.Seal.Seal(nil, record, binding)), time.Now().Add(forgottenAfter))
		if err != nil {
			return err
		}
		if done {
			r.mu.Lock()
			r.members, r.read = members, now
			r.mu.Unlock()
			return nil
		}
		n.counts.conflicts.Add(1)
	}
	return errors.New("fleet: others write the roster")
}

// open returns the entries of a record; none of one that does not open, which is counted
// and will be replaced.
func (r *Roster) open(value string, binding seal.Binding) (members []Member) {
	if value == "" {
		return nil
	}
	record, err := r.node.cfg.Seal.Open(nil, []byte(value), binding)
	if err == nil {
		err = json.Unmarshal(record, &members)
	}
	if err != nil {
		r.node.counts.refusedRosters.Add(1)
		return nil
	}
	return members
}
