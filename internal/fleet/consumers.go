package fleet

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/seal"
)

const (
	consumerKind = "fleet: consumer"
	// maxStaleNames is how many consumers are looked up one by one; when more have
	// changed, all are.
	maxStaleNames = 1000
)

// consumerStore shares the records of a table: each in a key of its own, which Redis
// drops when the consumer is to be forgotten. A node that was cut off compares all
// records: it merges newer ones, and puts back those that Redis has lost.
type consumerStore struct {
	node  *Node
	table *consumers.Table
	wake  chan struct{} // has a token when something may have changed

	mu    sync.Mutex // guards what follows
	known bool       // the table has all records of Redis
	all   bool       // all records may have changed
	stale map[string]bool
	down  time.Time // when an outage began that sync has not made up for; else zero
}

// errNewer ends an update that would put an older record in the place of a newer one.
var errNewer = errors.New("fleet: Redis has a newer record of the consumer")

func newConsumerStore(n *Node) *consumerStore {
	s := &consumerStore{node: n, wake: make(chan struct{}, 1), stale: make(map[string]bool), all: true}
	s.table = consumers.New(n.Now, s)
	return s
}

// Consumers returns the table of the fleet's consumers.
func (n *Node) Consumers() *consumers.Table { return n.consumers.table }

func (n *Node) consumerPrefix() string { return n.cfg.Namespace + ":consumer:" }

func (n *Node) consumerBinding(name string) seal.Binding {
	return seal.Binding{Kind: consumerKind, Namespace: n.cfg.Namespace, ID: []byte(name)}
}

// open returns the record in a value of Redis, the zero Record for "" and for one that
// does not open, which is counted.
func (s *consumerStore) open(name, value string) consumers.Record {
	if value == "" {
		return consumers.Record{}
	}
	data, err := s.node.cfg.Seal.Open(nil, []byte(value), s.node.consumerBinding(name))
	if err == nil {
		var r consumers.Record
		if r, err = consumers.DecodeRecord(data); err == nil {
			return r
		}
	}
	s.node.counts.refusedConsumers.Add(1)
	return consumers.Record{}
}

// Update implements [consumers.Store]. The error is that of change, or [ErrUnavailable].
func (s *consumerStore) Update(ctx context.Context, name string, change func(old consumers.Record) (consumers.Record, error)) (consumers.Record, error) {
	n, key := s.node, s.node.consumerPrefix()+name
	for range maxSwaps {
		old, err := n.get(ctx, writeTimeout, key)
		if err != nil {
			return consumers.Record{}, unavailable(err)
		}
		fresh, err := change(s.open(name, old))
		if err != nil {
			return consumers.Record{}, err
		}
		value := rueidis.BinaryString(n.cfg.Seal.Seal(nil, fresh.Encode(), n.consumerBinding(name)))
		done, err := n.replace(ctx, key, old, value, time.Now().Add(fresh.Until().Sub(n.Now())))
		if err != nil {
			return consumers.Record{}, err
		}
		if done {
			return fresh, nil
		}
		n.counts.conflicts.Add(1)
	}
	return consumers.Record{}, unavailable(errors.New("others write the same consumer"))
}

// changed notes that the record of a consumer has changed, or, for "", that any may have.
func (s *consumerStore) changed(name string) {
	s.mu.Lock()
	if name == "" || len(s.stale) >= maxStaleNames {
		s.all, s.known = true, false
	} else {
		s.stale[name] = true
	}
	s.mu.Unlock()
	notify(s.wake)
}

// answers notes that Redis answers again, after an outage that began at since.
func (s *consumerStore) answers(since time.Time) {
	s.mu.Lock()
	s.down = since
	s.mu.Unlock()
	s.changed("")
}

// run merges the reports to other nodes, until ctx ends.
func (s *consumerStore) run(ctx context.Context) {
	logged := ""
	for {
		if s.node.up.Load() {
			switch err := s.sync(); {
			case err == nil:
				logged = ""
			case err.Error() != logged:
				logged = err.Error()
				s.node.cfg.Log.Error("the consumers of the fleet cannot be read; trying again", slog.String("error", logged))
			}
		}
		timer := time.NewTimer(s.node.cfg.PollEvery/2 + rand.N(s.node.cfg.PollEvery))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// sync merges the records that have changed. After an error it compares all next time.
func (s *consumerStore) sync() (err error) {
	s.mu.Lock()
	all, stale, down := s.all, s.stale, s.down
	s.all, s.stale, s.down = false, make(map[string]bool), time.Time{}
	s.mu.Unlock()
	if !down.IsZero() { // before newer reports arrive
		s.table.Revive(down.Add(time.Until(s.node.Now())))
	}
	if all {
		err = s.compare()
	} else {
		for name := range stale {
			if _, err = s.fetch(name); err != nil {
				break
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = s.all || err != nil
	s.known = !s.all
	return err
}

// Known implements [consumers.Store].
func (s *consumerStore) Known() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known
}

// fetch merges the record of a consumer in Redis, and returns it.
func (s *consumerStore) fetch(name string) (consumers.Record, error) {
	value, err := s.node.get(context.Background(), writeTimeout, s.node.consumerPrefix()+name)
	if isRefusal(err) { // it is no string, and holds up no other
		s.node.counts.refusedConsumers.Add(1)
		return consumers.Record{}, nil
	}
	if err != nil {
		return consumers.Record{}, unavailable(err)
	}
	r := s.open(name, value)
	if !r.ReportedAt.IsZero() {
		s.table.Merge(name, r)
	}
	return r, nil
}

// compare merges all records in Redis, and puts back those that are newer here.
func (s *consumerStore) compare() error {
	found := make(map[string]time.Time)
	err := s.node.scan(s.node.consumerPrefix(), func(_ context.Context, _ rueidis.Client, keys []string) error {
		for _, key := range keys {
			name := strings.TrimPrefix(key, s.node.consumerPrefix())
			r, err := s.fetch(name)
			if err != nil {
				return err
			}
			if s.table.Has(name) {
				found[name] = r.ReportedAt
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name, r := range s.table.Records() {
		if !r.ReportedAt.After(found[name]) {
			continue
		}
		_, err := s.Update(context.Background(), name, func(old consumers.Record) (consumers.Record, error) {
			if !r.ReportedAt.After(old.ReportedAt) {
				return old, errNewer
			}
			return r, nil
		})
		if err != nil && !errors.Is(err, errNewer) {
			return err
		}
	}
	return nil
}
