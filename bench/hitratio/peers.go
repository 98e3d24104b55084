package main

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/cache/cachetest"
)

// otterCache is otter: W-TinyLFU with a window of adaptive size.
type otterCache struct {
	cache *otter.Cache[uint32, struct{}]
}

func newOtter(_, capacity int) cachetest.Policy {
	return &otterCache{otter.Must(&otter.Options[uint32, struct{}]{
		MaximumSize: capacity,
		Executor:    func(fn func()) { fn() }, // evicts at once
	})}
}

func (p *otterCache) Get(s cachetest.Session, _, _ time.Duration) bool {
	_, ok := p.cache.GetIfPresent(s.ID)
	return ok
}

func (p *otterCache) Put(s cachetest.Session, _, _ time.Duration) { p.cache.Set(s.ID, struct{}{}) }

func (p *otterCache) Delete(s cachetest.Session, _ time.Duration) { p.cache.Invalidate(s.ID) }

// sessions is the session cache of this project.
type sessions struct {
	cache *cache.Cache
	now   atomic.Int64 // the time that the cache sees, in nanoseconds
	buf   []byte
}

const (
	// sessionBytes is the size of the sessions.
	sessionBytes = 160
	// sessionMemory is more than one takes, so that MaxSessions is the bound.
	sessionMemory = 1024
)

func newSessions(_, capacity int) cachetest.Policy {
	p := &sessions{}
	c, err := cache.New(cache.Config{
		Memory:          cache.MinMemory + int64(capacity)*sessionMemory,
		MaxSessions:     capacity,
		MaxSessionBytes: sessionBytes,
		Now:             func() time.Time { return time.Unix(0, p.now.Load()) },
	})
	if err != nil {
		panic(err)
	}
	p.cache = c
	return p
}

func (p *sessions) Get(s cachetest.Session, now, _ time.Duration) bool {
	p.now.Store(int64(now))
	var ok bool
	p.buf, _, ok = p.cache.Get(p.buf[:0], sessionID(s.ID))
	return ok
}

func (p *sessions) Put(s cachetest.Session, now, _ time.Duration) {
	p.now.Store(int64(now))
	var data [sessionBytes]byte
	_, err := p.cache.Put(sessionID(s.ID), data[:], cache.PutOptions{ExpiresAt: time.Unix(0, int64(s.End))})
	if err != nil {
		panic(err)
	}
}

// Delete does also what the cache's own sweep would do at the end of a session.
func (p *sessions) Delete(s cachetest.Session, now time.Duration) {
	p.now.Store(int64(now))
	_ = p.cache.Delete(sessionID(s.ID), nil)
}

func (p *sessions) close() { p.cache.Close() }

func sessionID(id uint32) cache.ID {
	made, err := cache.MakeID(binary.BigEndian.AppendUint32(nil, id))
	if err != nil {
		panic(err)
	}
	return made
}
