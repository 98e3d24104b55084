package fleet

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/seal"
)

// startTable starts a node with consumers.
func startTable(t *testing.T, url string, k *seal.Keys) *consumers.Table {
	t.Helper()
	n, err := New(settings(url, k))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	table := n.Consumers()
	redistest.Await(t, "the link", func() error { return n.Connect(t.Context()) })
	run(t, n, func() error { return nil })
	return table
}

func reportOf(generation uint64) consumers.Report {
	return consumers.Report{Kind: "nginx", Generation: generation, State: consumers.Current, ExpiresIn: time.Hour}
}

// report reports until the store takes it.
func report(t *testing.T, table *consumers.Table, name string, generation uint64) {
	t.Helper()
	redistest.Await(t, "a report", func() error { return table.Put(t.Context(), name, "edge", reportOf(generation)) })
}

// listed is the names and generations of a table.
func listed(table *consumers.Table) string {
	var b strings.Builder
	for _, c := range table.List(keys.Description{}) {
		fmt.Fprintf(&b, "%s=%d ", c.Name, c.Generation)
	}
	return strings.TrimSpace(b.String())
}

// awaitList waits until all tables have that.
func awaitList(t *testing.T, want string, tables ...*consumers.Table) {
	t.Helper()
	redistest.Await(t, "the consumers everywhere", func() error {
		for i, table := range tables {
			if got := listed(table); got != want {
				return fmt.Errorf("node %d has %q, want %q", i, got, want)
			}
		}
		return nil
	})
}

// All nodes have the reports of all, and agree on who owns a name.
func TestConsumers(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(*testing.T) string{
		"single":  func(t *testing.T) string { return redistest.Start(t).URL() },
		"cluster": func(t *testing.T) string { return redistest.ClusterURL(redistest.Cluster(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, k := url(t), newSeal(t)
			a, b := startTable(t, url, k), startTable(t, url, k)
			for i := range 8 { // in several slots
				report(t, a, fmt.Sprintf("edge-%d/web", i), 1)
			}
			report(t, b, "edge-0/web", 2)
			want := "edge-0/web=2 edge-1/web=1 edge-2/web=1 edge-3/web=1 edge-4/web=1 edge-5/web=1 edge-6/web=1 edge-7/web=1"
			awaitList(t, want, a, b)
			if err := b.Put(t.Context(), "edge-1/web", "other", reportOf(3)); !errors.Is(err, consumers.ErrOwned) {
				t.Error(err)
			}
			if err := b.Delete(t.Context(), "edge-1/web"); err != nil {
				t.Error(err)
			}
			if err := b.Delete(t.Context(), "edge-1/web"); !errors.Is(err, consumers.ErrNotFound) {
				t.Error(err)
			}
			late := startTable(t, url, k)
			awaitList(t, strings.Replace(want, "edge-1/web=1 ", "", 1), a, b, late)
			if err := b.Put(t.Context(), "edge-1/web", "other", reportOf(3)); err != nil {
				t.Error(err)
			}
			awaitList(t, strings.Replace(want, "edge-1/web=1", "edge-1/web=3", 1), a, b, late)
		})
	}
}

// However Redis loses consumers, the nodes put back what they have; what was forgotten
// meanwhile stays so.
func TestRedisLosesConsumers(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*redistest.Server){
		"flushed": func(s *redistest.Server) { s.Do("FLUSHALL") },
		"empty":   func(s *redistest.Server) { s.Kill(); s.Forget(); s.Restart() },
		"older":   func(s *redistest.Server) { s.Kill(); s.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, k := redistest.Start(t), newSeal(t)
			a, b := startTable(t, server.URL(), k), startTable(t, server.URL(), k)
			report(t, a, "edge/gone", 1)
			report(t, a, "edge/web", 1)
			report(t, b, "edge/api", 1)
			awaitList(t, "edge/api=1 edge/gone=1 edge/web=1", a, b)
			server.Do("SAVE")
			report(t, a, "edge/web", 2)
			if err := a.Delete(t.Context(), "edge/gone"); err != nil {
				t.Fatal(err)
			}
			awaitList(t, "edge/api=1 edge/web=2", a, b)
			lose(server)
			report(t, b, "edge/new", 3)
			awaitList(t, "edge/api=1 edge/new=3 edge/web=2", a, b, startTable(t, server.URL(), k))
		})
	}
}

// While Redis is away reports fail and what was reported stays, also for longer than
// reports last; who was missing before stays so.
func TestConsumersWithoutRedis(t *testing.T) {
	t.Parallel()
	server, k := redistest.Start(t), newSeal(t)
	proxy := redistest.NewProxy(t, server.Addr())
	a, b := startTable(t, "redis://"+proxy.Addr(), k), startTable(t, server.URL(), k)
	report(t, a, "edge/api", 1)
	report(t, b, "edge/web", 1)
	awaitList(t, "edge/api=1 edge/web=1", a, b)
	proxy.Cut()
	redistest.Await(t, "a report to fail", func() error {
		err := a.Put(t.Context(), "edge/web", "edge", reportOf(2))
		if err == nil {
			return errors.New("it did not")
		}
		if !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		return nil
	})
	if err := a.Delete(t.Context(), "edge/web"); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	report(t, b, "edge/new", 3)
	if err := b.Delete(t.Context(), "edge/api"); err != nil {
		t.Error(err)
	}
	if got := listed(a); !strings.Contains(got, "edge/api=1") || !strings.Contains(got, "edge/web=") || strings.Contains(got, "edge/new") {
		t.Errorf("a node that was cut off has %s", got)
	}
	proxy.Heal()
	report(t, a, "edge/web", 4)
	awaitList(t, "edge/new=3 edge/web=4", a, b)
}

// Reports that expire in an outage of Redis do so once it is over, for nobody could
// report.
func TestConsumersOutliveOutage(t *testing.T) {
	t.Parallel()
	proxy := redistest.NewProxy(t, redistest.Start(t).Addr())
	table := startTable(t, "redis://"+proxy.Addr(), newSeal(t))
	short := reportOf(1)
	short.ExpiresIn = consumers.MinExpiry
	redistest.Await(t, "a report", func() error { return table.Put(t.Context(), "edge/web", "edge", short) })
	expires := table.List(keys.Description{})[0].ExpiresAt
	proxy.Cut()
	redistest.Await(t, "the report to expire", func() error {
		if table.List(keys.Description{})[0].State != consumers.Missing {
			return errors.New("it did not")
		}
		return nil
	})
	proxy.Heal()
	redistest.Await(t, "the consumer", func() error {
		if c := table.List(keys.Description{})[0]; c.State != consumers.Current || !c.ExpiresAt.After(expires) {
			return errors.New("it is missing")
		}
		return nil
	})
}

// A record that does not open is as none.
func TestForeignConsumerRecords(t *testing.T) {
	t.Parallel()
	server, k := redistest.Start(t), newSeal(t)
	foreign := startTable(t, server.URL(), newSeal(t))
	report(t, foreign, "edge/web", 1)
	server.Do("SET", "test:consumer:edge/api", strings.Repeat("x", 100<<10))
	server.Do("SET", "test:consumer:", "x")
	server.Do("HSET", "test:consumer:edge/hash", "a", "b")
	table := startTable(t, server.URL(), k)
	report(t, table, "edge/web", 2)
	report(t, table, "edge/api", 3)
	awaitList(t, "edge/api=3 edge/web=2", table)
}
