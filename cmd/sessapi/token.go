package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/auth"
)

// tokenCommand makes the tokens of a policy.
type tokenCommand struct {
	New newTokenCommand `cmd:"" help:"Print a new token on the first line, and below it the line for the policy."`
}

type newTokenCommand struct {
	Expires expiry `placeholder:"90d|DATE" help:"Expiry of the token: after days (90d) or hours (12h), or at a date (2027-01-31) or time (RFC 3339). The default is never."`
}

// Validate implements kong's check of the flags.
func (c newTokenCommand) Validate() error {
	if now := time.Now(); c.Expires != (expiry{}) && !c.Expires.end(now).After(now) {
		return errors.New("--expires must be in the future")
	}
	return nil
}

// Run prints the token, which is stored nowhere, and its hash.
func (c newTokenCommand) Run(env environment) error {
	end := c.Expires.end(time.Now())
	token, hash := auth.NewToken()
	line := fmt.Sprintf("- sha256: \"%x\"", hash)
	if !end.IsZero() {
		line = fmt.Sprintf("- {sha256: \"%x\", expires: %s}", hash, end.UTC().Format(time.RFC3339))
	}
	_, err := fmt.Fprintf(env.stdout, "%s\n\n# For the policy, under tokens: of the identity:\n%s\n", token, line)
	return err
}

// expiry is an expiry given as a time or as a duration from now.
type expiry struct {
	at    time.Time
	after time.Duration
}

// end returns the time; zero for none.
func (e expiry) end(now time.Time) time.Time {
	if e.after != 0 {
		return now.Add(e.after)
	}
	return e.at
}

// maxDays limits a number of days so that it fits a duration.
const maxDays = 36500

// UnmarshalText reads 90d, 12h, 2027-01-31 or a time of RFC 3339.
func (e *expiry) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= maxDays {
			e.after = time.Duration(n) * 24 * time.Hour
			return nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		e.after = d
		return nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, s); err == nil {
			e.at = at
			return nil
		}
	}
	return errors.New("must be like 90d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z")
}
