package main

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/sessapi/sessapi/internal/cache"
)

// accessTime is what one access takes on the clock of a real cache.
const accessTime = time.Millisecond

// clock is the time of a real cache, whose own goroutines read it too.
type clock struct{ now atomic.Int64 }

func (c *clock) set(now int) { c.now.Store(int64(now) * int64(accessTime)) }

// NowNano is part of otter.Clock.
func (c *clock) NowNano() int64 { return c.now.Load() }

// Tick is part of otter.Clock. Without ticks, otter expires entries when it is
// called, in the calling goroutine.
func (c *clock) Tick(time.Duration) <-chan time.Time { return nil }

// otterCache is otter: W-TinyLFU with a window of adaptive size.
type otterCache struct {
	clock
	cache *otter.Cache[uint32, struct{}]
}

func newOtter(l *load, capacity int) policy {
	p := &otterCache{}
	o := &otter.Options[uint32, struct{}]{
		MaximumSize: capacity,
		Executor:    func(fn func()) { fn() }, // evicts at once
		Clock:       &p.clock,
	}
	if l.ttl > 0 {
		o.ExpiryCalculator = otter.ExpiryWriting[uint32, struct{}](time.Duration(l.ttl) * accessTime)
	}
	p.cache = otter.Must(o)
	return p
}

func (p *otterCache) get(key uint32, now int) bool {
	p.set(now)
	_, ok := p.cache.GetIfPresent(key)
	return ok
}

func (p *otterCache) put(key uint32, _ int) { p.cache.Set(key, struct{}{}) }

// sessions is the session cache of this project.
type sessions struct {
	clock
	cache *cache.Cache
	ttl   time.Duration
	buf   []byte
}

const (
	// sessionBytes is the size of the sessions.
	sessionBytes = 160
	// sessionMemory is more than one takes, so that MaxSessions is the bound.
	sessionMemory = 1024
)

func newSessions(l *load, capacity int) policy {
	p := &sessions{ttl: time.Duration(l.ttl) * accessTime}
	if l.ttl == 0 {
		p.ttl = 2 * accesses * accessTime // beyond the load's end
	}
	c, err := cache.New(cache.Config{
		Memory:          cache.MinMemory + int64(capacity)*sessionMemory,
		MaxSessions:     capacity,
		MaxSessionBytes: sessionBytes,
		Now:             func() time.Time { return time.Unix(0, p.NowNano()) },
	})
	if err != nil {
		panic(err)
	}
	p.cache = c
	return p
}

func (p *sessions) get(key uint32, now int) bool {
	p.set(now)
	var ok bool
	p.buf, _, ok = p.cache.Get(p.buf[:0], sessionID(key))
	return ok
}

func (p *sessions) put(key uint32, _ int) {
	var data [sessionBytes]byte
	expires := time.Unix(0, p.NowNano()).Add(p.ttl)
	_, err := p.cache.Put(sessionID(key), data[:], cache.PutOptions{ExpiresAt: expires})
	if err != nil {
		panic(err)
	}
}

func (p *sessions) close() { p.cache.Close() }

func sessionID(key uint32) cache.ID {
	id, err := cache.MakeID(binary.BigEndian.AppendUint32(nil, key))
	if err != nil {
		panic(err)
	}
	return id
}
