package fleet

import (
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

// OfCopies returns the observer for a cache in front of Redis. What the node stores there
// and drops again are copies, which come and go with requests and with the changes of
// other nodes. o is told only when one expires or is evicted.
func OfCopies(o cache.Observer) cache.Observer { return copies{o} }

type copies struct{ cache.Observer }

func (c copies) Wants(kind cache.EventKind) bool {
	return (kind == cache.EventExpired || kind == cache.EventEvicted) && c.Observer.Wants(kind)
}

// observe tells the observer what a request to this node did to a session of the fleet.
func (s *Sessions) observe(kind cache.EventKind, id cache.ID, e cache.Entry) {
	if s.observer != nil && s.observer.Wants(kind) {
		now := cache.Time(time.Now().UnixMilli())
		s.observer.Observe(cache.Event{Kind: kind, ID: id, Entry: e, At: now, LastUsed: now})
	}
}
