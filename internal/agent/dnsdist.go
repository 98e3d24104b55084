package agent

import (
	"slices"

	"github.com/sessapi/sessapi/internal/keys"
)

// dnsdist has one file with all keys, which its console makes it read again. It adds
// them to those that it has, of which it keeps the last numberOfTicketsKeys: only a file
// of just so many replaces all.
var dnsdist = kind{
	format:      keys.DNSDist,
	keys:        5, // dnsdist's own default
	render:      dnsdistKeys,
	needsReload: true,
	reloadHint:  reloadCommandHint + "; add a reload that calls loadTicketsKeys on its console",
}

// dnsdistRecord is the size of a key, in bytes.
const dnsdistRecord = 80

// dnsdistKeys is the newest n keys of the set, which come last. When there are fewer,
// the oldest is there several times.
func dnsdistKeys(set keys.Set, n int) []byte {
	records := keys.DNSDist.Append(nil, set)
	defer clear(records)
	if excess := len(records)/dnsdistRecord - n; excess > 0 {
		return slices.Clone(records[excess*dnsdistRecord:])
	}
	content := make([]byte, 0, n*dnsdistRecord)
	for len(content)+len(records) < n*dnsdistRecord {
		content = append(content, records[:dnsdistRecord]...)
	}
	return append(content, records...)
}
