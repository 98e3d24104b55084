package agent

import (
	"slices"

	"github.com/sessapi/sessapi/internal/keys"
)

// dnsdist reads one file with all keys, on a command at its console. It adds them to
// the keys that it has, and keeps the last numberOfTicketsKeys: only a file with
// exactly that many keys replaces all.
var dnsdist = kind{
	format:      keys.DNSDist,
	keys:        5, // dnsdist's own default
	render:      dnsdistKeys,
	needsReload: true,
	reloadHint:  reloadCommandHint + "; add a reload that calls loadTicketsKeys on its console",
}

// dnsdistRecord is the size of a key, in bytes.
const dnsdistRecord = 80

// dnsdistKeys renders the newest n keys of the set, the newest last. If there are fewer,
// it repeats the oldest.
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
