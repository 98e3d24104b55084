package agent

import (
	"encoding/base64"
	"slices"

	"github.com/sessapi/sessapi/internal/keys"
)

// envoy is Envoy with the secret ticket-keys from a file (path_config_source of its
// sds_config). Envoy rereads the file when a rename replaces it.
var envoy = kind{format: keys.Envoy, render: envoySecret}

const (
	envoyHead = `resources:
  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: ticket-keys
    session_ticket_keys:
      keys:
`
	envoyKey = `        - inline_bytes: `
	// envoyRecord is the size of a key, in bytes.
	envoyRecord = 80
)

// envoySecret returns an SDS resource with all keys of the set.
func envoySecret(set keys.Set, _ int) []byte {
	records := keys.Envoy.Append(nil, set)
	defer clear(records)
	line := len(envoyKey) + base64.StdEncoding.EncodedLen(envoyRecord) + len("\n")
	secret := make([]byte, 0, len(envoyHead)+len(records)/envoyRecord*line) // growing it would leave copies behind
	secret = append(secret, envoyHead...)
	for record := range slices.Chunk(records, envoyRecord) {
		secret = append(secret, envoyKey...)
		secret = base64.StdEncoding.AppendEncode(secret, record)
		secret = append(secret, '\n')
	}
	return secret
}
