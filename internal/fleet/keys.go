package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/seal"
)

const keysKind = "fleet: ticket keys"

// errUnreadable is why a record of ticket keys is not taken, nor replaced.
var errUnreadable = errors.New("cannot decrypt the ticket keys in Redis; if the seal keys are right, remove the record, and a node replaces it with its own set")

// KeyStore keeps the state of a ring in Redis for all nodes, and a copy in the node's
// own store. It implements keys.SharedStore, whose methods are not called concurrently.
//
// Redis may lose data: it starts empty or from an older file, or another server
// replaces it. A mark beside the record therefore says which server the nodes saw last,
// and whether it had a record. A grace period begins when either has changed, or when a
// node restores a newer record. Until it ends, nodes restore their copies, and updates
// fail with [keys.ErrUnsettled].
type KeyStore struct {
	node   *Node
	local  keys.Store  // nil for none
	copied keys.State  // the copy in local that no older state of its fleet may replace
	joined bool        // Redis has had ticket keys since the store was made
	seen   string      // the record that was read or written last; "" for none
	found  atomic.Bool // see Found

	// What Redis said when it was last asked.
	refusal string    // why it refuses writes; "" when it did not
	since   time.Time // when the grace period began, as far as the node knows; zero without one
	until   time.Time // when it is over
	endless bool      // it was logged that it lasts too long
}

// maxGracePeriods is how many grace periods in a row are usual: Redis is restarted, and
// then each node may put back something newer.
const maxGracePeriods = 5

// UnsettledError reports a grace period: Redis may have lost updates. It wraps
// [keys.ErrUnsettled].
type UnsettledError struct{ left time.Duration }

func (e *UnsettledError) Error() string { return keys.ErrUnsettled.Error() }

// Unwrap returns [keys.ErrUnsettled].
func (e *UnsettledError) Unwrap() error { return keys.ErrUnsettled }

// Outcome tells a client that the update was not made, and why.
func (e *UnsettledError) Outcome() string {
	return "Redis may have lost updates, which the nodes are restoring; nothing has changed. Retry in a few seconds."
}

// Logged reports that the node has logged the grace period.
func (e *UnsettledError) Logged() bool { return true }

// RetryAfter is the rest of the grace period.
func (e *UnsettledError) RetryAfter() time.Duration { return e.left }

// KeyStore returns the store of the fleet's ticket keys. local is the node's own store,
// or nil. It gets a copy of every set. Its keys are used when the fleet is empty, and
// when Redis is down at the start.
func (n *Node) KeyStore(local keys.Store) *KeyStore {
	return &KeyStore{node: n, local: local}
}

// Found reports whether the fleet had ticket keys when this node joined. It is true
// also if Redis did not answer.
func (s *KeyStore) Found() bool { return s.found.Load() }

func (n *Node) keysName() string { return n.cfg.Namespace + ":ticket-keys" }

// markName is the name of the mark, which is in the record's slot of a cluster.
func (n *Node) markName() string { return n.cfg.Namespace + ":{" + n.keysName() + "}:mark" }

func (n *Node) keysBinding() seal.Binding {
	return seal.Binding{Kind: keysKind, Namespace: n.cfg.Namespace}
}

// The operations of keysScript, and what those that write return.
const (
	opLook    = "look"
	opUpdate  = "update"
	opRestore = "restore"

	conflict  = 0
	done      = 1
	unsettled = 2
)

// keysScript replaces the record by ARGV[4] if it is ARGV[3], or returns it with how
// long the grace period still lasts, and why the mark cannot be written: without it no
// update is safe, but a Redis that refuses writes can still be read. ARGV[2] is the length of a
// grace period in milliseconds, ARGV[5] the size of the largest record. The mark is the
// server's run ID, whether there was a record, and when the grace period is over.
var keysScript = sync.OnceValue(func() *rueidis.Lua {
	return rueidis.NewLuaScript(`
local op, grace, last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local record = redis.call('GETRANGE', KEYS[1], 0, last)
local server = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local was, had, over = string.match(redis.call('GETRANGE', KEYS[2], 0, 99), '^(%x*) (%a+) (%d+)$')
over = tonumber(over or 0)
local set, refusal = op == 'look' and redis.pcall or redis.call, ''
local function mark(has)
	local reply = set('SET', KEYS[2], string.format('%s %s %d', server, has, over))
	refusal = type(reply) == 'table' and reply.err or ''
	had = has
end
local has = record == '' and 'none' or 'one'
if was ~= server or had == 'one' and has == 'none' or over > now + grace then
	over = now + grace
	mark(has)
elseif had ~= has then
	mark(has)
end
if op == 'look' then
	return {record, math.max(over - now, 0), refusal}
end
if op == 'update' and over > now then
	return 2
end
if record ~= ARGV[3] then
	return 0
end
redis.call('SET', KEYS[1], ARGV[4])
if op == 'restore' and over <= now then
	over = now + grace
	mark('one')
elseif had == 'none' then
	mark('one')
end
return 1`)
})

// run runs keysScript.
func (s *KeyStore) run(ctx context.Context, op, expected, value string) (rueidis.RedisMessage, error) {
	n := s.node
	command := func(c rueidis.Client, ctx context.Context) rueidis.RedisResult {
		return keysScript().Exec(ctx, c, []string{n.keysName(), n.markName()},
			[]string{op, milliseconds(s.gracePeriod()), expected, value, strconv.Itoa(maxRecord)})
	}
	if op == opLook { // which Redis may answer when it refuses writes
		m, err := n.do(ctx, "ticket keys "+op, writeTimeout, command)
		return m, unavailable(err)
	}
	return n.write(ctx, "ticket keys "+op, command)
}

