package api_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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

// TestEnvoyPage reads the configuration of Envoy's page, and the file that the example's
// script makes, as Envoy does: by its published schema.
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

	s := startService(t)
	s.post("/ticket-keys/rotate", "", nil).want(t, 200) // to the largest set that the service makes
	before := writeSecret(t, s, source.GetName())
	s.post("/ticket-keys/rotate", "", nil).want(t, 200)
	if after := writeSecret(t, s, source.GetName()); before == after { // Envoy would keep the old keys
		t.Error("the file is the same after a rotation")
	}
}

// writeSecret writes the file of the keys that the service has, holds it against the
// schema, and returns it.
func writeSecret(tb testing.TB, s *service, name string) string {
	tb.Helper()
	dir := tb.TempDir()
	file := filepath.Join(dir, "envoy.yaml")
	args := []string{file}
	var want [][]byte
	for i := range 4 {
		key := s.get(fmt.Sprintf("/ticket-keys?format=envoy&key=%d", i), "*/*").want(tb, 200).body
		// envoy/extensions/transport_sockets/tls/v3/common.proto: "Each key must
		// contain exactly 80 bytes".
		if len(key) != 80 {
			tb.Errorf("key %d has %d bytes", i, len(key))
		}
		path := filepath.Join(dir, fmt.Sprintf("envoy.%d.key", i))
		if err := os.WriteFile(path, key, 0o600); err != nil {
			tb.Fatal(err)
		}
		want, args = append(want, key), append(args, path)
	}
	if out, err := exec.CommandContext(tb.Context(), "../../examples/envoy/ticket-keys.sh", args...).CombinedOutput(); err != nil {
		tb.Fatalf("%v\n%s", err, out)
	}
	document, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	var response discoveryv3.DiscoveryResponse
	decodeYAML(tb, string(document), &response)
	if err := response.ValidateAll(); err != nil || len(response.Resources) != 1 {
		tb.Fatalf("%d resources, %v", len(response.Resources), err)
	}
	var secret tlsv3.Secret
	unpack(tb, response.Resources[0], &secret)
	if err := secret.ValidateAll(); err != nil {
		tb.Fatal(err)
	}
	if secret.Name != name {
		tb.Errorf("the listener asks for %q, the secret is %q", name, secret.Name)
	}
	var got [][]byte
	for _, source := range secret.GetSessionTicketKeys().GetKeys() {
		got = append(got, source.GetInlineBytes())
	}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		tb.Error("the file has other keys than the service")
	}
	return string(document)
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
