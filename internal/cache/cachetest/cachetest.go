// Package cachetest models TLS clients that come back, to judge what a session
// cache keeps. It is for tests and benchmarks alone.
package cachetest

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Day is the time that a load spans.
const Day = 24 * time.Hour

// Load describes clients and the sessions that they get. Clients arrive
// uniformly over a day. A client makes one visit or several; a visit is one or
// more connections.
type Load struct {
	Clients     int
	Once        float64       // share of the clients that make a single visit
	Connections float64       // mean connections of a visit, geometric
	Gap         time.Duration // median time between connections, lognormal with σ 1.5
	Visit       time.Duration // median time between visits, lognormal, times the activity of the client (lognormal, median 1, σ 1)
	VisitSigma  float64       // σ of that
	SingleUse   bool          // as TLS 1.3: a session is used once, and every connection stores a new one
	TTL         time.Duration // from storing to the end of a session
}

// Connection is one connection of a client.
type Connection struct {
	At     time.Duration // since the start of the load
	Client uint32
	Next   time.Duration // when the client connects next; Never if not
}

// Never is later than any connection.
const Never = time.Duration(math.MaxInt64)

// Trace returns the connections in the order of time. A seed always gives the
// same.
func (l Load) Trace(seed uint64) []Connection {
	rnd := rand.New(rand.NewPCG(seed, 0))
	lognormal := func(median time.Duration, sigma float64) time.Duration {
		return time.Duration(min(float64(median)*math.Exp(sigma*rnd.NormFloat64()), float64(2*Day)))
	}
	var trace []Connection
	for client := range uint32(l.Clients) {
		at := time.Duration(rnd.Int64N(int64(Day)))
		once := rnd.Float64() < l.Once
		activity := math.Exp(rnd.NormFloat64())
		first := len(trace)
		for at < Day {
			trace = append(trace, Connection{At: at, Client: client, Next: Never})
			switch {
			case rnd.Float64() >= 1/l.Connections:
				at += lognormal(l.Gap, 1.5)
			case once:
				at = Never
			default:
				at += time.Duration(activity * float64(lognormal(l.Visit, l.VisitSigma)))
			}
		}
		for i := first; i+1 < len(trace); i++ {
			trace[i].Next = trace[i+1].At
		}
	}
	slices.SortStableFunc(trace, func(a, b Connection) int { return cmp.Compare(a.At, b.At) })
	return trace
}

// Session is a session that a client has. IDs count up from 0.
type Session struct {
	ID  uint32
	End time.Duration
}

// Policy is a cache that keeps some of the sessions.
type Policy interface {
	// Get reports whether the session is there. Its client connects again at next.
	Get(s Session, now, next time.Duration) bool
	// Put stores a session whose ID is new. Its client connects again at next.
	Put(s Session, now, next time.Duration)
	// Delete removes the session, if it is there: it was used up or has ended.
	Delete(s Session, now time.Duration)
}

// Result is the outcome of a replay.
type Result struct {
	Attempts int // connections of clients whose session had not ended
	Hits     int // of these, the ones whose session was there
	Stored   int // sessions stored
}

// Ratio is the share of the attempts that hit, in percent.
func (r Result) Ratio() float64 { return 100 * float64(r.Hits) / float64(max(r.Attempts, 1)) }

// Replay has the clients of the load connect, in the order of the trace, to a
// server that keeps its sessions in p. Sessions are deleted from p at their end.
func Replay(trace []Connection, l Load, p Policy) Result {
	var result Result
	held := make([]Session, l.Clients) // by client; the zero one has ended
	stored := make([]Session, 0, len(trace))
	ended := 0
	for _, c := range trace {
		for ended < len(stored) && stored[ended].End <= c.At {
			p.Delete(stored[ended], c.At)
			ended++
		}
		if offered := held[c.Client]; c.At < offered.End {
			result.Attempts++
			hit := p.Get(offered, c.At, c.Next)
			if hit {
				result.Hits++
			}
			if hit && !l.SingleUse {
				continue
			}
			if hit {
				p.Delete(offered, c.At)
			}
		}
		s := Session{uint32(len(stored)), c.At + l.TTL}
		stored = append(stored, s)
		held[c.Client] = s
		p.Put(s, c.At, c.Next)
	}
	result.Stored = len(stored)
	return result
}
