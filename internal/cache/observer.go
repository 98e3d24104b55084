package cache

// Event is something that happened to a session.
type Event struct {
	Kind EventKind
	ID   ID
	// Entry describes the session that the event is about, for [EventReplaced] the new
	// one. Its Tag may be missing.
	Entry
	At       Time // when it happened
	LastUsed Time // when the session was last stored, or returned by Get
}

// EventKind is a kind of [Event].
type EventKind uint8

// The kinds of events. Every session that is stored ends with one of the last four.
const (
	EventStored   EventKind = iota // by a Put of an ID that had no session
	EventReplaced                  // by a Put of the same ID
	EventRemoved                   // by Delete, Flush or Close
	EventExpired                   // its end has passed, and its bytes are wiped
	EventEvicted                   // to make room
)

// Observer is told what happens to sessions, in the order in which it happens to each of
// them. Its methods are called concurrently and with a lock held: they must return at
// once, and must not call the cache.
type Observer interface {
	// Wants reports whether Observe is to be called for events of the kind. It is asked
	// for each event.
	Wants(kind EventKind) bool
	Observe(e Event)
}

// nobody is the observer of a cache without one.
type nobody struct{}

func (nobody) Wants(EventKind) bool { return false }
func (nobody) Observe(Event)        {}

// observe tells the observer about the session at r, which is there now. The shard is
// locked.
func (c *Cache) observe(kind EventKind, s *shard, r ref, now int64) {
	if c.observer.Wants(kind) {
		id, _ := MakeID(s.id(r)) // it was valid when it was stored
		c.observer.Observe(Event{Kind: kind, ID: id, Entry: s.entry(r), At: Time(now), LastUsed: Time(s.lastUsed(r))})
	}
}
