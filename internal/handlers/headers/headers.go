// Package headers parses the header fields that the service goes by: conditions,
// ranges and Accept (RFC 9110), and Prefer (RFC 7240). It takes any input: what is
// malformed is a [*MalformedError], which quotes nothing of it.
package headers

// MalformedError reports a header that cannot be read.
type MalformedError struct {
	Field string // the name of the header
	Want  string // what it must be
}

func (e *MalformedError) Error() string { return e.Field + ": " + e.Want }
