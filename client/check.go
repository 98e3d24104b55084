package client

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/sessapi/sessapi/internal/api"
)

const (
	maxKeys   = 64  // of a set
	maxFields = 256 // that a problem tells of
)

// What the contract says of names, fingerprints, ETags and words: codes, sources and
// roles, of which a later service may have more. A proxy may make an ETag weak.
var (
	hexPattern  = regexp.MustCompile(`^[0-9a-f]{32}$`)
	etagPattern = regexp.MustCompile(`^(W/)?"[0-9]{1,20}"$`)
	wordPattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
)

// checkDescription holds a description to the contract: it may be from anybody who
// answers in place of the service. The error repeats nothing of it.
func checkDescription(d *TicketKeys) error {
	if len(d.Keys) < 1 || len(d.Keys) > maxKeys {
		return fmt.Errorf("it has %d keys, not 1 to %d", len(d.Keys), maxKeys)
	}
	if !wordPattern.MatchString(string(d.Source)) {
		return errors.New("its source is not a word")
	}
	names, roles := map[string]bool{}, map[TicketKeyRole]int{}
	for i, k := range d.Keys {
		switch {
		case !hexPattern.MatchString(k.Name):
			return fmt.Errorf("the name of key %d is not 32 hex digits", i)
		case names[k.Name]:
			return fmt.Errorf("key %d has the name of another", i)
		case !wordPattern.MatchString(string(k.Role)):
			return fmt.Errorf("the role of key %d is not a word", i)
		case !k.Bits.Valid():
			return fmt.Errorf("key %d has %d bits", i, k.Bits)
		case !hexPattern.MatchString(k.Fingerprint):
			return fmt.Errorf("the fingerprint of key %d is not 32 hex digits", i)
		}
		names[k.Name] = true
		roles[k.Role]++
	}
	if roles[api.Current] != 1 || roles[api.Next] > 1 {
		return fmt.Errorf("it has %d current and %d next keys", roles[api.Current], roles[api.Next])
	}
	return nil
}

// isText reports whether data is lines of printable ASCII, as keys in a text format
// are.
func isText(data []byte) bool {
	for i, b := range data {
		if b == '\n' || b == '\r' && i+1 < len(data) && data[i+1] == '\n' {
			continue
		}
		if b < ' ' || b > '~' {
			return false
		}
	}
	return true
}
