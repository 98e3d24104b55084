package audit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// What denials may write: within a window, ownLines lines for each of maxSources
// networks, and at its end one for each of these that had more and one for all
// others. At the largest that is 705 lines a minute, some 250 MB a day.
const (
	window     = time.Minute
	ownLines   = 10
	maxSources = 64
)

// others stands for all networks beyond maxSources.
const others = "others"

// maxExports bounds the memory of exports that were recorded within a window, at
// some 500 bytes each. Beyond it each export has its own line.
const maxExports = 4096

// repeats counts, within a window, the events of a group that have no line of their
// own. The zero value has none.
type repeats struct {
	summed atomic.Uint64 // all of them, in all windows

	mu     sync.Mutex        // guards what follows
	groups map[string]*tally // nil between windows, which begin with an event
	end    *time.Timer       // of the window
}

// tally is the events of one group in a window.
type tally struct {
	lines int   // that events have of their own
	sum   Event // the line of the others; its Count is 0 while there are none
}

// add makes a group, with the line that sums it up. mu is held.
func (r *repeats) add(group string, sum Event, l *Log) *tally {
	if r.groups == nil {
		r.groups = make(map[string]*tally)
		r.end = time.AfterFunc(window, func() { l.sumUp(r) })
	}
	t := &tally{sum: sum}
	r.groups[group] = t
	return t
}

// count counts an event that has no line of its own. mu is held.
func (r *repeats) count(t *tally) {
	t.sum.Last = now()
	if t.sum.Count == 0 {
		t.sum.First = t.sum.Last
	}
	t.sum.Count++
	r.summed.Add(1)
}

// Deny records an event that is a denial, and what network it came from: as a
// line of its own or, when the network had many lately, in one that sums up the
// others of the minute. A denial that is only counted yet is no error.
func (l *Log) Deny(e Event, network string) error {
	e.Outcome = Denied
	if !l.ownDenial(network) {
		return nil
	}
	return l.Record(e)
}

// ownDenial counts a denial. It returns true for one that is to have its own line.
func (l *Log) ownDenial(network string) bool {
	d := &l.denials
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.groups[network] == nil && len(d.groups) >= maxSources {
		network = others
	}
	t := d.groups[network]
	if t == nil {
		t = d.add(network, Event{Operation: "denials", Outcome: Denied, Source: network}, l)
	}
	if network != others && t.lines < ownLines {
		t.lines++
		return true
	}
	d.count(t)
	return false
}

// Export records an event that is an export of the keys After, and who gets them:
// an identity, or a network where nobody has one. The first one in a minute of who,
// format and generation has a line of its own, which is there when Export returns;
// the others have one that sums them up when the minute is over.
func (l *Log) Export(e Event, who string) error {
	e.Outcome = Exported
	group := fmt.Sprintf("%d %s %s", e.After.Generation, e.Format, who)
	x := &l.exports
	if x.repeated(group) {
		return nil
	}
	if err := l.Record(e); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.groups[group] == nil && len(x.groups) < maxExports {
		sum := Event{Operation: "exports", Outcome: Exported, Identity: e.Identity, Format: e.Format, After: e.After}
		if e.Identity == "" {
			sum.Source = who
		}
		x.add(group, sum, l)
	}
	return nil
}

// repeated counts an event of a group that has a line already.
func (r *repeats) repeated(group string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.groups[group]
	if t == nil {
		return false
	}
	r.count(t)
	return true
}

// sumUp ends the window, with a line for each group that had more events than
// lines.
func (l *Log) sumUp(r *repeats) {
	r.mu.Lock()
	groups := r.groups
	r.groups = nil
	if groups != nil {
		r.end.Stop()
	}
	r.mu.Unlock()
	for _, t := range groups {
		if t.sum.Count > 0 {
			_ = l.Record(t.sum) // one that fails is counted, and makes the log failing
		}
	}
}

// Summed is how many denials have no line of their own.
func (l *Log) Summed() uint64 { return l.denials.summed.Load() }

// ExportsSummed is how many exports have no line of their own.
func (l *Log) ExportsSummed() uint64 { return l.exports.summed.Load() }
