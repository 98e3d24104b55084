package api_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3" // the bootstrap names its messages
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestEnvoyPage reads the configuration of Envoy's page as Envoy does, by its
// published schema, and has for each key file that it names a key of the size that
// the schema asks for.
func TestEnvoyPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/servers/envoy.md")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n# (/\\S+)\n(.*?)^```$").FindAllSubmatch(page, -1) {
		files[string(block[1])] = string(block[2])
	}

	var bootstrap bootstrapv3.Bootstrap
	decodeYAML(t, files["/etc/envoy/envoy.yaml"], &bootstrap)
	if err := bootstrap.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	chain := bootstrap.GetStaticResources().GetListeners()[0].GetFilterChains()[0]
	var manager hcmv3.HttpConnectionManager
	unpack(t, chain.GetFilters()[0].GetTypedConfig(), &manager)
	if err := manager.ValidateAll(); err != nil {
		t.Error(err)
	}
	var downstream tlsv3.DownstreamTlsContext
	unpack(t, chain.GetTransportSocket().GetTypedConfig(), &downstream)
	if err := downstream.ValidateAll(); err != nil {
		t.Error(err)
	}
	source := downstream.GetSessionTicketKeysSdsSecretConfig()

	var response discoveryv3.DiscoveryResponse
	decodeYAML(t, files[source.GetSdsConfig().GetPathConfigSource().GetPath()], &response)
	if err := response.ValidateAll(); err != nil || len(response.Resources) != 1 {
		t.Fatalf("%d resources, %v", len(response.Resources), err)
	}
	var secret tlsv3.Secret
	unpack(t, response.Resources[0], &secret)
	if err := secret.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	if secret.Name != source.GetName() {
		t.Errorf("the listener asks for %q, the secret is %q", source.GetName(), secret.Name)
	}

	s := startService(t)
	s.post("/ticket-keys/rotate", "", nil).want(t, 200) // to the largest set that the service makes
	sources := secret.GetSessionTicketKeys().GetKeys()
	if len(sources) != 4 {
		t.Fatalf("%d keys", len(sources))
	}
	for i, source := range sources {
		if got, want := filepath.Base(source.GetFilename()), fmt.Sprintf("envoy.%d.key", i); got != want {
			t.Errorf("file %d is %s, want %s", i, got, want)
		}
		// envoy/extensions/transport_sockets/tls/v3/common.proto: "Each key must
		// contain exactly 80 bytes".
		if key := s.get(fmt.Sprintf("/ticket-keys?format=envoy&key=%d", i), "*/*").want(t, 200).body; len(key) != 80 {
			t.Errorf("key %d has %d bytes", i, len(key))
		}
	}
}

func decodeYAML(tb testing.TB, document string, message proto.Message) {
	tb.Helper()
	asJSON, err := yaml.YAMLToJSON([]byte(document))
	if err == nil {
		err = protojson.Unmarshal(asJSON, message)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func unpack(tb testing.TB, packed *anypb.Any, message proto.Message) {
	tb.Helper()
	if err := packed.UnmarshalTo(message); err != nil {
		tb.Fatal(err)
	}
}
