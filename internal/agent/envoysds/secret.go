package envoysds

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sessapi/sessapi/internal/keys"
)

const (
	// SecretName is the name of the secret, as in the service and in the file.
	SecretName = "ticket-keys"

	secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	keySize    = 80 // in bytes
)

// Secret returns the secret with all keys of the set, as Protocol Buffers encode it. The
// caller wipes it.
func Secret(set keys.Set) []byte {
	records := keys.Envoy.Append(nil, set)
	defer clear(records)
	ticketKeys := &tlsv3.TlsSessionTicketKeys{}
	for record := range slices.Chunk(records, keySize) {
		ticketKeys.Keys = append(ticketKeys.Keys, &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: record}})
	}
	secret, _ := proto.Marshal(&tlsv3.Secret{ // which fails only for text that is not UTF-8
		Name: SecretName, Type: &tlsv3.Secret_SessionTicketKeys{SessionTicketKeys: ticketKeys},
	})
	return secret
}
