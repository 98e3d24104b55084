package audit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Limits on the lines of denials. In a window each of maxSources networks has ownLines
// lines. At its end there is one line for each network that had more, and one for all
// other networks. That is at most 705 lines a minute, about 250 MB a day.
const (
	window     = time.Minute
	ownLines   = 10
	maxSources = 64
)

// others stands for all networks beyond maxSources.
const others = "others"

// maxExports limits the groups of exports remembered in a window; each takes about 500
// bytes. Beyond it each export has its own line.
const maxExports = 4096

// repeats counts, within a window, the events of a group that have no line of their
// own. The zero value has none.
type repeats struct {
	summed atomic.Uint64 // total over all windows

	mu     sync.Mutex        // guards what follows
	groups map[string]*tally // nil between windows, which begin with an event
	end    *time.Timer       // of the window
}

// tally counts the events of one group in a window.
type tally struct {
	lines int   // lines of their own that events have
	sum   Event // summary line of the other events; its Count is 0 without any
}

// add makes a group with its summary line. The caller holds mu.
func (r *repeats) add(group string, sum Event, l *Log) *tally {
	if r.groups == nil {
		r.groups = make(map[string]*tally)
		r.end = time.AfterFunc(window, func() { l.sumUp(r) })
	}
	t := &tally{sum: sum}
	r.groups[group] = t
	return t
}

// count counts an event that has no line of its own. The caller holds mu.
func (r *repeats) count(t *tally) {
	t.sum.Last = now()
	if t.sum.Count == 0 {
		t.sum.First = t.sum.Last
	}
	t.sum.Count++
	r.summed.Add(1)
}

// Deny records a denial of a request from the network. If the network had many denials
// in this minute, Deny only counts the event, for the summary at the end of the minute,
// and returns nil.
func (l *Log) Deny(e Event, network string) error {
	e.Outcome = Denied
	if !l.ownDenial(network) {
		return nil
	}
	return l.Record(e)
}

// ownDenial counts a denial and reports whether it has a line of its own.
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

// Export records an export of the keys After. who receives them: an identity or,
// without identities, a network. In each minute the first export of who, format and
// generation has a line of its own, which is written when Export returns. The others
// are counted for the summary at the end of the minute.
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

// Summed returns the number of denials without a line of their own.
func (l *Log) Summed() uint64 { return l.denials.summed.Load() }

// ExportsSummed returns the number of exports without a line of their own.
func (l *Log) ExportsSummed() uint64 { return l.exports.summed.Load() }
