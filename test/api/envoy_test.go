package api_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"
)

// TestEnvoyDocument reads the example as Envoy does, by the published schema of
// SDS, and has for each file that it names a key of the size that the schema
// asks for.
func TestEnvoyDocument(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../examples/envoy/ticket-keys.yaml")
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := yaml.YAMLToJSON(document)
	if err != nil {
		t.Fatal(err)
	}
	var response discoveryv3.DiscoveryResponse
	if err := protojson.Unmarshal(asJSON, &response); err != nil {
		t.Fatal(err)
	}
	if err := response.ValidateAll(); err != nil || len(response.Resources) != 1 {
		t.Fatalf("%d resources, %v", len(response.Resources), err)
	}
	var secret secretv3.Secret
	if err := response.Resources[0].UnmarshalTo(&secret); err != nil {
		t.Fatal(err)
	}
	if err := secret.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	s := startService(t)
	s.post("/ticket-keys/rotate", "", nil).want(t, 200)
	sources := secret.GetSessionTicketKeys().GetKeys()
	if len(sources) != 3 {
		t.Fatalf("%d keys", len(sources))
	}
	for i, source := range sources {
		if got := filepath.Base(source.GetFilename()); got != fmt.Sprint(i) {
			t.Errorf("file %d is %s", i, got)
		}
		// envoy/extensions/transport_sockets/tls/v3/common.proto: "Each key must
		// contain exactly 80 bytes".
		if key := s.get(fmt.Sprintf("/ticket-keys?format=envoy&key=%d", i), "*/*").want(t, 200).body; len(key) != 80 {
			t.Errorf("key %d has %d bytes", i, len(key))
		}
	}
}
