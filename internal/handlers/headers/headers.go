// Package headers parses the header fields that the service uses: conditions, ranges
// and Accept (RFC 9110), and Prefer (RFC 7240). It accepts any input. Malformed input
// causes a [*MalformedError], which quotes nothing of it.
package headers

// MalformedError reports a malformed header.
type MalformedError struct {
	Field string // the name of the header
	Want  string // what it must be
}

func (e *MalformedError) Error() string { return e.Field + ": " + e.Want }
