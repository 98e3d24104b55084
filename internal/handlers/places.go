package handlers

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sessapi/sessapi/internal/api"
)

const (
	// patience is how long a request may be under way while others find no
	// place. What the service does from memory takes less, so whoever takes longer
	// waits for its client: to send the body, or to take the answer. What waits for
	// a disk is spared.
	patience = 25 * time.Millisecond
	// takeTimeout is how long a request is tried to be found a place for.
	takeTimeout = 250 * time.Millisecond
)

// errTooManyChanges is for who would have to wait for changes before its own.
var errTooManyChanges = &problem{code: api.ProblemCodeOverloaded, detail: "Too many changes wait to be stored; nothing was changed."}

// errCutOff is for whom nobody listens to any more.
var errCutOff = &problem{code: api.ProblemCodeOverloaded, detail: "The request was cut off; nothing was changed."}

// places bounds the requests that are served at a time. When all places are
// taken, the oldest request is cut off: clients that are slow, be it on purpose,
// keep nobody else out. It is safe for concurrent use.
type places struct {
	all  []place
	free chan *place
	// spared has a token for each request that cannot be cut off: however long a
	// disk takes, they leave places to the others.
	spared chan struct{}
	cut    atomic.Uint64 // requests that were cut off
}

// place is that of one request.
type place struct {
	// since is when the request came, got its place after it had to wait, or was no
	// longer spared, in nanoseconds of the Unix time; 0 when there is none, it
	// is spared, or it was cut off.
	since atomic.Int64

	mu sync.Mutex
	w  http.ResponseWriter // of the request; nil when there is none
}

func newPlaces(n int) *places {
	p := &places{all: make([]place, n), free: make(chan *place, n), spared: make(chan struct{}, max(1, n/8))}
	for i := range p.all {
		p.free <- &p.all[i]
	}
	return p
}

// take returns a place for the request that w answers and that came at that time, or
// nil when there is none to be had within takeTimeout.
func (p *places) take(w http.ResponseWriter, at time.Time) *place {
	select {
	case pl := <-p.free:
		pl.enter(w, at)
		return pl
	default:
	}
	again := time.NewTicker(patience)
	defer again.Stop()
	for range takeTimeout / patience {
		// Whoever waits longer may get the place: then another has to go.
		p.cutOldest()
		select {
		case pl := <-p.free:
			pl.enter(w, time.Now()) // what it waited here is not its client's fault
			return pl
		case <-again.C:
		}
	}
	return nil
}

// leave gives back the place of the request that w answers, and reports whether it was
// cut off. One that has given its place away before has none any more.
func (p *places) leave(pl *place, w http.ResponseWriter) (cutOff bool) {
	left, cutOff := pl.exit(w)
	if left {
		p.free <- pl
	}
	return cutOff
}

// leaveEarly gives back the place of a request that goes on without one.
func (p *places) leaveEarly(w http.ResponseWriter) {
	for i := range p.all {
		p.leave(&p.all[i], w)
	}
}

// spare calls change, during which the request that w answers is not cut off: it
// waits for a disk, not for its client, who has to be told of what was changed.
// It returns the error of change, or, without calling it, errTooManyChanges when as
// many are made as may be, and errCutOff when the request was cut off before.
func (p *places) spare(w http.ResponseWriter, change func() error) error {
	select {
	case p.spared <- struct{}{}:
		defer func() { <-p.spared }()
	default:
		return errTooManyChanges
	}
	pl := p.of(w)
	if pl.since.Swap(0) == 0 {
		return errCutOff
	}
	defer func() { pl.since.Store(time.Now().UnixNano()) }()
	return change()
}

// of is the place of the request that w answers, which has one.
func (p *places) of(w http.ResponseWriter) *place {
	for i := range p.all {
		if pl := &p.all[i]; pl.isOf(w) {
			return pl
		}
	}
	panic("handlers: a request without a place")
}

// cutOldest has the reading and writing of the oldest request fail.
func (p *places) cutOldest() {
	var oldest *place
	first := time.Now().Add(-patience).UnixNano()
	for i := range p.all {
		if since := p.all[i].since.Load(); since != 0 && since <= first {
			oldest, first = &p.all[i], since
		}
	}
	if oldest != nil && oldest.cut(first) {
		p.cut.Add(1)
	}
}

func (pl *place) enter(w http.ResponseWriter, at time.Time) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.w = w
	pl.since.Store(at.UnixNano())
}

func (pl *place) isOf(w http.ResponseWriter) bool {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	return pl.w == w
}

// exit reports whether the place was that of w, and then empties it, and whether w was
// cut off.
func (pl *place) exit(w http.ResponseWriter) (left, cutOff bool) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.w != w {
		return false, false
	}
	pl.w = nil
	return true, pl.since.Swap(0) == 0
}

// cut cuts off the request that came at since, unless it has left meanwhile.
func (pl *place) cut(since int64) bool {
	pl.mu.Lock() // until the deadlines are set the request cannot end
	defer pl.mu.Unlock()
	if !pl.since.CompareAndSwap(since, 0) {
		return false
	}
	control := http.NewResponseController(pl.w)
	past := time.Unix(1, 0)
	return control.SetReadDeadline(past) == nil && control.SetWriteDeadline(past) == nil
}
