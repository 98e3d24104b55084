package headers

import (
	"errors"
	"mime"
	"slices"
	"strconv"
	"strings"
)

// ErrNotAcceptable reports that Accept admits none of the offered types.
var ErrNotAcceptable = errors.New("not acceptable")

// Negotiate picks the offered media type that Accept prefers (RFC 9110, section
// 12.5.1). It ignores malformed ranges. A wildcard matches only the first type: the
// others hold secrets, and a client must name them. If the first type is "", a wildcard
// matches nothing.
func Negotiate(accept []string, offered ...string) (string, error) {
	if len(accept) == 1 && slices.Contains(offered, accept[0]) {
		return accept[0], nil
	}
	type rating struct {
		specificity, order int
		quality            float64
	}
	ratings := make([]rating, len(offered))
	ranges := 0
	for element := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		if element = strings.TrimSpace(element); element == "" {
			continue
		}
		mediaRange, params, err := mime.ParseMediaType(element)
		if err != nil || strings.Count(mediaRange, "/") != 1 {
			continue
		}
		quality := 1.0
		if q, ok := params["q"]; ok {
			if quality, err = strconv.ParseFloat(q, 64); err != nil || !(quality >= 0 && quality <= 1) {
				continue
			}
		}
		ranges++
		for i, mediaType := range offered {
			s := specificity(mediaRange, mediaType)
			if s > ratings[i].specificity && (i == 0 || s == byName) {
				ratings[i] = rating{s, ranges, quality}
			}
		}
	}
	if ranges == 0 && offered[0] != "" { // no header, or only malformed ranges
		return offered[0], nil
	}
	best := -1
	for i, r := range ratings {
		if offered[i] != "" && r.quality > 0 && (best < 0 || r.quality > ratings[best].quality ||
			r.quality == ratings[best].quality && r.order < ratings[best].order) {
			best = i
		}
	}
	if best < 0 {
		return "", ErrNotAcceptable
	}
	return offered[best], nil
}

// byName is the specificity of a range that names the type itself.
const byName = 3

// specificity returns how exactly a media range matches the type: byName, 2 for type/*,
// 1 for */*, 0 for no match.
func specificity(mediaRange, mediaType string) int {
	kind, _, _ := strings.Cut(mediaType, "/")
	switch mediaRange {
	case mediaType:
		return byName
	case kind + "/*":
		return 2
	case "*/*":
		return 1
	}
	return 0
}
