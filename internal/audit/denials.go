package audit

import (
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

// denials counts the denials of a window by the network that they came from. The
// zero value has none.
type denials struct {
	summed atomic.Uint64

	mu       sync.Mutex        // guards what follows
	networks map[string]*tally // nil between windows, which begin with a denial
	end      *time.Timer       // of the window
}

// tally is what came from one network in a window.
type tally struct {
	lines       int    // that denials have of their own
	more        uint64 // denials that have none
	first, last time.Time
}

// Deny records an event that is a denial, and what network it came from: as a
// line of its own or, when the network had many lately, in one that sums up the
// others of the minute. A denial that is only counted yet is no error.
func (l *Log) Deny(e Event, network string) error {
	e.Outcome = Denied
	if !l.count(network) {
		l.denials.summed.Add(1)
		return nil
	}
	return l.Record(e)
}

// count counts a denial. It returns true for one that is to have its own line.
func (l *Log) count(network string) bool {
	d := &l.denials
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.networks == nil {
		d.networks = make(map[string]*tally)
		d.end = time.AfterFunc(window, l.sumUp)
	}
	t := d.networks[network]
	if t == nil && len(d.networks) >= maxSources {
		network = others
		t = d.networks[others]
	}
	if t == nil {
		t = &tally{}
		d.networks[network] = t
	}
	if network != others && t.lines < ownLines {
		t.lines++
		return true
	}
	t.last = time.Now().UTC()
	if t.more == 0 {
		t.first = t.last
	}
	t.more++
	return false
}

// sumUp ends the window, with a line for each network that had more denials than
// lines.
func (l *Log) sumUp() {
	d := &l.denials
	d.mu.Lock()
	networks := d.networks
	d.networks = nil
	if networks != nil {
		d.end.Stop()
	}
	d.mu.Unlock()
	for network, t := range networks {
		if t.more > 0 {
			// One that fails is counted, and makes the log failing.
			_ = l.Record(Event{
				Operation: "denials", Outcome: Denied, Source: network,
				Count: t.more, First: t.first, Last: t.last,
			})
		}
	}
}

// Summed is how many denials have no line of their own.
func (l *Log) Summed() uint64 { return l.denials.summed.Load() }
