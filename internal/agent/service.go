package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/keys"
)

const (
	// hold is how long a node of the service may hold a request while nothing changes.
	// A node that does not answer within holdGrace after that counts as gone.
	hold      = 20 * time.Second
	holdGrace = 5 * time.Second
	// askTimeout bounds every other request.
	askTimeout = 10 * time.Second
)

// source provides the ticket keys and accepts reports. After a failed call, the next
// call goes to the next node of the service.
type source interface {
	// Next returns the active set when its generation differs from the given one, or
	// nil if that does not happen for a while. A set older than floor is an error. The
	// caller must wipe the set.
	Next(ctx context.Context, generation, floor uint64) (*update, error)
	// Report reports what a target holds.
	Report(ctx context.Context, target string, r Report) error
	// Nodes returns the number of nodes.
	Nodes() int
}

// update is a set of ticket keys and its generation.
type update struct {
	generation uint64
	set        keys.Set
}

// nodes are the nodes of a service. The one that answered last is asked first.
type nodes struct {
	clients     []*client.Client
	addresses   []string
	host        string       // the agent's name
	asked, told atomic.Int64 // the node to ask for keys, and to report to
	lost        bool         // the last request for keys failed
}

// Nodes is part of [source].
func (n *nodes) Nodes() int { return len(n.clients) }

// try makes a request to a node. After an error it moves on to the next.
func (n *nodes) try(node *atomic.Int64, do func(*client.Client) error) error {
	i := node.Load()
	if err := do(n.clients[i]); err != nil {
		node.Store((i + 1) % int64(len(n.clients)))
		return fmt.Errorf("%s: %w", n.addresses[i], err)
	}
	return nil
}

// Next is part of [source]. After an error it does not wait for a change, so that it is
// soon known that the service answers again.
func (n *nodes) Next(ctx context.Context, generation, floor uint64) (u *update, err error) {
	wait := hold
	if n.lost {
		wait = 0
	}
	err = n.try(&n.asked, func(c *client.Client) error {
		waiting, cancel := context.WithTimeout(ctx, hold+holdGrace)
		defer cancel()
		d, err := c.NextTicketKeys(waiting, generation, wait)
		if err != nil || d == nil || d.Generation == generation {
			return err
		}
		if d.Generation < floor {
			return &olderError{d.Generation, floor}
		}
		fetching, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		set, err := fetch(fetching, c, d)
		if err != nil {
			return err
		}
		u = &update{d.Generation, set}
		return nil
	})
	n.lost = err != nil
	return u, err
}

// olderError reports a set older than the one in force.
type olderError struct{ has, inForce uint64 }

func (e *olderError) Error() string {
	return fmt.Sprintf("refused keys of generation %d, which are older than those in force, %d; "+
		"if the service was restored from a backup, sessapi keys rotate makes newer ones", e.has, e.inForce)
}

// keyFormat is the format in which keys are fetched. It keeps every key unchanged.
const keyFormat = keys.NGINX

// fetch fetches the set that d describes. It checks each key against its fingerprint, so
// that the set is complete and of one generation.
func fetch(ctx context.Context, c *client.Client, d *client.TicketKeys) (keys.Set, error) {
	var set keys.Set
	byFingerprint := make(map[string]keys.Key, len(d.Keys))
	for i := range d.Keys {
		data, err := c.Format(ctx, keyFormat.String(), &i)
		if err != nil {
			return fail(byFingerprint, err)
		}
		one, err := keyFormat.Parse(data)
		clear(data)
		if err != nil {
			return fail(byFingerprint, fmt.Errorf("the service sent something other than a key: %w", err))
		}
		for _, k := range one.Keys {
			byFingerprint[k.Fingerprint()] = k
		}
	}
	for _, described := range d.Keys {
		k, ok := byFingerprint[described.Fingerprint]
		switch {
		case !ok:
			return fail(byFingerprint, errors.New("the keys changed while they were fetched"))
		case described.Role == client.TicketKeyRole(keys.RoleCurrent):
			set.Keys = append([]keys.Key{k}, set.Keys...)
		case described.Role == client.TicketKeyRole(keys.RoleNext):
			set.Next = &k
		default:
			set.Keys = append(set.Keys, k)
		}
	}
	if err := set.Validate(); err != nil {
		return fail(byFingerprint, fmt.Errorf("the service sent %w", err))
	}
	return set, nil
}

// fail wipes the keys of a set that is incomplete.
func fail(fetched map[string]keys.Key, err error) (keys.Set, error) {
	for _, k := range fetched {
		set := keys.Set{Keys: []keys.Key{k}}
		set.Wipe()
	}
	return keys.Set{}, err
}
