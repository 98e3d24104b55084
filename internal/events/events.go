// Package events tells subscribers what happens on this node: to sessions, ticket keys,
// consumers and the fleet.
//
// A [Bus] has a ring of the last events of each type, which all subscribers share. Each
// subscriber has a position in it. What this gives:
//
//   - Publishing never waits for a subscriber, however slow: at most for one lock, while
//     others copy a few events.
//   - Without a subscriber to a type of session event, publishing one costs an atomic load,
//     and allocates nothing. Such events are not kept.
//   - Other types are rare, and kept always. A flood of session events overwrites none of
//     them.
//   - A subscriber gets the events of its types in the order in which they were published.
//     If it falls behind a ring, it gets [Dropped] with the number of the events that it
//     missed, and goes on with the oldest one that is left.
//   - Memory is bounded: a ring has a fixed size, a subscriber has no queue of its own, and
//     there are at most [MaxSubscribers].
//
// Each event has a position, which a subscriber can later continue from. It names the run
// of the process and the number of the event. If events after it are missing, because they
// were overwritten, were not kept, or belong to another run, the subscriber first gets
// Dropped without a number: how many they were is not known.
package events

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"iter"
	"math/bits"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

const (
	// MaxSubscribers is the maximum number of subscriptions.
	MaxSubscribers = 64

	// The number of events in a ring. There is a ring of a session type only while it
	// has a subscriber: 3 MB for all five. A rotation changes all consumers at once, up to
	// 4,096. Events of ticket keys are large, and rare.
	largeRing = 4096 // of sessions and consumers
	smallRing = 256

	runSize       = 8  // bytes of a run's name
	pseudonymSize = 16 // bytes
)

var (
	// ErrTooMany reports a subscription beyond [MaxSubscribers].
	ErrTooMany = fmt.Errorf("events: there are %d subscribers already", MaxSubscribers)
	// ErrPosition reports text that is not a position of any bus.
	ErrPosition = errors.New("events: not a position")
)

// Type is a type of events.
type Type uint8

// The types of events. Those of sessions have the numbers of [cache.EventKind].
const (
	SessionStored      = Type(cache.EventStored)
	SessionReplaced    = Type(cache.EventReplaced)
	SessionRemoved     = Type(cache.EventRemoved)
	SessionExpired     = Type(cache.EventExpired)
	SessionEvicted     = Type(cache.EventEvicted)
	TicketKeysUpdated  = SessionEvicted + 1
	TicketKeysRejected = SessionEvicted + 2
	ConsumerChanged    = SessionEvicted + 3
	FleetChanged       = SessionEvicted + 4
	// Dropped stands for events that the subscriber missed. It is not published.
	Dropped = SessionEvicted + 5
)

var names = [...]string{
	SessionStored:      "session.stored",
	SessionReplaced:    "session.replaced",
	SessionRemoved:     "session.removed",
	SessionExpired:     "session.expired",
	SessionEvicted:     "session.evicted",
	TicketKeysUpdated:  "ticket_keys.updated",
	TicketKeysRejected: "ticket_keys.rejected",
	ConsumerChanged:    "consumer.changed",
	FleetChanged:       "fleet.changed",
	Dropped:            "dropped",
}

// String returns the name of the type in the API.
func (t Type) String() string { return names[t] }

// ofSession reports whether events of the type are about sessions.
func (t Type) ofSession() bool { return t <= SessionEvicted }

// Types is a set of types.
type Types uint32

// All is the set of all types that are published.
const All Types = 1<<Dropped - 1

// ParseTypes returns the set of the named types. ok is false if one is unknown.
func ParseTypes(list []string) (set Types, ok bool) {
	for _, name := range list {
		found := false
		for t := range All.each() {
			if t.String() == name {
				set |= 1 << t
				found = true
			}
		}
		if !found {
			return 0, false
		}
	}
	return set, true
}

// String lists the names of the types.
func (s Types) String() string {
	var list []string
	for t := range s.each() {
		list = append(list, t.String())
	}
	return strings.Join(list, ", ")
}

func (s Types) has(t Type) bool { return s&(1<<t) != 0 }

// each yields the types of the set.
func (s Types) each() iter.Seq[Type] {
	return func(yield func(Type) bool) {
		for ; s != 0; s &= s - 1 {
			if !yield(Type(bits.TrailingZeros32(uint32(s)))) {
				return
			}
		}
	}
}

// Event is something that happened.
type Event struct {
	Type    Type
	At      time.Time   // not of a session event
	Session cache.Event // of a session event
	Data    any         // of another event, as published
	Missed  uint64      // of Dropped: the number of events; 0 if it is not known

	number uint64 // by the order of publishing, from 1 on
}

// Fleet is the data of [FleetChanged].
type Fleet struct {
	Connected bool      // whether Redis answers
	Since     time.Time // when Connected last changed
	Degraded  string    // why the node is degraded; "" if it is not
}

