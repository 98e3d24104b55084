package consistency

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Kind is what was done with a session.
type Kind string

// What can be done with a session.
const (
	Put    Kind = "put"
	Delete Kind = "delete"
	Get    Kind = "get"
)

// Outcome is what came of it.
type Outcome string

// The outcomes. Of an unknown one it is not known whether it was made, then or later.
const (
	Done    Outcome = "done"
	None    Outcome = "none" // there was no session
	Unknown Outcome = "unknown"
)

// Operation is one thing that a client did with a session. No two puts store the same
// value.
type Operation struct {
	Node       int
	ID         int
	Kind       Kind
	Value      int // that was stored or found
	Outcome    Outcome
	Begin, End time.Duration
}

// SessionHistory is what clients did with the sessions of a fleet.
type SessionHistory struct {
	Operations []Operation
	// Stale is how long a node may have what others have changed.
	Stale time.Duration
	// Loses says that Redis lost data: then an older session may come back, and a
	// value that was overwritten is not reported.
	Loses bool
}

// Check returns what the history breaks:
//   - What was found had been stored before, under that ID.
//   - What was overwritten or deleted is found for Stale at most, and by the node
//     that did it not at all.
//   - A node that has found a session finds no older one later, of two that were
//     stored one after the other.
func (h *SessionHistory) Check() (broken []string) {
	report := func(format string, args ...any) { broken = append(broken, fmt.Sprintf(format, args...)) }
	byID := make(map[int][]Operation)
	for _, o := range h.Operations {
		byID[o.ID] = append(byID[o.ID], o)
	}
	for id, all := range byID {
		slices.SortFunc(all, func(a, b Operation) int { return cmp.Compare(a.Begin, b.Begin) })
		stored := make(map[int]Operation)
		for _, o := range all {
			if o.Kind == Put {
				stored[o.Value] = o
			}
		}
		found := make(map[int]Operation) // by node
		for _, get := range all {
			if get.Kind != Get || get.Outcome != Done {
				continue
			}
			put, ok := stored[get.Value]
			if !ok || put.Begin > get.End {
				report("session %d: node %d found %d, which had not been stored", id, get.Node, get.Value)
				continue
			}
			for _, o := range all {
				// A change that was acknowledged, began after the put was over,
				// and ended before the get began.
				if h.Loses || o.Kind == Get || o.Outcome == Unknown || put.Outcome == Unknown || o.Begin <= put.End {
					continue
				}
				if age := get.Begin - o.End; age > h.Stale || age > 0 && o.Node == get.Node {
					report("session %d: node %d found %d, %v after node %d had changed it (%s)", id, get.Node, get.Value, age, o.Node, o.Kind)
				}
			}
			if before, ok := found[get.Node]; ok && !h.Loses {
				newer := stored[before.Value]
				if put.End < newer.Begin && before.End < get.Begin && put.Outcome != Unknown {
					report("session %d: node %d found %d after it had found the newer %d", id, get.Node, get.Value, before.Value)
				}
			}
			found[get.Node] = get
		}
	}
	slices.Sort(broken)
	return slices.Compact(broken)
}
