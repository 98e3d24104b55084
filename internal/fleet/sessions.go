package fleet

import (
	"context"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/seal"
	"github.com/sessapi/sessapi/internal/tracing"
)

const (
	sessionKind = "fleet: session"
	// maxSwaps is how often a conditional write is tried when others write the
	// same session meanwhile.
	maxSwaps = 16
	// scanTimeout is how long going through all keys may take.
	scanTimeout = 25 * time.Second
	// scanBatch is how many keys are asked for in one go.
	scanBatch = 500
)

// Sessions are the sessions of the fleet, with a local cache in front of Redis. It
// is safe for concurrent use.
type Sessions struct {
	node  *Node
	local *cache.Cache
	table table

	observer cache.Observer
	read     func(took time.Duration)
}

// Sessions returns the fleet's sessions with local as the cache in front of them.
// Nobody else may write to local; its limits on a session apply. observer, which may be nil,
// is told what requests to this node do to sessions; the observer of local should be
// [OfCopies] of it. read is called with the duration of each read from Redis. Call Sessions
// once, before Connect.
func (n *Node) Sessions(local *cache.Cache, observer cache.Observer, read func(took time.Duration)) *Sessions {
	s := &Sessions{node: n, local: local, observer: observer, read: read}
	s.table.init(local)
	n.sessions = s
	return s
}

// sessionPrefix is in front of the hex of a session's ID.
func (n *Node) sessionPrefix() string { return n.cfg.Namespace + ":session:" }

func (n *Node) sessionName(id cache.ID) string { return n.sessionPrefix() + id.String() }

// sessionID is the reverse of sessionName.
func (n *Node) sessionID(name string) (cache.ID, bool) {
	text, ok := strings.CutPrefix(name, n.sessionPrefix())
	if !ok {
		return cache.ID{}, false
	}
	id, err := cache.ParseID(text)
	return id, err == nil
}

func (n *Node) sessionBinding(id cache.ID) seal.Binding {
	return seal.Binding{Kind: sessionKind, Namespace: n.cfg.Namespace, ID: id.Bytes()}
}

// A session in Redis is the seal of, in big-endian order,
//
//	version (1), mark (1), stored at (8), expires at (8), session
//
// Times are milliseconds since 1970.
const (
	recordVersion = 1
	recordHeader  = 1 + 1 + 8 + 8

	// maxRecord is the size of the largest record, be it of a session or of ticket keys.
	maxRecord = recordHeader + cache.MaxSize + seal.Overhead
)

// sealed returns the record of a session. It is no secret.
func (n *Node) sealed(id cache.ID, data []byte, e cache.Entry) string {
	plain := make([]byte, recordHeader, recordHeader+len(data))
	plain[0], plain[1] = recordVersion, e.Mark
	binary.BigEndian.PutUint64(plain[2:], uint64(e.StoredAt))
	binary.BigEndian.PutUint64(plain[10:], uint64(e.ExpiresAt))
	plain = append(plain, data...)
	defer clear(plain)
	return rueidis.BinaryString(n.cfg.Seal.Seal(make([]byte, 0, len(plain)+seal.Overhead), plain, n.sessionBinding(id)))
}

// open appends the session of a record to dst. One that does not open is counted.
func (n *Node) open(dst []byte, id cache.ID, record string) (data []byte, e cache.Entry, ok bool) {
	start := len(dst)
	plain, err := n.cfg.Seal.Open(dst, []byte(record), n.sessionBinding(id))
	opened := plain[start:]
	if err != nil || len(opened) <= recordHeader || opened[0] != recordVersion {
		clear(opened)
		n.counts.refusedSessions.Add(1)
		return dst, cache.Entry{}, false
	}
	e = cache.Entry{
		Size: len(opened) - recordHeader, Mark: opened[1],
		StoredAt:  cache.Time(binary.BigEndian.Uint64(opened[2:])),
		ExpiresAt: cache.Time(binary.BigEndian.Uint64(opened[10:])),
	}
	if !e.ExpiresAt.UTC().After(time.Now()) {
		clear(opened)
		return dst, cache.Entry{}, false
	}
	copy(opened, opened[recordHeader:])
	clear(opened[e.Size:])
	data = plain[:start+e.Size]
	e.Tag = cache.TagOf(data[start:])
	return data, e, true
}

// Get is [cache.Cache.Get] for the fleet. If Redis does not answer in time, it is a
// miss.
func (s *Sessions) Get(ctx context.Context, dst []byte, id cache.ID) (data []byte, e cache.Entry, ok bool) {
	if s.node.fresh() {
		if data, e, ok = s.local.Get(dst, id); ok {
			return data, e, true
		}
	}
	f, first := s.table.join(id)
	if first {
		data, e, ok = s.fetch(ctx, dst, id)
		s.table.land(id, f, data[len(dst):], e, ok)
	} else {
		s.node.counts.coalesced.Add(1)
		data, e, ok = f.wait(dst)
	}
	if ok {
		s.node.counts.remoteHits.Add(1)
	} else {
		s.node.counts.misses.Add(1)
	}
	return data, e, ok
}