// Bus passes events on. It is safe for concurrent use. It is the [cache.Observer] of the
// session cache.
type Bus struct {
	now func() time.Time
	run string        // random; distinguishes this run of the process from others
	key [32]byte      // of pseudonyms
	set atomic.Uint32 // the session types that have subscribers

	dropped atomic.Uint64

	mu          sync.RWMutex // guards what follows
	last        uint64       // the number of the last event
	rings       [Dropped]ring
	subscribers map[*Subscription]struct{}
	idle        Types // of the subscribers that wait for an event
}

// ring has the last events of a type.
type ring struct {
	events      []Event // as many as fit; nil for a session type without subscribers
	from        uint64  // published when the ring was made
	published   uint64  // events so far; number n is at n % len(events)
	subscribers int
	// complete is the position from which on the ring has all events: that of the last
	// event that was overwritten, or of the bus when the ring was made.
	complete uint64
}

// oldest returns the number of events before the oldest one in the ring.
func (r *ring) oldest() uint64 {
	return max(r.from, r.published-min(r.published, uint64(len(r.events))))
}

// event returns the event that n others of its type came before. It is in the ring.
func (r *ring) event(n uint64) *Event { return &r.events[n%uint64(len(r.events))] }

// add adds an event.
func (r *ring) add(e Event) {
	slot := r.event(r.published)
	r.complete = max(r.complete, slot.number)
	*slot = e
	r.published++
}

// New returns a bus without subscribers. now is the clock.
func New(now func() time.Time) *Bus {
	var run [runSize]byte
	_, _ = rand.Read(run[:]) // never fails
	b := &Bus{now: now, run: hex.EncodeToString(run[:]), subscribers: make(map[*Subscription]struct{})}
	_, _ = rand.Read(b.key[:])
	for t := range All.each() {
		if !t.ofSession() {
			b.rings[t].events = make([]Event, smallRing)
		}
	}
	b.rings[ConsumerChanged].events = make([]Event, largeRing)
	return b
}

// Wants is part of [cache.Observer].
func (b *Bus) Wants(kind cache.EventKind) bool { return Types(b.set.Load()).has(Type(kind)) }

// Observe is part of [cache.Observer]. It publishes an event about a session.
func (b *Bus) Observe(e cache.Event) {
	if b.Wants(e.Kind) {
		b.publish(Event{Type: Type(e.Kind), Session: e})
	}
}

// Publish publishes an event that is not about a session. Nobody may change data afterwards.
func (b *Bus) Publish(t Type, data any) { b.publish(Event{Type: t, At: b.now(), Data: data}) }

func (b *Bus) publish(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &b.rings[e.Type]
	if r.events == nil { // the last subscriber has just left
		return
	}
	b.last++
	e.number = b.last
	r.add(e)
	if b.idle.has(e.Type) {
		b.wake(e.Type)
	}
}

// wake wakes the subscribers that wait for an event of the type. The bus is locked.
func (b *Bus) wake(t Type) {
	b.idle = 0
	for s := range b.subscribers {
		switch {
		case !s.idle:
		case s.types.has(t):
			s.idle = false
			s.wakeUp()
		default:
			b.idle |= s.types
		}
	}
}

// Stats is the state of a bus and its counters.
type Stats struct {
	Subscribers int
	Published   map[Type]uint64 // events kept for subscribers; has every type but Dropped
	Dropped     uint64          // events that subscribers missed because they were slow
}

// Stats returns the current figures.
func (b *Bus) Stats() Stats {
	b.mu.RLock()
	defer b.mu.RUnlock()
	s := Stats{Subscribers: len(b.subscribers), Published: make(map[Type]uint64), Dropped: b.dropped.Load()}
	for t := range All.each() {
		s.Published[t] = b.rings[t].published
	}
	return s
}

// Subscription reads the events of some types. It is for one goroutine, which must call
// Close.
type Subscription struct {
	bus   *Bus
	types Types
	wake  chan struct{} // has a token when there are events

	hash hash.Hash // of pseudonyms

	next [Dropped]uint64 // of each type: how many events were read or missed
	at   uint64          // the number of an event: those up to it were read or are of other types
	gap  bool            // events are missing that nobody counted

	idle bool // it waits for an event; guarded by the bus
}

// Subscribe returns a subscription to the types. It starts with the next event, or after
// the position of an earlier subscription; "" for none. The error is [ErrTooMany] or
// [ErrPosition].
func (b *Bus) Subscribe(types Types, position string) (*Subscription, error) {
	run, after, err := parsePosition(position)
	if err != nil {
		return nil, err
	}
	s := &Subscription{bus: b, types: types, wake: make(chan struct{}, 1), hash: hmac.New(sha256.New, b.key[:])}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.subscribers) >= MaxSubscribers {
		return nil, ErrTooMany
	}
	b.subscribers[s] = struct{}{}
	for t := range types.each() {
		b.join(t)
	}
	s.at = b.last
	for t := range types.each() {
		s.next[t] = b.rings[t].published
	}
	switch {
	case position == "":
	case run != b.run || after > b.last:
		s.gap = true
	default:
		for t := range types.each() {
			r := &b.rings[t]
			for s.next[t] > r.oldest() && r.event(s.next[t]-1).number > after {
				s.next[t]--
			}
			s.gap = s.gap || r.complete > after
		}
		if e := s.first(); e != nil {
			s.at = e.number - 1
		}
	}
	return s, nil
}

