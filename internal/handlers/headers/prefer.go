package headers

import (
	"strconv"
	"strings"
	"time"
)

// PreferredWait returns the first wait=N in Prefer (RFC 7240, section 4.3), in whole
// seconds and limited to most; 0 if there is none. Other preferences are ignored, as section
// 2 requires.
func PreferredWait(prefer *string, most time.Duration) (time.Duration, error) {
	if prefer == nil {
		return 0, nil
	}
	for preference := range strings.SplitSeq(*prefer, ",") {
		preference, _, _ = strings.Cut(preference, ";") // parameters
		name, value, _ := strings.Cut(preference, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		value = strings.TrimSpace(value)
		if unquoted, ok := strings.CutPrefix(value, `"`); ok {
			value = strings.TrimSuffix(unquoted, `"`)
		}
		if value == "" || !IsDigits(value) {
			return 0, &MalformedError{"Prefer", "wait must be a number of seconds"}
		}
		seconds, err := strconv.ParseUint(value, 10, 64)
		if err != nil || seconds > uint64(most/time.Second) { // a number that does not fit is more than enough, too
			return most, nil
		}
		return time.Duration(seconds) * time.Second, nil
	}
	return 0, nil
}
