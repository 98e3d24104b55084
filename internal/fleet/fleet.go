// Package fleet shares sessions, ticket keys and their consumers among any number of
// nodes through Redis or Valkey.
//
// There is no leader: nodes talk to Redis only, and Redis puts their writes in one
// order. [Sessions] is a cache in front of Redis. [KeyStore] keeps the active set of
// ticket keys for a [keys.Ring]. [Node.Consumers] is a table that all nodes have.
//
// What it promises:
//   - Once Put has returned, every node finds the session; once Delete has returned, none
//     does. Nodes drop their cached copy when Redis notifies them (client tracking). A
//     node that does not hear from Redis serves its cache for at most Config.MaxStale.
//   - When a connection is lost, the node empties its cache before it trusts the next
//     connection.
//   - A read waits at most Config.ReadTimeout for Redis, then it is a miss. It never
//     fails.
//   - A write that Redis does not confirm fails with [ErrUnavailable]. It may have been
//     made all the same.
//   - Every update of the ticket keys is a compare-and-set of the whole record. So all
//     updates have one order, and none is lost. If Redis loses a set or returns to an
//     older one, the nodes restore theirs: see [KeyStore].
//   - An acknowledged report of a consumer is in Redis. Each node has a copy of all, and
//     restores what Redis has lost.
//   - Every record in Redis is sealed and bound to the namespace, and that of a session
//     or a consumer also to its ID. Records that cannot be unsealed are counted. Such a
//     session or consumer is missing; such ticket keys are neither loaded nor replaced.
//
// Each node measures durations itself. Times of ticket keys follow the clock of Redis.
package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/seal"
	"github.com/sessapi/sessapi/internal/tracing"
)

const (
	// writeTimeout is how long a write waits for Redis.
	writeTimeout = time.Second
	// dialTimeout is how long a connection may take to be made.
	dialTimeout = time.Second
	// hungTimeout is after how long a connection without answers is given up.
	hungTimeout = 3 * time.Second
	// beatTimeout is how long Redis may take to answer a beat.
	beatTimeout = 500 * time.Millisecond
	// beatGap is the least time between beats.
	beatGap = 10 * time.Millisecond
	// pollEvery is Config.PollEvery, and how often the servers are looked up.
	pollEvery = 3 * time.Second
	// The time between attempts to reach Redis again doubles from the first to the
	// last, and is then drawn from its upper half.
	firstRetry, lastRetry = 50 * time.Millisecond, 500 * time.Millisecond
	// maxTimeouts is how many reads in a row may time out before Redis is asked
	// nothing until it has answered a beat.
	maxTimeouts = 32
	// queueScale is how many commands may be under way on a connection, as a power
	// of two: those that timed out are, too.
	queueScale = 13
	// flushDelay is how long a command waits for others to be sent with, when some
	// are under way: one system call for all of them, here and in Redis.
	flushDelay = 100 * time.Microsecond
	// refusalHolds is how long Redis is said to refuse writes after it did.
	refusalHolds = time.Minute
	// maxClockOffset is how far the clock of Redis may be from the node's to be believed.
	maxClockOffset = time.Minute
	// maxAuthFile is the size of the largest file of credentials.
	maxAuthFile = 4 << 10
)

// Config says where Redis is and how it is used. Everything but AuthFile, TLS and
// PollEvery must be set.
type Config struct {
	// URL is redis://[user@]host:port[/db], rediss:// with TLS, or unix:///path.
	// ?addr=host:port adds a cluster node, or a Sentinel if there is &master_set=name.
	URL string
	// AuthFile holds the password of Redis, or user and password on two lines or, if URL
	// names no user, separated by a space. It is read for each connection. With
	// Sentinels it is read once, and Sentinels get no password.
	AuthFile string
	// TLS holds the CAs of Redis and the client certificate, for rediss://; nil is the
	// CAs of the system.
	TLS *tls.Config
	// Namespace is the prefix of all keys in Redis. Seals are bound to it.
	Namespace string
	// ReadTimeout is how long a read waits for Redis.
	ReadTimeout time.Duration
	// MaxStale is how long a node serves its cache without hearing from Redis.
	MaxStale time.Duration
	// PollEvery is how often the node reads the ticket keys, beside notifications; 0 is
	// 3 s. All nodes of a fleet must have the same.
	PollEvery time.Duration
	// Seal seals everything that is stored in Redis.
	Seal *seal.Keys
	Log  *slog.Logger
}

