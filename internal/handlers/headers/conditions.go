package headers

import (
	"slices"
	"strings"
)

// ETags is the value of If-Match or If-None-Match (RFC 9110, section 13.1).
type ETags struct {
	any  bool // "*"
	tags []etag
}

// etag is an entity tag (RFC 9110, section 8.8.3). Its value has the quotes.
type etag struct {
	value string
	weak  bool
}

// ParseETags reads the list in the header with this name. If value is nil because the
// header was not sent, the list is nil.
func ParseETags(name string, value *string) (*ETags, error) {
	if value == nil {
		return nil, nil
	}
	s := strings.TrimSpace(*value)
	if s == "*" {
		return &ETags{any: true}, nil
	}
	malformed := func() error { return &MalformedError{name, "must be * or a list of quoted ETags"} }
	var list ETags
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

// MatchStrong reports whether the list has the strong, quoted ETag, by strong
// comparison (RFC 9110, section 8.8.3.2), as If-Match requires.
func (l *ETags) MatchStrong(value string) bool { return l.match(value, false) }

// MatchWeak is MatchStrong by weak comparison, as If-None-Match requires.
func (l *ETags) MatchWeak(value string) bool { return l.match(value, true) }

func (l *ETags) match(value string, weak bool) bool {
	return l.any || slices.ContainsFunc(l.tags, func(tag etag) bool {
		return tag.value == value && (weak || !tag.weak)
	})
}
