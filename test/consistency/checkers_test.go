package consistency

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// sound is a history that breaks nothing: 30 updates by three nodes, each of which hands
// out each of them.
func sound(random *rand.Rand) *KeyHistory {
	h := new(KeyHistory)
	keys := []string{"k0"}
	var revoked string
	for i := range 30 {
		u := Update{Node: random.IntN(3), At: time.Duration(i) * time.Second}
		if i%5 == 4 {
			revoked = keys[len(keys)-1]
			keys, u.Revoked = slices.Clone(keys[:len(keys)-1]), revoked
		} else {
			u.Made = "k" + string(rune('A'+i))
			keys = append(slices.Clone(keys), u.Made)
		}
		u.Set = Set{Generation: uint64(1000 + i), Content: "s" + string(rune('A'+i)), Keys: keys}
		h.Updates = append(h.Updates, u)
		for node := range 3 {
			h.Sightings = append(h.Sightings, Sighting{node, u.Set, u.At + time.Duration(node+1)*time.Millisecond})
		}
	}
	for range 3 {
		h.Last = append(h.Last, h.Updates[len(h.Updates)-1].Set)
	}
	return h
}

// The checker of ticket keys finds each kind of error that is planted in a sound history.
func TestKeyCheckerFindsErrors(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	if broken := sound(random).Check(); broken != nil {
		t.Fatal(broken)
	}
	// lost plants a set that follows the others, without a key, and a revocation of it that
	// was not confirmed, of a node that had the set of an update.
	lost := func(h *KeyHistory, key string, had int) {
		last := h.Last[0]
		last.Generation, last.Content = last.Generation+1, "lost"
		last.Keys = slices.DeleteFunc(slices.Clone(last.Keys), func(k string) bool { return k == key })
		h.Last = []Set{last, last, last}
		h.Unknown = []Update{{Set: h.Updates[had].Set, Revoked: key}}
	}
	made := sound(random)
	if lost(made, "kB", 20); made.Check() != nil {
		t.Error("a revocation that was not confirmed was not made, says the checker:", made.Check())
	}
	for name, plant := range map[string]func(h *KeyHistory){
		"a generation is two sets": func(h *KeyHistory) { h.Sightings[random.IntN(len(h.Sightings)-3)].Set.Content = "other" },
		"a node goes back":         func(h *KeyHistory) { h.Sightings[60].Set = h.Sightings[3].Set },
		"nodes differ at the end":  func(h *KeyHistory) { h.Last[1] = h.Updates[10].Set },
		"an update is undone": func(h *KeyHistory) {
			for i := range h.Last {
				h.Last[i] = h.Updates[20].Set
			}
		},
		"an update is lost in a later one": func(h *KeyHistory) {
			lost(h, "kB", 20)
			h.Unknown = nil
		},
		"an update is lost, and a revocation of another key not confirmed": func(h *KeyHistory) {
			lost(h, "kB", 20)
			h.Unknown[0].Revoked = "kC"
		},
		"an update is lost before a revocation that is not confirmed": func(h *KeyHistory) {
			lost(h, "kB", 20)
			h.Unknown[0].Set = h.Last[0]
		},
		"a revoked key is back": func(h *KeyHistory) {
			last := h.Last[0]
			last.Generation, last.Content = last.Generation+1, "back"
			last.Keys = append(slices.Clone(last.Keys), h.Updates[4].Revoked)
			h.Last = []Set{last, last, last}
		},
	} {
		h := sound(random)
		if plant(h); h.Check() == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

// The checker of sessions finds each kind of error that is planted in a sound history.
func TestSessionCheckerFindsErrors(t *testing.T) {
	at := func(begin int, o Operation) Operation {
		o.Begin, o.End = time.Duration(begin)*time.Second, time.Duration(begin)*time.Second+time.Millisecond
		return o
	}
	base := []Operation{
		at(0, Operation{Node: 0, Kind: Put, Value: 1, Outcome: Done}),
		at(1, Operation{Node: 1, Kind: Get, Value: 1, Outcome: Done}),
		at(2, Operation{Node: 0, Kind: Put, Value: 2, Outcome: Done}),
		at(3, Operation{Node: 1, Kind: Get, Value: 1, Outcome: Done}), // within Stale
		at(4, Operation{Node: 1, Kind: Get, Value: 2, Outcome: Done}),
		at(5, Operation{Node: 2, Kind: Put, Value: 3, Outcome: Unknown}),
		at(6, Operation{Node: 1, Kind: Get, Value: 2, Outcome: Done}),
		at(20, Operation{Node: 1, Kind: Get, Value: 3, Outcome: Done}),
		at(21, Operation{Node: 0, Kind: Delete, Outcome: Done}),
		at(30, Operation{Node: 0, Kind: Get, Outcome: None}),
	}
	if broken := (&SessionHistory{Operations: base, Stale: 5 * time.Second}).Check(); broken != nil {
		t.Fatal(broken)
	}
	for name, planted := range map[string]Operation{
		"never stored":           at(3, Operation{Node: 1, Kind: Get, Value: 9, Outcome: Done}),
		"stored later":           at(1, Operation{Node: 2, Kind: Get, Value: 2, Outcome: Done}),
		"overwritten":            at(9, Operation{Node: 2, Kind: Get, Value: 1, Outcome: Done}),
		"overwritten by itself":  at(3, Operation{Node: 0, Kind: Get, Value: 1, Outcome: Done}),
		"older than what it had": at(5, Operation{Node: 1, Kind: Get, Value: 1, Outcome: Done}),
		"deleted":                at(40, Operation{Node: 2, Kind: Get, Value: 2, Outcome: Done}),
	} {
		h := &SessionHistory{Operations: append(slices.Clone(base), planted), Stale: 5 * time.Second}
		if h.Check() == nil {
			t.Errorf("%s: not found", name)
		}
	}
}
