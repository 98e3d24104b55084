package consumers

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
)

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ring := keys.NewRing(time.Now, keys.Lifecycle{})
		table := New(time.Now, nil)
		put(t, table, "a/known", ring.Generation())
		var mu sync.Mutex
		var seen []string
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() {
			table.Watch(ctx, ring, func(c Change) {
				mu.Lock()
				defer mu.Unlock()
				text := fmt.Sprint(c.Name, " ", c.State)
				if c.Forgotten {
					text += " forgotten"
				}
				seen = append(seen, text)
			})
		})
		want := func(what string, texts ...string) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			slices.Sort(seen)
			if !slices.Equal(seen, texts) {
				t.Errorf("%s: %q, want %q", what, seen, texts)
			}
			seen = nil
		}
		report := func(name string, generation uint64, state State) {
			t.Helper()
			if err := table.Put(t.Context(), name, "", Report{Kind: "nginx", Generation: generation, State: state, ExpiresIn: 30 * time.Second}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * watchGap)
		}
		time.Sleep(time.Second)
		want("at the start")
		report("a/web", ring.Generation(), Current)
		want("a new consumer", "a/web current")
		report("a/web", ring.Generation(), Current)
		want("a report without a change")
		report("a/web", ring.Generation(), Failed)
		want("another state", "a/web failed")
		report("a/web", ring.Generation()-1, Failed)
		want("another generation", "a/web failed")
		report("a/web", ring.Generation(), Current)
		want("another state", "a/web current")
		if _, err := ring.Rotate(t.Context(), keys.Update{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * watchGap)
		want("a rotation", "a/known stale", "a/web stale")
		if err := table.Delete(t.Context(), "a/known"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * watchGap)
		want("a deletion", "a/known stale forgotten")
		time.Sleep(30*time.Second + 2*watchEvery)
		want("no report any more", "a/web missing")
		time.Sleep(MissingFor)
		want("none for a day", "a/web missing forgotten")
		cancel()
		watching.Wait()
	})
}
