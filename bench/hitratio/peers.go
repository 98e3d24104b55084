package main

import (
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

const (
	// sessionBytes is the size of the sessions.
	sessionBytes = 160
	// sessionMemory is more than one takes, so that MaxSessions is the bound.
	sessionMemory = 1024
)

// sessions is the session cache of this project.
type sessions struct{ *cachetest.Sessions }

func newSessions(_, capacity int) cachetest.Policy {
	p, err := cachetest.NewSessions(cache.Config{
		Memory:          cache.MinMemory + int64(capacity)*sessionMemory,
		MaxSessions:     capacity,
		MaxSessionBytes: sessionBytes,
	}, func(uint32) int { return sessionBytes })
	if err != nil {
		panic(err)
	}
	return sessions{p}
}

func (p sessions) close() { p.Cache.Close() }
