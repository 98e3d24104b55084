package headers

import (
	"errors"
	"strconv"
	"strings"
)

// Range is the part [Start, End) of a representation.
type Range struct{ Start, End int }

// ErrNotSatisfiable reports a well-formed range that starts after the end.
var ErrNotSatisfiable = errors.New("range not satisfiable")

// ParseRange reads a Range header (RFC 9110, section 14.2) for a representation of size
// bytes, at least 1. ok is false if the header has another unit than bytes or several
// ranges: the RFC permits sending the whole then.
func ParseRange(header string, size int) (r Range, ok bool, err error) {
	unit, spec, found := strings.Cut(header, "=")
	if !found {
		return r, false, &MalformedError{"Range", "must be of the form bytes=FIRST-LAST"}
	}
	if !strings.EqualFold(strings.TrimSpace(unit), "bytes") || strings.Contains(spec, ",") {
		return r, false, nil
	}
	first, last, found := strings.Cut(strings.TrimSpace(spec), "-")
	if !found || !IsDigits(first) || !IsDigits(last) || first == "" && last == "" {
		return r, false, &MalformedError{"Range", "must be of the form bytes=FIRST-LAST"}
	}
	if first == "" { // the last n bytes
		n := clampInt(last, size)
		if n == 0 {
			return r, false, ErrNotSatisfiable
		}
		return Range{size - n, size}, true, nil
	}
	r = Range{clampInt(first, size), size}
	if last != "" {
		if less(last, first) {
			return Range{}, false, &MalformedError{"Range", "must not end before it starts"}
		}
		r.End = min(clampInt(last, size-1)+1, size)
	}
	if r.Start >= size {
		return Range{}, false, ErrNotSatisfiable
	}
	return r, true, nil
}

// IsDigits reports whether s has only decimal digits.
func IsDigits(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < '0' || c > '9' })
}

// clampInt returns the value of a string of digits, at most limit: clients may send
// numbers of any length.
func clampInt(digits string, limit int) int {
	n, err := strconv.Atoi(digits)
	if err != nil || n > limit { // digits cause no error except a number that is too large
		return limit
	}
	return n
}

// less compares two strings of digits by value.
func less(a, b string) bool {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}