// gracePeriod is how long all nodes that run may take to put back what they have: each
// looks within one and a half of PollEvery, and at once when it is told.
func (s *KeyStore) gracePeriod() time.Duration { return 2 * s.node.cfg.PollEvery }

// Copy returns the state in the node's own store; nil without one.
func (s *KeyStore) Copy() ([]byte, error) {
	if s.local == nil {
		return nil, nil
	}
	state, err := s.local.Load(context.Background())
	if copied := keys.PeekState(state); copied.Shared {
		s.copied = copied
	}
	return state, err
}

// Load returns the state in Redis; nil if there is none.
func (s *KeyStore) Load(ctx context.Context) ([]byte, error) {
	record, err := s.look(ctx)
	if err != nil || record != "" {
		s.found.Store(true)
	}
	if err != nil || record == "" {
		s.node.unread.Store(false)
		s.seen = ""
		return nil, err
	}
	state, err := s.node.cfg.Seal.Open(nil, []byte(record), s.node.keysBinding())
	s.node.unread.Store(err != nil)
	if err != nil {
		s.node.counts.refusedKeys.Add(1)
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if record != s.seen {
		s.copy(ctx, state)
	}
	s.seen = record
	return state, nil
}

// look returns the record that Redis has.
func (s *KeyStore) look(ctx context.Context) (record string, err error) {
	m, err := s.run(ctx, opLook, "", "")
	if err != nil {
		return "", err
	}
	answer, err := m.ToArray()
	if err == nil && len(answer) != 3 {
		err = errUnexpected
	}
	if err != nil {
		return "", unavailable(err)
	}
	record, recordErr := answer[0].ToString()
	left, leftErr := answer[1].AsInt64()
	refusal, refusalErr := answer[2].ToString()
	if err := errors.Join(recordErr, leftErr, refusalErr); err != nil {
		return "", unavailable(err)
	}
	if s.refusal = refusal; refusal != "" {
		s.refusal = s.node.noteRefusal(refusal)
		return record, nil
	}
	s.note(time.Duration(left) * time.Millisecond)
	return record, nil
}

// note notes how long the grace period still lasts, 0 for none, and logs when one begins
// and ends, and once when it does not end.
func (s *KeyStore) note(left time.Duration) {
	now, log := time.Now(), s.node.cfg.Log
	s.until = now.Add(left)
	switch {
	case left <= 0:
		if !s.since.IsZero() {
			log.Info("ticket key updates resumed")
		}
		s.since, s.endless = time.Time{}, false
	case s.since.IsZero():
		s.since = now
		log.Warn("Redis restarted or lost data; ticket key updates paused while nodes restore their copies",
			slog.Duration("at_most", s.gracePeriod()))
	case !s.endless && now.Sub(s.since) > maxGracePeriods*s.gracePeriod():
		s.endless = true
		log.Error("ticket key updates do not resume; check that all nodes reach the same Redis primary, not several behind a proxy",
			slog.Duration("paused", now.Sub(s.since)))
	}
}

// Settled returns why updates would fail now, or nil.
func (s *KeyStore) Settled() error {
	switch {
	case s.refusal != "":
		return unavailable(fmt.Errorf("%w: %s", ErrRefused, s.refusal))
	case !s.since.IsZero():
		return &UnsettledError{time.Until(s.until)}
	}
	return nil
}

// Save replaces the state that was read or written last. If Redis has another one, the
// error is [keys.ErrConflict]; in a grace period, [keys.ErrUnsettled].
func (s *KeyStore) Save(ctx context.Context, state []byte) error {
	return s.replace(ctx, opUpdate, state)
}

// Restore is Save for a state that Redis has lost. It works in a grace period, and else
// begins one.
func (s *KeyStore) Restore(ctx context.Context, state []byte) error {
	err := s.replace(ctx, opRestore, state)
	if err == nil {
		s.found.Store(true)
		s.node.counts.restoredKeys.Add(1)
		s.node.cfg.Log.Warn("restored the ticket keys in Redis from this node; they were missing or older",
			slog.Uint64("generation", keys.PeekState(state).Generation))
		s.note(s.gracePeriod())
	}
	return err
}

func (s *KeyStore) replace(ctx context.Context, op string, state []byte) error {
	record := string(s.node.cfg.Seal.Seal(nil, state, s.node.keysBinding()))
	m, err := s.run(ctx, op, s.seen, record)
	if err != nil {
		return err
	}
	switch result, err := m.AsInt64(); {
	case err != nil:
		return unavailable(err)
	case result == unsettled:
		s.note(s.gracePeriod())
		return s.Settled()
	case result != done:
		s.node.counts.conflicts.Add(1)
		return keys.ErrConflict
	}
	s.seen = record
	s.copy(ctx, state)
	return nil
}

// copy keeps the state in the node, too, unless that has a newer one. It can do
// without.
func (s *KeyStore) copy(ctx context.Context, state []byte) {
	has := keys.PeekState(state)
	if !s.joined && s.copied.Shared && s.copied.OtherFleet(has) {
		s.node.cfg.Log.Warn("the state file has the ticket keys of another fleet or of an earlier version; using those in Redis",
			slog.Uint64("generation", s.copied.Generation))
		s.copied = keys.State{}
	}
	s.joined = true
	if s.local == nil || has.Generation < s.copied.Generation {
		return
	}
	if err := s.local.Save(ctx, state); err != nil {
		s.node.cfg.Log.Error("cannot save the ticket keys of the fleet in the state file", slog.String("error", err.Error()))
		return
	}
	s.copied = has
}
