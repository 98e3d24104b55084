package handlers

import (
	"slices"
	"strconv"
	"strings"
)

// etagList is the value of If-Match or If-None-Match (RFC 9110, section 13.1).
type etagList struct {
	any  bool // "*"
	tags []etag
}

// etag is an entity tag (RFC 9110, section 8.8.3). Its value has the quotes.
type etag struct {
	value string
	weak  bool
}

// parseETags reads the list of the header of that name. nil, when the header
// was not sent, is a nil list.
func parseETags(name string, value *string) (*etagList, error) {
	if value == nil {
		return nil, nil
	}
	s := strings.TrimSpace(*value)
	if s == "*" {
		return &etagList{any: true}, nil
	}
	malformed := func() error { return invalidRequest("%s: must be * or a list of quoted ETags", name) }
	var list etagList
	for {
		// Lists may have empty elements (RFC 9110, section 5.6.1.2).
		if s = strings.TrimLeft(s, ", \t"); s == "" {
			break
		}
		var tag etag
		s, tag.weak = strings.CutPrefix(s, "W/")
		if !strings.HasPrefix(s, `"`) {
			return nil, malformed()
		}
		end := strings.IndexByte(s[1:], '"')
		if end < 0 {
			return nil, malformed()
		}
		tag.value, s = s[:end+2], strings.TrimLeft(s[end+2:], " \t")
		if s != "" && s[0] != ',' {
			return nil, malformed()
		}
		list.tags = append(list.tags, tag)
	}
	if list.tags == nil {
		return nil, malformed()
	}
	return &list, nil
}

// comparison is how ETags are compared (RFC 9110, section 8.8.3.2): If-Match
// wants it strong, If-None-Match takes weak ones too.
type comparison bool

const (
	strong comparison = false
	weak   comparison = true
)

// matches reports whether the list has the ETag, a strong one with its quotes.
func (l *etagList) matches(value string, by comparison) bool {
	return l.any || slices.ContainsFunc(l.tags, func(tag etag) bool {
		return tag.value == value && (by == weak || !tag.weak)
	})
}

// byteRange is the part [start, end) of a representation.
type byteRange struct{ start, end int }

// errRange says that a range is well-formed and starts behind the end.
type errRange struct{}

func (errRange) Error() string { return "range not satisfiable" }

// parseRange reads a Range header (RFC 9110, section 14.2) for a representation
// of size bytes, which is at least 1. Another unit than bytes and a request for
// several ranges ask for the whole, as the RFC allows: ok is then false.
func parseRange(header string, size int) (r byteRange, ok bool, err error) {
	unit, spec, found := strings.Cut(header, "=")
	if !found {
		return r, false, invalidRequest("Range: must be of the form bytes=FIRST-LAST")
	}
	if !strings.EqualFold(strings.TrimSpace(unit), "bytes") || strings.Contains(spec, ",") {
		return r, false, nil
	}
	first, last, found := strings.Cut(strings.TrimSpace(spec), "-")
	if !found || !isDigits(first) || !isDigits(last) || first == "" && last == "" {
		return r, false, invalidRequest("Range: must be of the form bytes=FIRST-LAST")
	}
	if first == "" { // the last so many bytes
		n := clampInt(last, size)
		if n == 0 {
			return r, false, errRange{}
		}
		return byteRange{size - n, size}, true, nil
	}
	r = byteRange{clampInt(first, size), size}
	if last != "" {
		if less(last, first) {
			return byteRange{}, false, invalidRequest("Range: must not end before it starts")
		}
		r.end = min(clampInt(last, size-1)+1, size)
	}
	if r.start >= size {
		return byteRange{}, false, errRange{}
	}
	return r, true, nil
}

func isDigits(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < '0' || c > '9' })
}

// clampInt is the value of a string of digits, or limit when that is less:
// clients may send numbers of any length.
func clampInt(digits string, limit int) int {
	n, err := strconv.Atoi(digits)
	if err != nil || n > limit { // the only error of digits is that they are too many
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
