package events

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/consumers"
)

// id returns the n-th session ID.
func id(n uint64) cache.ID {
	id, err := cache.MakeID(binary.BigEndian.AppendUint64(nil, n))
	if err != nil {
		panic(err)
	}
	return id
}

func subscribe(tb testing.TB, b *Bus, types Types, position string) *Subscription {
	tb.Helper()
	s, err := b.Subscribe(types, position)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// readAll reads all that there is.
func readAll(s *Subscription) (all []Event) {
	batch := make([]Event, 0, 7)
	for {
		batch = s.Read(batch[:0])
		if len(batch) == 0 {
			return all
		}
		all = append(all, batch...)
	}
}

func texts(all []Event) (list []string) {
	for _, e := range all {
		text := e.Type.String()
		switch {
		case e.Type == Dropped:
			text += fmt.Sprint(" ", e.Missed)
		case e.Data != nil:
			text += fmt.Sprint(" ", e.Data)
		}
		list = append(list, text)
	}
	return list
}

func wantEvents(t *testing.T, s *Subscription, want ...string) {
	t.Helper()
	if got := texts(readAll(s)); !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
}

func stored(n uint64) cache.Event { return cache.Event{Kind: cache.EventStored, ID: id(n)} }

func TestOrderAndTypes(t *testing.T) {
	b := New(time.Now)
	b.Publish(FleetChanged, "before")
	all, some := subscribe(t, b, All, ""), subscribe(t, b, 1<<SessionStored|1<<ConsumerChanged, "")
	wantEvents(t, all)
	b.Observe(stored(1))
	b.Publish(ConsumerChanged, "a")
	b.Observe(cache.Event{Kind: cache.EventEvicted, ID: id(1)})
	b.Publish(ConsumerChanged, "b")
	wantEvents(t, all, "session.stored", "consumer.changed a", "session.evicted", "consumer.changed b")
	wantEvents(t, some, "session.stored", "consumer.changed a", "consumer.changed b")
	wantEvents(t, some)
}

// A reader that falls behind learns how many events it missed, and misses no others.
func TestSlowReader(t *testing.T) {
	b := New(time.Now)
	s := subscribe(t, b, All, "")
	b.Publish(FleetChanged, "first")
	for n := range uint64(largeRing + 10) {
		b.Observe(stored(n))
	}
	for n := range smallRing + 3 {
		b.Publish(TicketKeysUpdated, n)
	}
	got := readAll(s)
	if got[0].Type != Dropped || got[0].Missed != 13 || s.PositionOf(&got[0]) != "" {
		t.Errorf("first %+v", got[0])
	}
	if got[1].Data != "first" || got[2].Session.ID != id(10) || len(got) != 2+largeRing+smallRing || got[len(got)-1].Data != smallRing+2 {
		t.Errorf("%d events, beginning with %q", len(got), texts(got[:3]))
	}
	if stats := b.Stats(); stats.Dropped != 13 || stats.Published[SessionStored] != largeRing+10 || stats.Subscribers != 1 {
		t.Errorf("%+v", stats)
	}
}

// A rotation changes all consumers at once. A reader that is idle until then misses none.
func TestAllConsumersChange(t *testing.T) {
	b := New(time.Now)
	s := subscribe(t, b, All, "")
	for n := range consumers.Max {
		b.Publish(ConsumerChanged, n)
	}
	if got := readAll(s); len(got) != consumers.Max || got[0].Type != ConsumerChanged {
		t.Errorf("%d events, beginning with %v", len(got), got[0].Type)
	}
}

func TestResume(t *testing.T) {
	b := New(time.Now)
	s := subscribe(t, b, All, "")
	begin := s.Position()
	for n := range 5 {
		b.Publish(ConsumerChanged, n)
		b.Publish(FleetChanged, n)
	}
	all := readAll(s)
	wantEvents(t, subscribe(t, b, All, s.Position()))
	wantEvents(t, subscribe(t, b, 1<<FleetChanged, begin), texts(slices.DeleteFunc(slices.Clone(all), func(e Event) bool { return e.Type != FleetChanged }))...)
	for i := range all {
		wantEvents(t, subscribe(t, b, All, s.PositionOf(&all[i])), texts(all[i+1:])...)
	}
	// Only the types of the subscription count.
	for n := range smallRing - 1 {
		b.Publish(FleetChanged, n)
	}
	wantEvents(t, subscribe(t, b, 1<<ConsumerChanged, s.PositionOf(&all[8])))
	if got := texts(readAll(subscribe(t, b, 1<<FleetChanged, s.PositionOf(&all[8])))); got[0] != "fleet.changed 4" || len(got) != smallRing {
		t.Errorf("%d events, beginning with %q", len(got), got[0])
	}
	b.Publish(FleetChanged, "one too many")
	gap := subscribe(t, b, 1<<FleetChanged, s.PositionOf(&all[8]))
	if got := texts(readAll(gap)); got[0] != "dropped 0" || len(got) != smallRing+1 {
		t.Errorf("%d events, beginning with %q", len(got), got[0])
	}
	// It is told once.
	wantEvents(t, subscribe(t, b, 1<<FleetChanged, gap.Position()))
	// Another process has other positions.
	wantEvents(t, subscribe(t, New(time.Now), All, s.Position()), "dropped 0")
	for _, position := range []string{"x", "-1", begin + "x", begin[:17], "0123456789abcde-1", begin[:17] + "+1", begin[:17] + "18446744073709551616"} {
		if _, err := b.Subscribe(All, position); !errors.Is(err, ErrPosition) {
			t.Errorf("%q: %v", position, err)
		}
	}
}

// Session events are kept only while somebody subscribes to their type, and a subscriber
// that comes back is told so.
func TestNoSubscriber(t *testing.T) {
	b := New(time.Now)
	s := subscribe(t, b, 1<<SessionStored, "")
	b.Observe(stored(1))
	b.Observe(cache.Event{Kind: cache.EventRemoved, ID: id(1)})
	first := readAll(s)
	if len(first) != 1 {
		t.Fatalf("%q", texts(first))
	}
	s.Close()
	b.Observe(stored(2))
	again := subscribe(t, b, 1<<SessionStored, s.Position())
	wantEvents(t, again, "dropped 0")
	b.Observe(stored(3))
	wantEvents(t, subscribe(t, b, 1<<SessionStored, again.Position()), "session.stored")
	wantEvents(t, again, "session.stored")
	if got := b.Stats().Published; got[SessionStored] != 2 || got[SessionRemoved] != 0 {
		t.Errorf("%v", got)
	}
}

func TestLimit(t *testing.T) {
	b := New(time.Now)
	var last *Subscription
	for range MaxSubscribers {
		last = subscribe(t, b, All, "")
	}
	if _, err := b.Subscribe(All, ""); !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
	last.Close()
	subscribe(t, b, All, "")
}

func TestPseudonym(t *testing.T) {
	of := func(b *Bus, n uint64) string { return string(subscribe(t, b, All, "").AppendPseudonym(nil, id(n))) }
	b := New(time.Now)
	if one, two := of(b, 1), of(b, 1); one != two || len(one) != 32 {
		t.Errorf("%s and %s", one, two)
	}
	if of(b, 1) == of(b, 2) {
		t.Error("two IDs have one pseudonym")
	}
	if of(b, 1) == of(New(time.Now), 1) {
		t.Error("two buses have the same pseudonyms")
	}
}

// Without a subscriber to its type, an event of a session costs nothing on the heap.
func TestNoAllocations(t *testing.T) {
	b := New(time.Now)
	subscribe(t, b, All&^(1<<SessionStored), "")
	e := stored(1)
	if n := testing.AllocsPerRun(1000, func() { b.Observe(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestConcurrent has publishers, readers, and subscribers that come and go. Every reader
// gets or is told of every event, in the order of each publisher.
func TestConcurrent(t *testing.T) {
	b := New(time.Now)
	const publishers, each = 4, 20_000
	done := make(chan struct{})
	var reading, publishing sync.WaitGroup
	for range 8 {
		s := subscribe(t, b, 1<<SessionStored|1<<ConsumerChanged, "")
		reading.Go(func() {
			next := [publishers]uint64{}
			total, last := uint64(0), false
			batch := make([]Event, 0, 1+rand.IntN(200))
			for {
				batch = s.Read(batch[:0])
				if len(batch) == 0 {
					if last {
						break
					}
					select {
					case <-s.Wake():
					case <-done:
						last = true
					}
				}
				for _, e := range batch {
					switch e.Type {
					case Dropped:
						total += e.Missed
					case SessionStored:
						raw := binary.BigEndian.Uint64(e.Session.ID.Bytes())
						p, n := raw>>32, uint64(uint32(raw))
						if n < next[p] {
							t.Errorf("publisher %d: %d after %d", p, n, next[p])
							return
						}
						next[p] = n + 1
						total++
					default:
						total++
					}
				}
			}
			if want := uint64(publishers * (each + each/100)); total != want {
				t.Errorf("read or missed %d events, want %d", total, want)
			}
		})
	}
	reading.Go(func() { // a subscriber that comes and goes
		for {
			select {
			case <-done:
				return
			default:
			}
			s, err := b.Subscribe(All, "")
			if err != nil {
				t.Error(err)
				return
			}
			_ = s.Read(make([]Event, 0, 10))
			s.Close()
		}
	})
	for p := range uint64(publishers) {
		publishing.Go(func() {
			for n := range uint64(each) {
				b.Observe(stored(p<<32 | n))
				if n%100 == 0 {
					b.Publish(ConsumerChanged, n)
				}
			}
		})
	}
	publishing.Wait()
	close(done)
	reading.Wait()
}

// FuzzPosition reads positions from outside.
func FuzzPosition(f *testing.F) {
	f.Add("0123456789abcdef-1")
	f.Add("-")
	f.Fuzz(func(t *testing.T, position string) {
		b := New(time.Now)
		s, err := b.Subscribe(All, position)
		if err != nil {
			if !errors.Is(err, ErrPosition) {
				t.Error(err)
			}
			return
		}
		defer s.Close()
		if got := texts(readAll(s)); position != "" && !slices.Equal(got, []string{"dropped 0"}) {
			t.Errorf("%q", got)
		}
	})
}