// fetch reads a session from Redis.
func (s *Sessions) fetch(ctx context.Context, dst []byte, id cache.ID) (data []byte, e cache.Entry, ok bool) {
	n := s.node
	if n.timeouts.Load() >= maxTimeouts {
		return dst, cache.Entry{}, false
	}
	began := time.Now()
	record, err := n.get(ctx, n.cfg.ReadTimeout, n.sessionName(id))
	switch {
	case errors.Is(err, ErrNotConnected):
		return dst, cache.Entry{}, false
	case errors.Is(err, context.DeadlineExceeded):
		n.counts.timeouts.Add(1)
		if n.timeouts.Add(1) == maxTimeouts {
			notify(n.wake)
		}
	case err != nil:
		n.counts.failures.Add(1)
		notify(n.wake)
	default:
		n.timeouts.Store(0)
	}
	s.read(time.Since(began))
	if err != nil || record == "" {
		return dst, cache.Entry{}, false
	}
	return n.open(dst, id, record)
}

// get reads the first bytes of a key, one more than a record has at most; "" is none.
func (n *Node) get(ctx context.Context, timeout time.Duration, key string) (string, error) {
	m, err := n.do(ctx, "get", timeout, func(c rueidis.Client, ctx context.Context) rueidis.RedisResult {
		return c.Do(ctx, c.B().Getrange().Key(key).Start(0).End(maxRecord).Build())
	})
	if err != nil {
		return "", err
	}
	return m.ToString()
}

// Put is [cache.Cache.Put] for the fleet. Redis has stored the session when it returns
// nil; the error may also be [ErrUnavailable].
func (s *Sessions) Put(ctx context.Context, id cache.ID, data []byte, o cache.PutOptions) (replaced bool, err error) {
	if err := s.local.Check(id, len(data), o.ExpiresAt); err != nil {
		return false, err
	}
	now := time.Now()
	ttl := min(o.ExpiresAt.Sub(now), maxTTL)
	if ttl < time.Millisecond {
		return false, cache.ErrExpired
	}
	end := now.Add(ttl)
	e := cache.Entry{
		Size: len(data), Mark: o.Mark, Tag: o.Tag,
		StoredAt: cache.Time(now.UnixMilli()), ExpiresAt: cache.Time(end.UnixMilli()),
	}
	record := s.node.sealed(id, data, e)
	s.table.begin(id)
	defer func() {
		if err != nil {
			data = nil
		}
		s.table.end(id, data, e)
	}()
	if o.If == nil {
		replaced, err = s.node.set(ctx, s.node.sessionName(id), record, end)
	} else {
		replaced, err = s.swap(ctx, id, record, end, o.If)
	}
	switch {
	case err != nil:
	case replaced:
		s.observe(cache.EventReplaced, id, e)
	default:
		s.observe(cache.EventStored, id, e)
	}
	return replaced, err
}

// maxTTL is the longest time that Redis is told to keep a session: far beyond the
// longest that the service lets one live.
const maxTTL = 366 * 24 * time.Hour

// endOf is the end of a session by the clock of Redis, which need not be right. It is a
// time and not a duration, which would begin when Redis gets to the command.
func (n *Node) endOf(end time.Time) string {
	return strconv.FormatInt(end.Add(n.offset()).UnixMilli(), 10)
}

// set sets a key until end and reports whether there was one.
func (n *Node) set(ctx context.Context, key, value string, end time.Time) (replaced bool, err error) {
	m, err := n.write(ctx, "set", func(c rueidis.Client, ctx context.Context) rueidis.RedisResult {
		return setScript().Exec(ctx, c, []string{key}, []string{value, n.endOf(end)})
	})
	if err != nil {
		return false, err
	}
	existed, err := m.AsInt64()
	return existed == 1, unavailable(err)
}

// SET with GET would answer with all of a value of any size.
var setScript = sync.OnceValue(func() *rueidis.Lua {
	return rueidis.NewLuaScript(`
local existed = redis.call('EXISTS', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2])
return existed`)
})

// replace sets a key until end if its value is the expected one, as get returns it, and
// deletes it when the new value is "". It reports whether that was so. Redis runs a
// script as one step.
func (n *Node) replace(ctx context.Context, key, expected, value string, end time.Time) (bool, error) {
	m, err := n.write(ctx, "replace", func(c rueidis.Client, ctx context.Context) rueidis.RedisResult {
		return replaceScript().Exec(ctx, c, []string{key}, []string{expected, value, n.endOf(end), strconv.Itoa(maxRecord)})
	})
	if err != nil {
		return false, err
	}
	done, err := m.AsInt64()
	return done == 1, unavailable(err)
}

