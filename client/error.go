package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/printable"
)

var (
	// ErrTLS reports an http:// address of a service that speaks TLS.
	ErrTLS = errors.New("the service speaks TLS: use https:// in its address")
	// ErrPlainHTTP reports an https:// address of a service that does not speak TLS.
	ErrPlainHTTP = errors.New("the service does not speak TLS: use http:// in its address")
)

// tlsHint starts the answer of net/http, and so of the service, to plain HTTP at a
// port with TLS.
const tlsHint = "Client sent an HTTP request to an HTTPS server"

// FieldError says what is wrong with one key or a part of it.
type FieldError = api.FieldError

// Error is an error answer of the service.
type Error struct {
	// Status is that of HTTP.
	Status int
	// Code names the problem and is stable; the API reference of the service lists all
	// codes. It is empty if the answer is not from the service, but from a proxy for example.
	Code string
	// Detail is for people; empty when Code is.
	Detail string
	// Fields says why a set of keys was refused.
	Fields []FieldError
	// RetryAfter is how long the service asks to wait before a retry; 0 if it does not ask.
	RetryAfter time.Duration
}

// Error returns what the service says.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the service answers %d", e.Status)
	if e.Code != "" {
		fmt.Fprintf(&b, " %s: %s", e.Code, e.Detail)
	} else if text := http.StatusText(e.Status); text != "" {
		b.WriteString(" " + text)
	}
	separator := " "
	for _, field := range e.Fields {
		b.WriteString(separator + field.Field + " " + field.Reason)
		separator = "; "
	}
	return b.String()
}

// newError reads the problem document (RFC 9457) of an answer, if it is one.
func newError(response *http.Response, body []byte) *Error {
	e := &Error{Status: response.StatusCode, RetryAfter: retryAfter(response.Header.Get("Retry-After"))}
	mediaType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	var problem api.Problem
	if mediaType != "application/problem+json" || json.Unmarshal(body, &problem) != nil {
		return e
	}
	if !wordPattern.MatchString(string(problem.Code)) {
		return e
	}
	e.Code, e.Detail = string(problem.Code), printable.Short(problem.Detail)
	if problem.Errors != nil {
		for _, field := range (*problem.Errors)[:min(len(*problem.Errors), maxFields)] {
			e.Fields = append(e.Fields, FieldError{Field: printable.Short(field.Field), Reason: printable.Short(field.Reason)})
		}
	}
	return e
}

// retryAfter reads seconds or a date (RFC 9110, section 10.2.3). What is
// neither, or in the past, is 0.
func retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
