// Package tracing records spans and exports them over OTLP, the protocol of
// OpenTelemetry. Only a build with the tag otlp can: its libraries are heavy. In other
// builds [New] fails, and [Start] and [StartRedis] compile to nothing.
//
// A context carries the tracer and the current span. With a context that carries no
// tracer, nothing is recorded and nothing is allocated.
//
// A span never holds a session ID, a key, a token, a path, a consumer's name or the text
// of an error. Its name and attributes are texts of this program, except for the status
// code of a response.
package tracing

import (
	"errors"
	"net/url"
)

// ErrNotBuilt reports that this build cannot export spans.
var ErrNotBuilt = errors.New("needs a build with tracing: go build -tags otlp ./cmd/sessapi")

// CheckEndpoint returns why this build cannot export to a collector with this base URL. The
// error does not repeat the URL, which may hold a password.
func CheckEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return errors.New("must be a URL like http://127.0.0.1:4318")
	case u.User != nil:
		return errors.New("must not contain credentials, which other users could read: put them in OTEL_EXPORTER_OTLP_HEADERS")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("must not have a query or a fragment")
	case !built:
		return ErrNotBuilt
	}
	return nil
}