// join counts a subscriber of the type. The first one of a session type has the bus keep
// such events. The bus is locked.
func (b *Bus) join(t Type) {
	r := &b.rings[t]
	if r.subscribers++; r.subscribers > 1 || !t.ofSession() {
		return
	}
	b.last++ // so that no earlier position is the ring's
	r.events, r.from, r.complete = make([]Event, largeRing), r.published, b.last
	b.set.Store(b.set.Load() | 1<<t)
}

// Close ends the subscription.
func (s *Subscription) Close() {
	b := s.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subscribers, s)
	for t := range s.types.each() {
		r := &b.rings[t]
		if r.subscribers--; r.subscribers == 0 && t.ofSession() {
			b.set.Store(b.set.Load() &^ (1 << t))
			r.events = nil
		}
	}
}

// Read appends events to dst as far as it has room. If it appends none, [Subscription.Wake]
// receives a token with the next event.
func (s *Subscription) Read(dst []Event) []Event {
	if dst, found := s.read(dst); found {
		return dst
	}
	b := s.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.first() == nil {
		s.idle = true
		b.idle |= s.types
	} else { // it came in between
		s.wakeUp()
	}
	return dst
}

// read is Read without waiting for what comes. It does not keep others from reading.
func (s *Subscription) read(dst []Event) (read []Event, found bool) {
	b := s.bus
	b.mu.RLock()
	defer b.mu.RUnlock()
	before := len(dst)
	if s.gap {
		s.gap = false
		dst = append(dst, Event{Type: Dropped, At: b.now()})
	}
	missed := uint64(0)
	for t := range s.types.each() {
		if oldest := b.rings[t].oldest(); s.next[t] < oldest {
			missed += oldest - s.next[t]
			s.next[t] = oldest
		}
	}
	if missed > 0 {
		b.dropped.Add(missed)
		dst = append(dst, Event{Type: Dropped, At: b.now(), Missed: missed})
	}
	for len(dst) < cap(dst) {
		e := s.first()
		if e == nil {
			break
		}
		s.next[e.Type]++
		s.at = e.number
		dst = append(dst, *e)
	}
	return dst, len(dst) > before
}

// wakeUp wakes the reader.
func (s *Subscription) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default: // there is a token already
	}
}

// first returns the next event; nil if there is none. The bus is locked, at least for reading.
func (s *Subscription) first() (first *Event) {
	for t := range s.types.each() {
		r := &s.bus.rings[t]
		if s.next[t] == r.published {
			continue
		}
		if e := r.event(s.next[t]); first == nil || e.number < first.number {
			first = e
		}
	}
	return first
}

// Wake receives a token when there may be events again.
func (s *Subscription) Wake() <-chan struct{} { return s.wake }

// Position returns the position from which [Bus.Subscribe] continues after all events that
// were read.
func (s *Subscription) Position() string { return s.bus.position(s.at) }

// PositionOf returns the position after the event; "" for Dropped, which has none.
func (s *Subscription) PositionOf(e *Event) string {
	if e.number == 0 {
		return ""
	}
	return s.bus.position(e.number)
}

func (b *Bus) position(number uint64) string { return b.run + "-" + strconv.FormatUint(number, 10) }

// parsePosition reads a position of this or another bus; "" is none.
func parsePosition(position string) (run string, number uint64, err error) {
	if position == "" {
		return "", 0, nil
	}
	run, digits, found := strings.Cut(position, "-")
	if id, err := hex.DecodeString(run); !found || err != nil || len(id) != runSize {
		return "", 0, ErrPosition
	}
	if number, err = strconv.ParseUint(digits, 10, 64); err != nil || strings.HasPrefix(digits, "+") {
		return "", 0, ErrPosition
	}
	return run, number, nil
}

// AppendPseudonym appends a name for a session ID to dst, in hex. Only this run of the process
// uses it, and nobody else can compute it or find the ID from it.
func (s *Subscription) AppendPseudonym(dst []byte, id cache.ID) []byte {
	var buf [sha256.Size]byte
	s.hash.Reset()
	_, _ = s.hash.Write(id.AppendBytes(buf[:0])) // never fails
	return hex.AppendEncode(dst, s.hash.Sum(buf[:0])[:pseudonymSize])
}

// Time returns when the event happened.
func (e *Event) Time() time.Time {
	if e.Type.ofSession() {
		return e.Session.At.UTC()
	}
	return e.At
}
