package cachetest

import (
	"container/list"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

// LRU evicts the session that was not used for longest.
type LRU struct {
	order    list.List // of IDs, the one used last first
	at       map[uint32]*list.Element
	capacity int
}

// NewLRU returns an empty LRU for so many sessions.
func NewLRU(capacity int) *LRU {
	return &LRU{at: make(map[uint32]*list.Element), capacity: capacity}
}

// Get is part of [Policy].
func (p *LRU) Get(s Session, _, _ time.Duration) bool {
	at := p.at[s.ID]
	if at != nil {
		p.order.MoveToFront(at)
	}
	return at != nil
}

// Put is part of [Policy].
func (p *LRU) Put(s Session, now, _ time.Duration) {
	if len(p.at) == p.capacity {
		p.Delete(Session{ID: p.order.Back().Value.(uint32)}, now)
	}
	p.at[s.ID] = p.order.PushFront(s.ID)
}

// Delete is part of [Policy].
func (p *LRU) Delete(s Session, _ time.Duration) {
	if at := p.at[s.ID]; at != nil {
		p.order.Remove(at)
		delete(p.at, s.ID)
	}
}

// Sessions is a session cache as a [Policy]. Its owner closes the Cache.
type Sessions struct {
	Cache *cache.Cache
	now   atomic.Int64 // the time that the cache sees, in nanoseconds
	size  func(id uint32) int
	buf   []byte
}

// NewSessions returns a session cache whose clock is the time of the load. Its sessions
// have the given sizes, by their ID.
func NewSessions(cfg cache.Config, size func(id uint32) int) (*Sessions, error) {
	p := &Sessions{size: size, buf: make([]byte, cfg.MaxSessionBytes)}
	cfg.Now = func() time.Time { return time.Unix(0, p.now.Load()) }
	var err error
	p.Cache, err = cache.New(cfg)
	return p, err
}

// Get is part of [Policy].
func (p *Sessions) Get(s Session, now, _ time.Duration) bool {
	p.now.Store(int64(now))
	_, _, ok := p.Cache.Get(p.buf[:0], cacheID(s))
	return ok
}

// Put is part of [Policy].
func (p *Sessions) Put(s Session, now, _ time.Duration) {
	p.now.Store(int64(now))
	_, err := p.Cache.Put(cacheID(s), p.buf[:p.size(s.ID)], cache.PutOptions{ExpiresAt: time.Unix(0, int64(s.End))})
	if err != nil {
		panic(err) // the load and the configuration contradict each other
	}
}

// Delete is part of [Policy]. At the end of a session it does what the sweep would do.
func (p *Sessions) Delete(s Session, now time.Duration) {
	p.now.Store(int64(now))
	_ = p.Cache.Delete(cacheID(s), nil)
}

// cacheID makes an ID of as many bytes as TLS has.
func cacheID(s Session) cache.ID {
	var b [32]byte
	binary.BigEndian.PutUint32(b[:], s.ID)
	id, err := cache.MakeID(b[:])
	if err != nil {
		panic(err) // it is 32 bytes
	}
	return id
}
