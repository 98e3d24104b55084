package consistency

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Set is what a node had, or was told that it has, of the ticket keys.
type Set struct {
	Generation uint64
	Content    string // tells sets apart: the fingerprints of all keys, in order
	Keys       []string
}

// Update is an update of the ticket keys that a client was told was made.
type Update struct {
	Node    int
	Set     Set
	Revoked string // the fingerprint of the key that was revoked; "" for none
	Made    string // the fingerprint of a key that only this update brings; "" for none
	At      time.Duration
}

// Sighting is a set that a node handed out.
type Sighting struct {
	Node int
	Set  Set
	At   time.Duration
}

// KeyHistory is what happened to the ticket keys of a fleet. Last has what each node
// has at the end, after all faults.
type KeyHistory struct {
	Updates []Update
	// Unknown are revocations that were not confirmed and may have been made: the answer
	// was lost. Set is what the node had before.
	Unknown   []Update
	Sightings []Sighting
	Last      []Set
}

// Check returns what the history breaks:
//   - A generation is one set, whoever hands it out.
//   - The set of a node goes forward, not back.
//   - All nodes have the same set at the end, which is no older than any
//     acknowledged update, and no other set is between: an update that was
//     acknowledged has not been undone.
//   - A key that was revoked is not in it, nor handed out in any set that is newer
//     than the one without it.
func (h *KeyHistory) Check() (broken []string) {
	report := func(format string, args ...any) { broken = append(broken, fmt.Sprintf(format, args...)) }
	sets := make(map[uint64]Set)
	see := func(what string, node int, s Set) {
		if other, ok := sets[s.Generation]; ok && other.Content != s.Content {
			report("generation %d is two sets: %s at node %d, %s elsewhere", s.Generation, what, node, "another")
			return
		}
		sets[s.Generation] = s
	}
	for _, u := range h.Updates {
		see("acknowledged", u.Node, u.Set)
	}
	latest := make(map[int]uint64)
	sightings := slices.Clone(h.Sightings)
	slices.SortStableFunc(sightings, func(a, b Sighting) int { return cmp.Compare(a.At, b.At) })
	for _, s := range sightings {
		see("handed out", s.Node, s.Set)
		if s.Set.Generation < latest[s.Node] {
			report("node %d went from generation %d back to %d", s.Node, latest[s.Node], s.Set.Generation)
		}
		latest[s.Node] = s.Set.Generation
	}
	for node, s := range h.Last {
		see("left", node, s)
		if s.Content != h.Last[0].Content || s.Generation != h.Last[0].Generation {
			report("node %d ends at generation %d, node 0 at %d", node, s.Generation, h.Last[0].Generation)
		}
	}
	updates := slices.Clone(h.Updates)
	slices.SortFunc(updates, func(a, b Update) int { return cmp.Compare(a.Set.Generation, b.Set.Generation) })
	for _, u := range updates {
		for _, last := range h.Last {
			if last.Generation < u.Set.Generation {
				report("generation %d was acknowledged, and generation %d is left", u.Set.Generation, last.Generation)
				break
			}
		}
		for generation, s := range sets {
			switch {
			case generation < u.Set.Generation:
			case u.Revoked != "" && slices.Contains(s.Keys, u.Revoked):
				report("generation %d has a key that generation %d revoked", generation, u.Set.Generation)
			case u.Made != "" && !slices.Contains(s.Keys, u.Made) && !h.mayBeRevoked(u, generation):
				report("generation %d lacks the key that generation %d brought", generation, u.Set.Generation)
			}
		}
	}
	slices.Sort(broken)
	return slices.Compact(broken)
}

// mayBeRevoked reports whether the key that u made was, or may have been, revoked up to a
// generation. A revocation makes a newer set than the one that its node had.
func (h *KeyHistory) mayBeRevoked(u Update, generation uint64) bool {
	return slices.ContainsFunc(h.Updates, func(o Update) bool {
		return o.Revoked == u.Made && o.Set.Generation > u.Set.Generation && o.Set.Generation <= generation
	}) || slices.ContainsFunc(h.Unknown, func(o Update) bool {
		return o.Revoked == u.Made && o.Set.Generation < generation
	})
}
