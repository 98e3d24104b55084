package handlers

import (
	"strconv"
	"strings"
)

// etagList is the value of If-Match or If-None-Match (RFC 9110, section 13.1).
type etagList struct {
	any  bool // "*"
	tags []etag
}

// etag is an entity tag (RFC 9110, section 8.8.3). Its value is without the
// quotes.
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
	var list etagList
	for {
		var tag etag
		s, tag.weak = strings.CutPrefix(s, "W/")
		rest, opened := strings.CutPrefix(s, `"`)
		text, rest, closed := strings.Cut(rest, `"`)
		if !opened || !closed {
			return nil, invalidRequest("%s: must be * or a list of quoted ETags", name)
		}
		tag.value = text
		list.tags = append(list.tags, tag)
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			return &list, nil
		}
		if rest[0] != ',' {
			return nil, invalidRequest("%s: must be * or a list of quoted ETags", name)
		}
		s = strings.TrimLeft(rest[1:], " \t")
	}
}

// matchesStrong reports whether the list has the tag by strong comparison, as
// If-Match wants it.
func (l *etagList) matchesStrong(value string) bool { return l.matches(value, false) }

// matchesWeak is the comparison of If-None-Match, which takes weak tags too.
func (l *etagList) matchesWeak(value string) bool { return l.matches(value, true) }

func (l *etagList) matches(value string, weak bool) bool {
	if l.any {
		return true
	}
	for _, tag := range l.tags {
		if tag.value == value && (weak || !tag.weak) {
			return true
		}
	}
	return false
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
