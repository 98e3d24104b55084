package audit

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// denyingLog is a log that denials are recorded in, and its path.
func denyingLog(t *testing.T) (log *Log, path string, deny func(network string)) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.log")
	log, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return log, path, func(network string) {
		t.Helper()
		if err := log.Deny(Event{Operation: "GET", Source: network}, network); err != nil {
			t.Fatal(err)
		}
	}
}

// The first denials of a network have lines, the others one that is written when
// the minute is over, and the next minute is a new one.
func TestDeny(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, path, deny := denyingLog(t)
		start := time.Now().UTC()
		for range ownLines + 30 {
			deny("192.0.2.1")
			time.Sleep(time.Second)
		}
		deny("192.0.2.2")
		if got := lines(t, path); len(got) != ownLines+1 || got[ownLines].Source != "192.0.2.2" || log.Summed() != 30 {
			t.Fatalf("%d lines, %d summed up", len(got), log.Summed())
		}
		time.Sleep(window)
		synctest.Wait()
		got := lines(t, path)
		if len(got) != ownLines+2 {
			t.Fatalf("%d lines after a minute", len(got))
		}
		want := Event{
			Time: Time{start.Add(window)}, Operation: "denials", Outcome: Denied, Source: "192.0.2.1", Count: 30,
			First: Time{start.Add(ownLines * time.Second)}, Last: Time{start.Add((ownLines + 29) * time.Second)},
		}
		if sum := got[ownLines+1]; sum != want {
			t.Errorf("%+v, want %+v", sum, want)
		}
		for range ownLines + 1 {
			deny("192.0.2.1")
		}
		if err := log.Close(); err != nil { // which does not wait for the minute
			t.Fatal(err)
		}
		got = lines(t, path)[ownLines+2:]
		if len(got) != ownLines+1 || got[0].Count != 0 || got[ownLines].Count != 1 {
			t.Errorf("%+v", got)
		}
	})
}

// However many networks there are, a minute has no more than so many lines, each
// denial is in one, and the memory of networks is bounded.
func TestDenyFromEverywhere(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	synctest.Test(t, func(t *testing.T) {
		log, path, deny := denyingLog(t)
		const denials = 20_000
		networks := 2*maxSources + random.IntN(1000)
		for range denials {
			deny(fmt.Sprintf("2001:db8:%x::/64", random.IntN(networks)))
			log.denials.mu.Lock()
			remembered := len(log.denials.groups)
			log.denials.mu.Unlock()
			if remembered > maxSources+1 {
				t.Fatalf("%d networks are remembered", remembered)
			}
			time.Sleep(time.Duration(random.Int64N(int64(20 * time.Millisecond))))
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		var own, summed uint64
		minutes := map[time.Time]int{}
		for _, e := range lines(t, path) {
			minutes[e.Time.Truncate(window)]++
			if e.Count == 0 {
				own++
			}
			summed += e.Count
			if e.Last.Before(e.First.Time) || e.Last.Sub(e.First.Time) > window {
				t.Errorf("%+v", e)
			}
		}
		if own+summed != denials || summed != log.Summed() || own+uint64(len(minutes)) > denials {
			t.Errorf("%d lines, %d summed up, of %d", own, summed, denials)
		}
		for minute, n := range minutes {
			// A calendar minute has parts of two windows.
			if limit := 2 * (maxSources*(ownLines+1) + 1); n > limit {
				t.Errorf("%d lines at %v", n, minute)
			}
		}
	})
}

// BenchmarkDeny is a denial that has no line of its own.
func BenchmarkDeny(b *testing.B) {
	log, err := Open(filepath.Join(b.TempDir(), "audit.log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	b.ReportAllocs()
	for b.Loop() {
		if err := log.Deny(Event{Operation: "GET"}, "192.0.2.1"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRecord is an event that is on the disk afterwards.
func BenchmarkRecord(b *testing.B) {
	for _, outcome := range []Outcome{Applied, Exported} {
		b.Run(string(outcome), func(b *testing.B) {
			log, err := Open(filepath.Join(b.TempDir(), "audit.log"))
			if err != nil {
				b.Fatal(err)
			}
			defer log.Close()
			b.ReportAllocs()
			for b.Loop() {
				if err := log.Record(Event{Operation: "GET /ticket-keys", Outcome: outcome}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The first export of an identity, a format and a generation in a minute has a line,
// the others one that sums them up.
func TestExport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, path, _ := denyingLog(t)
		export := func(identity, format string, generation uint64) {
			t.Helper()
			e := Event{Operation: "GET /ticket-keys", Identity: identity, Format: format, After: &Keys{Generation: generation}}
			if err := log.Export(e, identity); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now().UTC()
		for range 100 {
			export("edge", "ats", 7)
		}
		export("edge", "ats", 8)
		export("edge", "nginx", 7)
		export("ops", "ats", 7)
		if got := lines(t, path); len(got) != 4 || got[0].Identity != "edge" || got[0].Count != 0 || log.ExportsSummed() != 99 {
			t.Fatalf("%d lines, %d summed up", len(got), log.ExportsSummed())
		}
		time.Sleep(window)
		synctest.Wait()
		got := lines(t, path)
		if len(got) != 5 {
			t.Fatalf("%d lines after a minute", len(got))
		}
		sum := got[4]
		if sum.After == nil || sum.After.Generation != 7 {
			t.Errorf("a sum of %+v", sum.After)
		}
		sum.After = nil
		if want := (Event{
			Time: Time{start.Add(window)}, Operation: "exports", Outcome: Exported, Identity: "edge", Format: "ats",
			Count: 99, First: Time{start}, Last: Time{start},
		}); sum != want {
			t.Errorf("%+v, want %+v", sum, want)
		}
		export("edge", "ats", 7)
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		if got := lines(t, path); len(got) != 6 || got[5].Count != 0 {
			t.Errorf("%d lines in the next minute", len(got))
		}
	})
}

// An export that could not be recorded does not count as one that was.
func TestExportUnrecorded(t *testing.T) {
	log, _, _ := denyingLog(t)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if log.Export(Event{After: &Keys{}}, "edge") == nil {
			t.Error("an export is recorded in a closed log")
		}
	}
}
