package main

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/Yiling-J/theine-go"
	"github.com/coocood/freecache"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/maypok86/otter/v2"

	"github.com/sessapi/sessapi/internal/cache"
)

// sessionID is a TLS session ID of the usual length.
type sessionID [32]byte

// ttl is how long a session lives where a measure does not say otherwise.
const ttl = time.Hour

// The Go caches, and the servers, as the rows name them.
const (
	sessapi      = "sessapi"
	otterCache   = "otter"
	theineCache  = "theine"
	lruCache     = "golang-lru"
	lruExpirable = "golang-lru expirable"
	freeCache    = "freecache"
	mapCache     = "sharded map"
	redis        = "Redis"
	memcached    = "memcached"
)

// goCaches are the caches that run in the process.
var goCaches = []string{sessapi, otterCache, theineCache, lruCache, lruExpirable, freeCache, mapCache}

// store is a cache under measure, for any number of goroutines.
//
// Caches that keep a reference to what they are given get a copy of data,
// which a server would have to allocate too: its buffer is for the next
// request. Caches that copy get the buffer itself.
type store interface {
	put(id *sessionID, data []byte) error
	// get returns the session, in dst if the cache copies, else the cache's own.
	get(id *sessionID, dst []byte) (data []byte, ok bool)
	len() int
}

// open returns the named cache with room for at least n sessions of
// sessionSize bytes.
func open(name string, n int) (store, error) {
	switch name {
	case sessapi:
		c, err := openSessapi(memoryFor(n))
		return sessapiStore{c, time.Now().Add(ttl)}, err
	case otterCache:
		c, err := otter.New(&otter.Options[sessionID, []byte]{
			MaximumSize:      n,
			ExpiryCalculator: otter.ExpiryWriting[sessionID, []byte](ttl),
		})
		return otterStore{c}, err
	case theineCache:
		c, err := theine.NewBuilder[sessionID, []byte](int64(n)).Build()
		return theineStore{c}, err
	case lruCache:
		c, err := lru.New[sessionID, []byte](n)
		return lruStore{c}, err
	case lruExpirable:
		return expirableStore{expirable.NewLRU[sessionID, []byte](n, nil, ttl)}, nil
	case freeCache:
		return freecacheStore{freecache.NewCache(withSlack(n) * freecacheEntry)}, nil
	case mapCache:
		return newMapStore(withSlack(n)), nil
	}
	return nil, fmt.Errorf("no cache %q", name)
}

// withSlack adds what a cache of 256 fixed parts needs for n sessions to fit in
// spite of the chance that puts more into one part: of a million four standard
// deviations are 6 %.
func withSlack(n int) int { return n + n*7/100 }

// sessapiStore copies in and out, keeps to each session's own end, and wipes.
type sessapiStore struct {
	c   *cache.Cache
	end time.Time
}

func openSessapi(memory int64) (*cache.Cache, error) {
	return cache.New(cache.Config{Memory: memory, MaxSessionBytes: cache.MaxSize})
}

// memoryFor returns the Config.Memory that n sessions fill: the cache is bounded
// in bytes, most others by number, and figures are by sessions held. It goes by
// how many a small cache holds, less a little for what the shards differ by.
func memoryFor(n int) int64 {
	const probe = 64 << 20
	c, err := openSessapi(probe)
	if err != nil {
		panic(err) // the configuration is valid
	}
	defer c.Close()
	s := sessapiStore{c, time.Now().Add(ttl)}
	data := make([]byte, sessionSize)
	var id sessionID
	for i := range uint64(probe / sessionSize) {
		id.set(i)
		if err := s.put(&id, data); err != nil {
			panic(err) // the session is valid
		}
	}
	perSession := float64(probe) / float64(s.len())
	return max(cache.MinMemory, int64(0.99*perSession*float64(n)))
}

func (s sessapiStore) put(id *sessionID, data []byte) error {
	key, err := cache.MakeID(id[:])
	if err != nil {
		return err
	}
	_, err = s.c.Put(key, data, cache.PutOptions{ExpiresAt: s.end})
	return err
}

func (s sessapiStore) get(id *sessionID, dst []byte) ([]byte, bool) {
	key, err := cache.MakeID(id[:])
	if err != nil {
		return nil, false
	}
	data, _, ok := s.c.Get(dst, key)
	return data, ok
}

func (s sessapiStore) len() int { return s.c.Stats().Entries }

// otterStore returns a reference and wipes nothing. All its sessions live for
// the same time, which is the cheapest of its ways to expire.
type otterStore struct {
	*otter.Cache[sessionID, []byte]
}