// Node is a member of the fleet: a link to Redis. All methods are safe for
// concurrent use.
type Node struct {
	cfg     Config
	started time.Time // that durations are counted from
	client  atomic.Pointer[rueidis.Client]
	closed  atomic.Bool

	up       atomic.Bool   // some server answered the last beat
	refused  atomic.Int64  // when Redis refused the last write, in nanoseconds of the Unix time; 0 when it took it
	unread   atomic.Bool   // the record of the ticket keys did not open the last time
	timeouts atomic.Int32  // reads in a row that timed out
	ahead    atomic.Int64  // Redis's clock of the node's, in nanoseconds
	clockOff atomic.Bool   // by more than maxClockOffset
	heard    atomic.Int64  // when the beat that all servers answered last was sent, in nanoseconds since started; 0 when the local cache is not to be used
	breaks   atomic.Uint64 // how often a connection was made or lost
	wake     chan struct{} // has a token when a beat is due now
	keysWake chan struct{} // has a token when the ticket keys may have changed

	resynced uint64 // breaks when the local cache was last emptied; for beat alone

	mu    sync.Mutex // guards since
	since time.Time  // when the link came to be as it is: up, or not

	sessions  *Sessions // nil without any; set before Connect
	consumers *consumerStore
	counts    counts
}

// counts are what Stats has that counts.
type counts struct {
	remoteHits, misses, coalesced, timeouts, failures atomic.Uint64
	invalidations, reconnects, conflicts              atomic.Uint64
	refusedSessions, refusedKeys, restoredKeys        atomic.Uint64
	refusedConsumers, refusedRosters                  atomic.Uint64
	violations                                        atomic.Uint64
}

// New returns a node that is not connected yet: call [Node.Connect] and [Node.Run].
// Errors are those of the settings and of AuthFile. The caller must call Close.
func New(c Config) (*Node, error) {
	if c.PollEvery == 0 {
		c.PollEvery = pollEvery
	}
	n := &Node{
		cfg: c, started: time.Now().Add(-time.Nanosecond), since: time.Now(),
		wake: make(chan struct{}, 1), keysWake: make(chan struct{}, 1),
	}
	n.consumers = newConsumerStore(n)
	o, err := n.options()
	if err != nil {
		return nil, err
	}
	if exposed := exposed(o); exposed != "" {
		c.Log.Warn("the connection to Redis is not encrypted: others on the network can read its password and the session IDs, and change its answers; use rediss://",
			slog.String("address", exposed))
	}
	if c.AuthFile != "" { // in time to be told
		if _, err := readAuth(c.AuthFile, ""); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Connect connects the node to Redis.
func (n *Node) Connect(ctx context.Context) error { return n.beat(ctx) }

// Namespace returns Config.Namespace.
func (n *Node) Namespace() string { return n.cfg.Namespace }

// Close closes the connections. Run must have returned.
func (n *Node) Close() {
	n.closed.Store(true)
	n.up.Store(false)
	if c := n.client.Load(); c != nil {
		(*c).Close()
	}
}

// Now returns the time by the clock of Redis, so that all nodes agree. It differs from
// the node's own by at most maxClockOffset: otherwise a wrong clock of Redis could make
// keys years old, or stop their rotation.
func (n *Node) Now() time.Time {
	return time.Now().Add(min(max(n.offset(), -maxClockOffset), maxClockOffset))
}

// offset is how far the clock of Redis is ahead of the node's.
func (n *Node) offset() time.Duration { return time.Duration(n.ahead.Load()) }

// setOffset notes how far the clock of Redis is ahead, and logs when that becomes too much.
func (n *Node) setOffset(d time.Duration) {
	n.ahead.Store(int64(d))
	off := d.Abs() > maxClockOffset
	switch {
	case n.clockOff.Swap(off) == off:
	case off:
		n.cfg.Log.Warn("the clocks of Redis and of this node differ by more than the limit; synchronize them",
			slog.Duration("ahead", d), slog.Duration("accepted", maxClockOffset))
	default:
		n.cfg.Log.Info("the clocks of Redis and of this node are within the limit again", slog.Duration("ahead", d))
	}
}

// elapsed is the time since the node was made, in nanoseconds; never 0.
func (n *Node) elapsed() int64 { return int64(time.Since(n.started)) }

// fresh reports whether the local cache may be trusted.
func (n *Node) fresh() bool {
	heard := n.heard.Load()
	return heard != 0 && n.elapsed()-heard <= int64(n.cfg.MaxStale)
}

// broke notes that a connection was made or lost: Redis may have had something to
// tell, and nobody to tell it to.
func (n *Node) broke() {
	n.breaks.Add(1)
	if n.sessions != nil {
		n.sessions.table.distrust()
	}
	n.consumers.changed("")
	notify(n.wake)
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // there is a token already
	}
}

// Run keeps the link until ctx ends: it looks after the connections, empties the
// local cache when it has to, and calls refresh, which is keys.Ring.Refresh, whenever
// the ticket keys in Redis may have changed.
func (n *Node) Run(ctx context.Context, refresh func() error) {
	var running sync.WaitGroup
	running.Go(func() { n.refreshKeys(ctx, refresh) })
	running.Go(func() { n.consumers.run(ctx) })
	defer running.Wait()
	retry := firstRetry
	for {
		err := n.beat(ctx)
		wait := max(n.cfg.MaxStale/4, time.Millisecond)
		if err == nil {
			retry = firstRetry
		} else {
			wait = retry/2 + rand.N(retry/2)
			retry = min(2*retry, lastRetry)
		}
		timer := time.NewTimer(min(wait, lastRetry))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-n.woken(err == nil):
			timer.Reset(beatGap) // whatever keeps waking it, there is time in between
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
		}
	}
}

