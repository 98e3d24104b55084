package fleet

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/seal"
)

const keysKind = "fleet: ticket keys"

// errUnreadable is why a record of ticket keys is not taken, nor replaced.
var errUnreadable = errors.New("the record of the ticket keys in Redis does not open; with the right seal keys, remove it to have a node put its own set in its place")

// KeyStore keeps the state of a ring in Redis, for all nodes, and a copy of it in
// a store of the node. It implements keys.Store, whose calls come one at a time.
type KeyStore struct {
	node  *Node
	local keys.Store // nil for none
	seen  string     // the record that was read or written last; "" for none
	first bool       // nothing was read yet
	found bool       // see Found
}

// KeyStore returns the store of the fleet's ticket keys. local is that of this
// node alone, nil for none: it gets a copy of every set, and has the keys that an
// empty fleet starts with, or the node when Redis does not answer at first.
func (n *Node) KeyStore(local keys.Store) *KeyStore {
	return &KeyStore{node: n, local: local, first: true}
}

// Found reports whether the fleet had ticket keys when this node came to it, or,
// for Redis did not say, may have had.
func (s *KeyStore) Found() bool { return s.found }

func (n *Node) keysName() string { return n.cfg.Namespace + ":ticket-keys" }

func (n *Node) keysBinding() seal.Binding {
	return seal.Binding{Kind: keysKind, Namespace: n.cfg.Namespace}
}

// Load returns the state that Redis has, nil for none. The first time it may be
// that of the node.
func (s *KeyStore) Load() ([]byte, error) {
	first := s.first
	s.first = false
	record, err := s.node.get(writeTimeout, s.node.keysName())
	if first {
		s.found = err != nil || record != ""
	}
	if first && s.local != nil && (err != nil || record == "") {
		state, localErr := s.local.Load()
		if localErr == nil && state == nil {
			localErr = err
		}
		return state, localErr
	}
	if err != nil || record == "" {
		s.node.unread.Store(false)
		s.seen = ""
		return nil, unavailable(err)
	}
	state, err := s.node.cfg.Seal.Open(nil, []byte(record), s.node.keysBinding())
	s.node.unread.Store(err != nil)
	if err != nil {
		s.node.counts.refusedKeys.Add(1)
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if first && s.local != nil { // it may be of a seal key that is not there any more
		old, err := s.local.Load()
		clear(old)
		if err != nil {
			clear(state)
			return nil, err
		}
	}
	if record != s.seen {
		s.copy(state)
	}
	s.seen = record
	return state, nil
}

// Save replaces the state that was read or written last. The error is
// [keys.ErrConflict] when Redis has another one.
func (s *KeyStore) Save(state []byte) error {
	record := string(s.node.cfg.Seal.Seal(nil, state, s.node.keysBinding()))
	done, err := s.node.swap(s.node.keysName(), s.seen, record, 0)
	if err != nil {
		return err
	}
	if !done {
		s.node.counts.conflicts.Add(1)
		return keys.ErrConflict
	}
	s.seen = record
	s.copy(state)
	return nil
}

// copy keeps the state in the node, too. It can do without.
func (s *KeyStore) copy(state []byte) {
	if s.local == nil {
		return
	}
	if err := s.local.Save(state); err != nil {
		s.node.cfg.Log.Error("the ticket keys of the fleet are not in the state file", slog.String("error", err.Error()))
	}
}