func (s otterStore) put(id *sessionID, data []byte) error {
	s.Set(*id, bytes.Clone(data))
	return nil
}

func (s otterStore) get(id *sessionID, _ []byte) ([]byte, bool) { return s.GetIfPresent(*id) }

func (s otterStore) len() int {
	s.CleanUp() // its evictions come some time after the writes
	return s.EstimatedSize()
}

// theineStore returns a reference and wipes nothing. It keeps to each session's
// own end.
type theineStore struct {
	*theine.Cache[sessionID, []byte]
}

func (s theineStore) put(id *sessionID, data []byte) error {
	s.SetWithTTL(*id, bytes.Clone(data), 1, ttl)
	return nil
}

func (s theineStore) get(id *sessionID, _ []byte) ([]byte, bool) { return s.Get(*id) }

func (s theineStore) len() int {
	s.Wait() // its evictions come some time after the writes
	return s.Len()
}

// lruStore returns a reference, knows no expiry and wipes nothing.
type lruStore struct{ *lru.Cache[sessionID, []byte] }

func (s lruStore) put(id *sessionID, data []byte) error {
	s.Add(*id, bytes.Clone(data))
	return nil
}

func (s lruStore) get(id *sessionID, _ []byte) ([]byte, bool) { return s.Get(*id) }

func (s lruStore) len() int { return s.Len() }

// expirableStore returns a reference and wipes nothing. All its sessions live
// for the same time.
type expirableStore struct {
	*expirable.LRU[sessionID, []byte]
}

func (s expirableStore) put(id *sessionID, data []byte) error {
	s.Add(*id, bytes.Clone(data))
	return nil
}

func (s expirableStore) get(id *sessionID, _ []byte) ([]byte, bool) { return s.Get(*id) }

func (s expirableStore) len() int { return s.Len() }

// freecacheEntry is what a session takes in freecache's ring buffers: a header
// (ENTRY_HDR_SIZE of its segment.go), the ID and the data. Its index comes on
// top.
const freecacheEntry = freecache.ENTRY_HDR_SIZE + len(sessionID{}) + sessionSize

// freecacheStore copies in and out, and keeps to each session's own end in
// whole seconds. It wipes nothing and drops an expired session only when the
// session is asked for or its space is needed.
type freecacheStore struct{ *freecache.Cache }

func (s freecacheStore) put(id *sessionID, data []byte) error {
	return s.Set(id[:], data, int(ttl/time.Second))
}

func (s freecacheStore) get(id *sessionID, dst []byte) ([]byte, bool) {
	data, err := s.GetWithBuf(id[:], dst[:cap(dst)])
	return data, err == nil
}

func (s freecacheStore) len() int { return int(s.EntryCount()) }

// mapStore is what one would write without a library: locked maps. It returns
// a reference, wipes nothing, drops an expired session only when it is asked
// for, and evicts whatever the map iterates to first.
type mapStore struct {
	shards [256]mapShard
	limit  int // sessions of a shard
}

type mapShard struct {
	mu sync.Mutex // guards m
	m  map[sessionID]mapEntry
	_  [48]byte // to the size of a cache line
}

type mapEntry struct {
	data []byte
	end  int64 // nanoseconds since 1970
}

func newMapStore(n int) *mapStore {
	s := &mapStore{}
	s.limit = max(1, n/len(s.shards))
	for i := range s.shards {
		s.shards[i].m = make(map[sessionID]mapEntry)
	}
	return s
}

// shard goes by a byte of the ID, which is as good as a hash while nobody
// chooses IDs.
func (s *mapStore) shard(id *sessionID) *mapShard { return &s.shards[id[0]] }

func (s *mapStore) put(id *sessionID, data []byte) error {
	e := mapEntry{bytes.Clone(data), time.Now().Add(ttl).UnixNano()}
	shard := s.shard(id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if _, ok := shard.m[*id]; !ok && len(shard.m) >= s.limit {
		for victim := range shard.m {
			delete(shard.m, victim)
			break
		}
	}
	shard.m[*id] = e
	return nil
}

func (s *mapStore) get(id *sessionID, _ []byte) ([]byte, bool) {
	now := time.Now().UnixNano()
	shard := s.shard(id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	e, ok := shard.m[*id]
	if ok && now >= e.end {
		delete(shard.m, *id)
		return nil, false
	}
	return e.data, ok
}

func (s *mapStore) len() int {
	n := 0
	for i := range s.shards {
		shard := &s.shards[i]
		shard.mu.Lock()
		n += len(shard.m)
		shard.mu.Unlock()
	}
	return n
}