// woken is the channel that ends the wait for the next beat early. While Redis is
// away nothing does, or every failed attempt would.
func (n *Node) woken(up bool) <-chan struct{} {
	if up {
		return n.wake
	}
	return nil
}

// beat asks every server for its time. The answer comes behind whatever it had to
// tell before: from then on the local cache is as new as the question. The first
// beat after a connection was made or lost empties it before.
func (n *Node) beat(ctx context.Context) error {
	select {
	case <-n.wake:
	default:
	}
	breaks := n.breaks.Load()
	client, err := n.connected()
	if err != nil {
		n.setUp(false, err)
		return err
	}
	if breaks == 0 { // it has just been made
		breaks = n.breaks.Load()
	}
	sent := n.elapsed()
	answered, err := n.askTime(ctx, client)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if answered {
		n.timeouts.Store(0)
	}
	lost := false // something may have been told to nobody
	defer func() {
		n.setUp(answered, err)
		if lost {
			notify(n.keysWake) // now that the ticket keys can be asked for
		}
	}()
	if err != nil {
		return err
	}
	if breaks != n.resynced {
		if n.heard.Store(0); n.sessions != nil {
			n.sessions.local.Flush()
		}
		lost = true
	}
	if n.breaks.Load() != breaks { // it broke again: another beat is due
		return nil
	}
	if n.resynced = breaks; n.sessions != nil {
		n.sessions.table.trust()
	}
	n.heard.Store(sent)
	return nil
}

// connected returns the client, made anew when there is none yet.
func (n *Node) connected() (rueidis.Client, error) {
	if c := n.client.Load(); c != nil {
		return *c, nil
	}
	o, err := n.options()
	if err != nil {
		return nil, err
	}
	c, err := rueidis.NewClient(o)
	if err != nil {
		return nil, refusal(err)
	}
	n.client.Store(&c)
	return c, nil
}