var replaceScript = sync.OnceValue(func() *rueidis.Lua {
	return rueidis.NewLuaScript(`
if redis.call('GETRANGE', KEYS[1], 0, ARGV[4]) ~= ARGV[1] then
	return 0
end
if ARGV[2] == '' then
	redis.call('DEL', KEYS[1])
else
	redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
end
return 1`)
})

// Delete is [cache.Cache.Delete] for the fleet. Redis has removed the session when it
// returns nil; the error may also be [ErrUnavailable].
func (s *Sessions) Delete(ctx context.Context, id cache.ID, cond cache.Condition) (err error) {
	s.table.begin(id)
	defer func() {
		s.table.end(id, nil, cache.Entry{})
		if err == nil {
			s.observe(cache.EventRemoved, id, cache.Entry{})
		}
	}()
	if cond != nil {
		replaced, err := s.swap(ctx, id, "", time.Time{}, cond)
		if err == nil && !replaced {
			return cache.ErrNotFound
		}
		return err
	}
	m, err := s.node.write(ctx, "delete", func(c rueidis.Client, ctx context.Context) rueidis.RedisResult {
		return c.Do(ctx, c.B().Del().Key(s.node.sessionName(id)).Build())
	})
	if err != nil {
		return err
	}
	if n, err := m.AsInt64(); err != nil || n == 0 {
		return cache.ErrNotFound
	}
	return nil
}

// swap puts record in the place of what the condition holds for, "" to delete it,
// and reports whether there was a session.
func (s *Sessions) swap(ctx context.Context, id cache.ID, record string, end time.Time, cond cache.Condition) (existed bool, err error) {
	key := s.node.sessionName(id)
	for range maxSwaps {
		old, err := s.node.get(ctx, writeTimeout, key)
		if err != nil {
			return false, unavailable(err)
		}
		var e cache.Entry
		existed = false
		if old != "" {
			var data []byte
			data, e, existed = s.node.open(nil, id, old)
			clear(data)
		}
		if !existed && record == "" {
			return false, cache.ErrNotFound
		}
		if !cond(e.Tag, existed) {
			return false, cache.ErrPrecondition
		}
		done, err := s.node.replace(ctx, key, old, record, end)
		if err != nil {
			return false, err
		}
		if done {
			return existed, nil
		}
		s.node.counts.conflicts.Add(1)
	}
	return false, unavailable(errors.New("too many concurrent writes of the same session"))
}

// List is [cache.Cache.List] of the node's own cache.
func (s *Sessions) List(after cache.ID, limit int) (page []cache.Listed, more bool) {
	return s.local.List(after, limit)
}

// Flush removes the sessions of the whole fleet and returns how many it removed.
// Sessions stored meanwhile may stay. After an error, some sessions may have been
// removed.
func (s *Sessions) Flush(ctx context.Context) (removed int, err error) {
	span := tracing.StartRedis(ctx, "flush")
	defer func() { span.End(err) }()
	n := s.node
	// Redis does not tell a connection of what it did itself.
	defer func() {
		s.table.disturbAll()
		s.local.Flush()
	}()
	err = n.scan(n.sessionPrefix(), func(ctx context.Context, client rueidis.Client, keys []string) error {
		unlinks := make(rueidis.Commands, len(keys))
		for i, key := range keys {
			unlinks[i] = client.B().Unlink().Key(key).Build()
		}
		for i, result := range client.DoMulti(ctx, unlinks...) {
			gone, err := result.AsInt64()
			if err != nil {
				return err
			}
			removed += int(gone)
			if id, ok := n.sessionID(keys[i]); ok && gone > 0 {
				s.observe(cache.EventRemoved, id, cache.Entry{})
			}
		}
		return nil
	})
	return removed, err
}

// scan calls take with the keys in Redis that begin with the prefix, some at a time. A
// key that is there all the while is in one of the calls at least. The error is
// [ErrUnavailable].
func (n *Node) scan(prefix string, take func(ctx context.Context, client rueidis.Client, keys []string) error) error {
	client := n.client.Load()
	if client == nil || !n.up.Load() {
		return unavailable(ErrNotConnected)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scanTimeout)
	defer cancel()
	for _, server := range (*client).Nodes() {
		for cursor := uint64(0); ; {
			page, err := server.Do(ctx, server.B().Scan().Cursor(cursor).Match(prefix+"*").Count(scanBatch).Build()).AsScanEntry()
			if err == nil && len(page.Elements) > 0 {
				err = take(ctx, *client, page.Elements)
			}
			if err != nil {
				return unavailable(err)
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
	return nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
