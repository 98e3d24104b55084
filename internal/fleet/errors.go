package fleet

import (
	"errors"
	"time"
)

// ErrUnavailable reports that Redis did not confirm a write. The error is an
// [*UnavailableError].
var ErrUnavailable = errors.New("fleet: Redis did not confirm")

// ErrRefused is a cause of [ErrUnavailable]: Redis refused the write because it is
// full, a replica, or does not permit it.
var ErrRefused = errors.New("it refuses the write")

// errUnexpected is why an answer of Redis is not used.
var errUnexpected = errors.New("unexpected answer")

// ErrNotConnected is a cause of [ErrUnavailable]: nothing was sent, because Redis is
// down. The node has logged that.
var ErrNotConnected = errors.New("it does not answer")

// UnavailableError reports a write that Redis did not confirm.
type UnavailableError struct{ cause error }

// unavailable turns an error of Redis into one of the package; nil stays nil.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return &UnavailableError{err}
}

func (e *UnavailableError) Error() string { return ErrUnavailable.Error() + ": " + e.cause.Error() }

// Unwrap returns [ErrUnavailable] and the cause.
func (e *UnavailableError) Unwrap() []error { return []error{ErrUnavailable, e.cause} }

// Outcome tells a client whether the write was made.
func (e *UnavailableError) Outcome() string {
	switch {
	case errors.Is(e.cause, ErrNotConnected):
		return "Redis does not answer; nothing has changed."
	case errors.Is(e.cause, ErrRefused):
		return "Redis refused the change; nothing has changed. The log has the cause, with the request ID."
	}
	return "Redis did not confirm the change in time; it is unknown whether it was made."
}

// RetryAfter is how long a client should wait.
func (e *UnavailableError) RetryAfter() time.Duration { return time.Second }

// Logged reports whether the node has logged the cause.
func (e *UnavailableError) Logged() bool { return errors.Is(e.cause, ErrNotConnected) }