// askTime asks all servers for their time, and reports whether any answered. The
// error is that of one that did not.
func (n *Node) askTime(ctx context.Context, client rueidis.Client) (answered bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	type answer struct {
		offset time.Duration
		took   time.Duration
		err    error
	}
	servers := client.Nodes()
	answers := make(chan answer, len(servers))
	for _, server := range servers {
		go func() {
			asked := time.Now()
			parts, err := server.Do(ctx, server.B().Time().Build()).AsIntSlice()
			a := answer{took: time.Since(asked), err: err}
			if err == nil && len(parts) == 2 {
				a.offset = time.Unix(parts[0], parts[1]*1000).Sub(asked.Add(a.took / 2))
			}
			answers <- a
		}()
	}
	best := answer{took: beatTimeout}
	for range servers {
		a := <-answers
		if a.err != nil {
			err = refusal(a.err)
			continue
		}
		answered = true
		if a.took < best.took {
			best = a
		}
	}
	// One that took long does not tell the time.
	if answered && best.took <= n.cfg.ReadTimeout {
		n.setOffset(best.offset)
	}
	return answered, err
}

// setUp notes how the link is, and logs when that changes.
func (n *Node) setUp(up bool, cause error) {
	if n.closed.Load() || n.up.Swap(up) == up {
		return
	}
	n.mu.Lock()
	since := n.since
	n.since = time.Now()
	n.mu.Unlock()
	if up {
		notify(n.keysWake)
		n.consumers.answers(since)
		n.cfg.Log.Info("Redis answers", slog.String("namespace", n.cfg.Namespace))
	} else {
		n.cfg.Log.Error("Redis does not answer; writes are refused, ticket keys stay, and sessions are served from the cache of this node for --redis-max-stale",
			slog.String("error", cause.Error()))
	}
}

