package cache_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

// A session that is copied to another cache is the same there, and copying it
// counts as no lookup.
func TestCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := func() *cache.Cache {
			c, err := cache.New(cache.Config{Memory: cache.MinMemory, MaxSessionBytes: 100, Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		from, to := made(), made()
		defer from.Close()
		defer to.Close()
		id, _ := cache.MakeID([]byte{1})
		if _, err := from.Put(id, []byte("session"), cache.PutOptions{ExpiresAt: time.Now().Add(time.Hour), Mark: 7}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		data, e, ok := from.Peek([]byte("a "), id)
		if !ok || string(data) != "a session" {
			t.Fatalf("%q %v", data, ok)
		}
		o := cache.PutOptions{StoredAt: e.StoredAt.UTC(), ExpiresAt: e.ExpiresAt.UTC(), Mark: e.Mark}
		if _, err := to.Put(id, data[2:], o); err != nil {
			t.Fatal(err)
		}
		if got, entry, _ := to.Peek(nil, id); string(got) != "session" || entry != e {
			t.Errorf("%q %+v, want %+v", got, entry, e)
		}
		if s := from.Stats(); s.Hits != 0 || s.Misses != 0 {
			t.Errorf("copying counts: %+v", s)
		}
		o.StoredAt = time.Now().Add(time.Hour)
		if _, err := to.Put(id, data[2:], o); err != nil {
			t.Fatal(err)
		}
		if _, entry, _ := to.Peek(nil, id); !entry.StoredAt.UTC().Equal(time.Now()) {
			t.Errorf("stored at %v, which is to come", entry.StoredAt.UTC())
		}
		time.Sleep(2 * time.Hour)
		if got, _, ok := from.Peek(data[:1], id); ok || len(got) != 1 {
			t.Error("an expired session is there")
		}
	})
}
