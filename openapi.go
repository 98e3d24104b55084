// Package sessapi holds the contract of the service, openapi.yaml, from which
// its types, its router's parameter binding and its reference page are made.
//
// The service keeps TLS sessions and session ticket keys for a fleet of TLS
// servers. Its parts:
//
//   - cmd/sessapi is the command;
//   - internal/handlers turns HTTP into calls of the domain, and errors into
//     problem documents;
//   - internal/cache keeps the sessions, internal/sslsession describes them;
//   - internal/keys keeps the ticket keys;
//   - internal/metrics shows all of them to Prometheus.
package sessapi

import _ "embed"

// OpenAPI is the contract, an OpenAPI 3.0.3 document in YAML. Not to be
// changed.
//
//go:embed openapi.yaml
var OpenAPI []byte