// refreshKeys calls refresh when Redis says so, and every PollEvery or so. When Redis does
// not answer that, it calls again soon: the next poll may come after the grace period.
func (n *Node) refreshKeys(ctx context.Context, refresh func() error) {
	logged := ""
	for {
		wait := n.cfg.PollEvery/2 + rand.N(n.cfg.PollEvery)
		if n.up.Load() {
			err := refresh()
			if errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrRefused) {
				wait = lastRetry/2 + rand.N(lastRetry/2)
			}
			switch {
			case err == nil, errors.Is(err, keys.ErrUnsettled): // which the store logs
				logged = ""
			case err.Error() != logged:
				logged = err.Error()
				n.cfg.Log.Error("cannot load the ticket keys of the fleet; keeping the active set", slog.String("error", logged))
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-n.keysWake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// invalidated is told of keys that have changed, or, with nil, that all may have.
func (n *Node) invalidated(changed []rueidis.RedisMessage) {
	if changed == nil {
		n.broke()
		return
	}
	for _, message := range changed {
		name, err := message.ToString()
		if err != nil {
			continue
		}
		n.counts.invalidations.Add(1)
		if name == n.keysName() || name == n.markName() {
			notify(n.keysWake)
		} else if id, ok := n.sessionID(name); ok && n.sessions != nil {
			n.sessions.table.invalidate(id)
		} else if consumer, ok := strings.CutPrefix(name, n.consumerPrefix()); ok {
			n.consumers.changed(consumer)
		}
	}
}

// do sends a command and returns its result. The span of the command has the name. The
// error is ErrNotConnected when Redis did not answer lately. A slice that the command was
// made from must not be changed any more: it may be sent later.
func (n *Node) do(ctx context.Context, name string, timeout time.Duration, command func(rueidis.Client, context.Context) rueidis.RedisResult) (rueidis.RedisMessage, error) {
	c := n.client.Load()
	if c == nil || !n.up.Load() {
		return rueidis.RedisMessage{}, ErrNotConnected
	}
	span := tracing.StartRedis(ctx, name)
	// A client that hangs up does not end the command: others may wait for its result.
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	m, err := command(*c, ctx).ToMessage()
	if rueidis.IsRedisNil(err) {
		span.End(nil)
	} else {
		span.End(err)
	}
	return m, err
}

// write is do for a command that writes, with the time that is for that. The error
// is [ErrUnavailable], or that of a nil reply.
func (n *Node) write(ctx context.Context, name string, command func(rueidis.Client, context.Context) rueidis.RedisResult) (rueidis.RedisMessage, error) {
	m, err := n.do(ctx, name, writeTimeout, command)
	switch {
	case err == nil, rueidis.IsRedisNil(err):
		if n.refused.Load() != 0 && n.refused.Swap(0) != 0 {
			n.cfg.Log.Info("Redis accepts writes again")
		}
		return m, err
	case isRefusal(err):
		return m, unavailable(fmt.Errorf("%w: %s", ErrRefused, n.noteRefusal(err.Error())))
	}
	return m, unavailable(err)
}

// noteRefusal notes why Redis refused a write, and returns that for the log.
func (n *Node) noteRefusal(text string) (reason string) {
	reason = withoutArguments(text)
	if !n.refuses() {
		n.cfg.Log.Error("Redis refuses writes", "error", reason)
	}
	n.refused.Store(time.Now().UnixNano())
	return reason
}

// refuses reports whether Redis refused the last write, a moment ago: by now it may
// take them.
func (n *Node) refuses() bool {
	at := n.refused.Load()
	return at != 0 && time.Since(time.Unix(0, at)) < refusalHolds
}

// withoutArguments is the text of an error of Redis up to where it repeats the command:
// that has a session's ID, which is not for the log.
func withoutArguments(text string) string {
	text, _, _ = strings.Cut(text, ", with args")
	return text
}

// isRefusal reports whether the error is an answer of Redis.
func isRefusal(err error) bool {
	_, ok := rueidis.IsRedisErr(err)
	return ok
}

// Health returns why the node is degraded; "" if it is not.
func (n *Node) Health() string {
	switch s := n.Stats(); {
	case !s.Connected:
		return "Redis has not answered since " + s.Since.UTC().Format(time.RFC3339) + "; writes are refused, ticket keys stay"
	case s.Refusing:
		return "Redis refuses writes, or its ticket keys cannot be decrypted; the log has the cause"
	}
	return ""
}

// Stats holds the state of a node, and counts since it was made.
type Stats struct {
	Refusing  bool          // Redis refused the last write, within a minute, or its ticket keys cannot be unsealed
	Connected bool          // some server answered the last beat
	Since     time.Time     // when Connected last changed
	Age       time.Duration // since the local cache was last known to agree with Redis; 0 before the first time

	LocalHits  uint64 // lookups answered by the local cache
	RemoteHits uint64 // lookups answered by Redis
	Misses     uint64 // lookups that found no session
	Coalesced  uint64 // lookups that shared the answer of a concurrent one
	Timeouts   uint64 // reads that Redis did not answer in time; they are misses
	Failures   uint64 // reads that failed otherwise; they are misses

	Invalidations uint64 // changes by other nodes, as Redis reported them
	Connections   uint64 // connections made
	Conflicts     uint64 // writes retried because another node wrote first

	Violations                   uint64 // connections closed because a reply was malformed or too large
	RefusedSessions, RefusedKeys uint64 // records that cannot be unsealed
	RefusedConsumers             uint64 // the same
	RefusedRosters               uint64 // the same
	RestoredKeys                 uint64 // ticket keys restored to Redis, which had none or older ones
}

// Stats returns the current figures.
func (n *Node) Stats() Stats {
	n.mu.Lock()
	since := n.since
	n.mu.Unlock()
	c := &n.counts
	s := Stats{
		Connected: n.up.Load(), Refusing: n.refuses() || n.unread.Load(), Since: since,
		RemoteHits: c.remoteHits.Load(), Misses: c.misses.Load(), Coalesced: c.coalesced.Load(),
		Timeouts: c.timeouts.Load(), Failures: c.failures.Load(),
		Invalidations: c.invalidations.Load(), Connections: c.reconnects.Load(), Conflicts: c.conflicts.Load(),
		Violations: c.violations.Load(), RefusedSessions: c.refusedSessions.Load(), RefusedKeys: c.refusedKeys.Load(), RestoredKeys: c.restoredKeys.Load(),
		RefusedConsumers: c.refusedConsumers.Load(), RefusedRosters: c.refusedRosters.Load(),
	}
	if heard := n.heard.Load(); heard != 0 {
		s.Age = time.Duration(n.elapsed() - heard)
	}
	if n.sessions != nil {
		s.LocalHits = n.sessions.local.Stats().Hits
	}
	return s
}
