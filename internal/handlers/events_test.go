package handlers

import (
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/events"
	"github.com/sessapi/sessapi/internal/sslsession"
)

// BenchmarkAppendEvent is what each stream does for each session event.
func BenchmarkAppendEvent(b *testing.B) {
	bus := events.New(time.Now)
	s, err := bus.Subscribe(events.All, "")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	id, err := cache.ParseID("5e551d5e551d5e551d5e551d5e551d015e551d5e551d5e551d5e551d5e551d01")
	if err != nil {
		b.Fatal(err)
	}
	now := cache.Time(time.Now().UnixMilli())
	bus.Observe(cache.Event{
		Kind: cache.EventEvicted, ID: id, At: now, LastUsed: now - 60_000,
		Entry: cache.Entry{Size: 160, StoredAt: now - 120_000, ExpiresAt: now + 180_000, Mark: uint8(sslsession.OpenSSL)},
	})
	batch := s.Read(make([]events.Event, 0, 1))
	b.ReportAllocs()
	var text []byte
	for b.Loop() {
		text = appendEvent(text[:0], s, &batch[0], true)
	}
	b.SetBytes(int64(len(text)))
}
