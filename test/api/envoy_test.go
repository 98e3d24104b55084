package api_test

import (
	"bytes"
	"cmp"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3" // the bootstrap names its messages
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/goccy/go-yaml"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sessapi/sessapi/internal/agent"
	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/keys"
)

// TestEnvoyPage reads the configuration of Envoy's page, and the files that the agent and
// the example's script make, as Envoy does: by its published schema.
func TestEnvoyPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/servers/envoy.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```yaml\n((?:# /etc/envoy/envoy.yaml|sds_config:)\n.*?)^```$").FindAllSubmatch(page, -1)
	if len(blocks) != 3 {
		t.Fatalf("%d blocks of YAML, want the bootstraps for REST and gRPC, and the sds_config of the file", len(blocks))
	}

	cluster, downstream := readBootstrap(t, string(blocks[0][1]))
	source := downstream.GetSessionTicketKeysSdsSecretConfig()
	rest := source.GetSdsConfig().GetApiConfigSource()
	var upstream tlsv3.UpstreamTlsContext
	unpack(t, cluster.GetTransportSocket().GetTypedConfig(), &upstream)
	if err := upstream.ValidateAll(); err != nil {
		t.Error(err)
	}
	if rest.GetApiType() != corev3.ApiConfigSource_REST || !slices.Equal(rest.GetClusterNames(), []string{cluster.GetName()}) || cluster.GetName() != upstream.GetSni() {
		t.Errorf("%v asks %q, which is %q", rest, cluster.GetName(), upstream.GetSni())
	}

	local, downstreamGRPC := readBootstrap(t, string(blocks[1][1]))
	agentSource := downstreamGRPC.GetSessionTicketKeysSdsSecretConfig()
	service := agentSource.GetSdsConfig().GetApiConfigSource()
	var options httpv3.HttpProtocolOptions
	unpack(t, local.GetTypedExtensionProtocolOptions()["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"], &options)
	if err := options.ValidateAll(); err != nil || options.GetExplicitHttpConfig().GetHttp2ProtocolOptions() == nil {
		t.Errorf("gRPC needs HTTP/2: %v, %v", &options, err)
	}
	if service.GetApiType() != corev3.ApiConfigSource_GRPC || len(service.GetGrpcServices()) != 1 ||
		service.GetGrpcServices()[0].GetEnvoyGrpc().GetClusterName() != local.GetName() || agentSource.GetName() != source.GetName() {
		t.Errorf("%q of %v, which asks %q", agentSource.GetName(), service, local.GetName())
	}
	socket := local.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetPipe().GetPath()
	if !bytes.Contains(page, []byte("\n- {kind: envoy-sds, socket: "+socket+",")) {
		t.Errorf("no target of the agent serves at %q", socket)
	}

	file := &tlsv3.SdsSecretConfig{}
	decodeYAML(t, string(blocks[2][1]), file)
	file.Name = source.GetName()
	downstream.SessionTicketKeysType = &tlsv3.DownstreamTlsContext_SessionTicketKeysSdsSecretConfig{SessionTicketKeysSdsSecretConfig: file}
	if err := downstream.ValidateAll(); err != nil {
		t.Error(err)
	}

	s := startService(t)
	s.post("/ticket-keys/rotate", "", nil).want(t, 200) // to the largest set that the service makes
	e := newEnvoy(t, s, source.GetName())
	e.wantKeys(e.post(rest.GetRequestTimeout().AsDuration()))
	before := writeSecret(t, s, source.GetName())
	s.post("/ticket-keys/rotate", "", nil).want(t, 200)
	if after := writeSecret(t, s, source.GetName()); before == after { // Envoy would keep the old keys
		t.Error("the file is the same after a rotation")
	}
}

// readBootstrap reads the configuration of an Envoy, and returns its cluster, and the TLS of
// its listener.
func readBootstrap(tb testing.TB, document string) (*clusterv3.Cluster, *tlsv3.DownstreamTlsContext) {
	tb.Helper()
	var bootstrap bootstrapv3.Bootstrap
	decodeYAML(tb, document, &bootstrap)
	if err := bootstrap.ValidateAll(); err != nil {
		tb.Fatal(err)
	}
	chain := bootstrap.GetStaticResources().GetListeners()[0].GetFilterChains()[0]
	var manager hcmv3.HttpConnectionManager
	unpack(tb, chain.GetFilters()[0].GetTypedConfig(), &manager)
	if err := manager.ValidateAll(); err != nil {
		tb.Error(err)
	}
	downstream := &tlsv3.DownstreamTlsContext{}
	unpack(tb, chain.GetTransportSocket().GetTypedConfig(), downstream)
	if err := downstream.ValidateAll(); err != nil {
		tb.Error(err)
	}
	return bootstrap.GetStaticResources().GetClusters()[0], downstream
}

// writeSecret has the script and the agent write the file of the keys that the service
// has, and holds both against the schema. It returns that of the script.
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
	document := checkSecret(tb, file, name, want)

	byAgent := filepath.Join(dir, "agent.yaml")
	config := agent.Config{
		Service: agent.Service{Addresses: []string{s.URL}},
		Name:    "edge-7",
		Targets: []agent.Target{{Kind: "envoy", File: byAgent}},
	}
	if err := config.Check(); err != nil {
		tb.Fatal(err)
	}
	a, err := agent.New(&config, 0, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	if err := a.Once(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	// After a rotation ahead of time there is a fifth key, and the agent has that, too.
	if fifth := s.get("/ticket-keys?format=envoy&key=4", "*/*"); fifth.StatusCode == http.StatusOK {
		want = append(want, fifth.body)
	}
	checkSecret(tb, byAgent, name, want)
	return document
}

// checkSecret holds a file against the schema and the keys that it is to have, and
// returns it.
func checkSecret(tb testing.TB, file, name string, want [][]byte) string {
	tb.Helper()
	document, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	var response discoveryv3.DiscoveryResponse
	decodeYAML(tb, string(document), &response)
	if err := response.ValidateAll(); err != nil || len(response.Resources) != 1 {
		tb.Fatalf("%d resources, %v", len(response.Resources), err)
	}
	itsName, got := sessionTicketKeys(tb, response.Resources[0])
	if itsName != name {
		tb.Errorf("the listener asks for %q, the secret is %q", name, itsName)
	}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		tb.Errorf("%s has other keys than the service", file)
	}
	return string(document)
}

// sessionTicketKeys returns the name of a secret and its keys.
func sessionTicketKeys(tb testing.TB, packed *anypb.Any) (name string, ticketKeys [][]byte) {
	tb.Helper()
	var secret tlsv3.Secret
	unpack(tb, packed, &secret)
	if err := secret.ValidateAll(); err != nil {
		tb.Fatal(err)
	}
	for _, source := range secret.GetSessionTicketKeys().GetKeys() {
		ticketKeys = append(ticketKeys, source.GetInlineBytes())
	}
	return secret.Name, ticketKeys
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

// envoy is Envoy's REST subscription to a secret: it sends what that sends, and holds
// each answer against the schema.
type envoy struct {
	*service
	request *discoveryv3.DiscoveryRequest
}

func newEnvoy(tb testing.TB, s *service, names ...string) *envoy {
	tb.Helper()
	metadata, err := structpb.NewStruct(map[string]any{"NAMESPACE": "edge", "version_info": "1", "nested": map[string]any{"resource_names": []any{"x"}}})
	if err != nil {
		tb.Fatal(err)
	}
	node := &corev3.Node{Id: "edge-7", Cluster: "edge", UserAgentName: "envoy", Metadata: metadata}
	for i := range 500 { // as many as an Envoy has
		name := fmt.Sprintf("envoy.filters.http.number_%d", i)
		node.Extensions = append(node.Extensions, &corev3.Extension{Name: name, Category: "envoy.filters.http", TypeUrls: []string{name + ".v2", name + ".v3"}})
	}
	return &envoy{s, &discoveryv3.DiscoveryRequest{Node: node, ResourceNames: names, TypeUrl: secretType}}
}

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// post asks once; without a timeout of the request the service knows none.
func (e *envoy) post(timeout time.Duration) answer {
	e.tb.Helper()
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e.request)
	if err != nil {
		e.tb.Fatal(err)
	}
	headers := []string{}
	if timeout > 0 {
		headers = append(headers, "X-Envoy-Expected-Rq-Timeout-Ms", strconv.FormatInt(timeout.Milliseconds(), 10))
	}
	return e.service.post("/v3/discovery:secrets", typeJSON, body, headers...)
}

// response reads an answer, which is then the version that Envoy has.
func (e *envoy) response(a answer) *discoveryv3.DiscoveryResponse {
	e.tb.Helper()
	a.want(e.tb, 200).wantHeader(e.tb, "Content-Type", typeJSON).wantHeader(e.tb, "Cache-Control", "no-store")
	var response discoveryv3.DiscoveryResponse
	if err := protojson.Unmarshal(a.body, &response); err != nil {
		e.tb.Fatal("not a DiscoveryResponse") // err may quote keys
	}
	if err := response.ValidateAll(); err != nil {
		e.tb.Fatal(err)
	}
	e.request.VersionInfo = response.VersionInfo
	return &response
}

// wantKeys holds the answer against the active set.
func (e *envoy) wantKeys(a answer) {
	e.tb.Helper()
	response := e.response(a)
	set, description := e.ring.Snapshot()
	defer set.Wipe()
	if response.VersionInfo != strconv.FormatUint(description.Generation, 10) || response.TypeUrl != secretType || len(response.Resources) != 1 {
		e.tb.Fatalf("version %q, type %q, %d resources", response.VersionInfo, response.TypeUrl, len(response.Resources))
	}
	name, got := sessionTicketKeys(e.tb, response.Resources[0])
	want := keys.Envoy.Append(nil, set)
	if name != "ticket-keys" || len(got) != len(description.Keys) || !bytes.Equal(slices.Concat(got...), want) {
		e.tb.Errorf("%d keys as %q, which are not those of the service", len(got), name)
	}
}

func TestEnvoyREST(t *testing.T) {
	s := startService(t)
	e := newEnvoy(t, s, "ticket-keys")
	e.wantKeys(e.post(0))
	e.post(0).want(t, 304) // does not say how long it waits
	for range 2 {
		held := make(chan answer, 1)
		go func() { held <- e.post(2 * slow * time.Second) }()
		s.awaitWaiters(t, 1)
		s.post("/ticket-keys/rotate", "", nil).want(t, 200)
		e.wantKeys(<-held)
	}
	// The answer comes before Envoy gives it up.
	start := time.Now()
	e.post(2*time.Second).want(t, 304).wantHeader(t, "Cache-Control", "no-store")
	if took := time.Since(start); took < time.Second {
		t.Errorf("answered after %v", took)
	}
	// A push of 128-bit keys is derived.
	s.post("/ticket-keys", typeBytes, slices.Concat(record(), record())).want(t, 200)
	e.wantKeys(e.post(slow * time.Second))

	held := make(chan answer, 1)
	go func() { held <- e.post(2 * slow * time.Second) }()
	s.awaitWaiters(t, 1)
	s.api.Drain()
	(<-held).want(t, 304)
	e.post(slow*time.Second).want(t, 304)
	e.request.VersionInfo = "1"
	e.wantKeys(e.post(slow * time.Second))
}

// A client of another make writes the names of JSON the other way, and leaves out what
// is at its default.
func TestEnvoyRESTNames(t *testing.T) {
	s := startService(t)
	e := newEnvoy(t, s)
	for _, body := range []string{`{}`, `{"resourceNames": ["ticket-keys"]}`, `{"resource_names": ["ticket-keys"], "typeUrl": "", "versionInfo": null, "errorDetail": null}`} {
		e.wantKeys(s.post("/v3/discovery:secrets", typeJSON, []byte(body)))
	}
	s.post("/v3/discovery:secrets", typeJSON, fmt.Appendf(nil, `{"versionInfo": "%d", "resourceNames": null}`, s.ring.Generation())).want(t, 304)
}

// What the service does not have is not there, and says nothing of what it has.
func TestEnvoyRESTUnknown(t *testing.T) {
	s := startService(t)
	for _, test := range []struct {
		names []string
		kind  string
		known bool
	}{
		{[]string{"ticket-keys"}, "", true},
		{nil, secretType, true},
		{[]string{"*"}, secretType, true},
		{[]string{"certificate", "ticket-keys", "ticket-keys"}, secretType, true},
		{[]string{"certificate"}, secretType, false},
		{[]string{"certificate", ""}, "", false},
		{[]string{"ticket-keys"}, "type.googleapis.com/envoy.config.cluster.v3.Cluster", false},
		{nil, "Secret", false},
	} {
		e := newEnvoy(t, s, test.names...)
		e.request.TypeUrl = test.kind
		if test.known {
			e.wantKeys(e.post(0))
			e.post(0).want(t, 304)
			continue
		}
		for _, version := range []string{"", strconv.FormatUint(s.ring.Generation(), 10)} {
			e.request.VersionInfo = version
			response := e.response(e.post(slow * time.Second))
			if response.VersionInfo != "" || len(response.Resources) != 0 || response.TypeUrl != cmp.Or(test.kind, secretType) {
				t.Errorf("%q of %q: version %q, %d resources of %q", test.names, test.kind, response.VersionInfo, len(response.Resources), response.TypeUrl)
			}
		}
	}
}

// TestEnvoyRESTRejects has clients that take an answer for wrong and say why, with what
// they got in it, as Envoy's errors have it.
func TestEnvoyRESTRejects(t *testing.T) {
	s := startService(t)
	e := newEnvoy(t, s, "ticket-keys")
	e.wantKeys(e.post(0))
	s.post("/ticket-keys/rotate", "", nil).want(t, 200)
	const secret = "inline_bytes SECRET"
	logged := func(want int) {
		t.Helper()
		if got := strings.Count(s.log.String(), "rejected the ticket keys"); got != want {
			t.Errorf("logged %d times, want %d", got, want)
		}
	}
	e.request.ErrorDetail = &statuspb.Status{Code: 3, Message: "Proto constraint validation failed: " + secret + strings.Repeat("x", 4096)}
	before := e.request.VersionInfo
	for range 3 { // it stays at the version before, and gets what there is
		e.wantKeys(e.post(slow * time.Second))
		e.request.VersionInfo = before
	}
	logged(1)
	s.post("/ticket-keys/rotate", "", nil).want(t, 200)
	e.wantKeys(e.post(slow * time.Second))
	logged(2)
	if log := s.log.String(); strings.Contains(log, secret) || !strings.Contains(log, `"code":3`) {
		t.Errorf("the log has the message or not the code: %s", log)
	}
}

func TestEnvoyRESTBody(t *testing.T) {
	s := startService(t)
	const path = "/v3/discovery:secrets"
	// 500 KiB of metadata are passed over.
	metadata := `{"node": {"metadata": {"a": [` + strings.Repeat(`{"b": "0123456789"},`, 25<<10) + `0], "a": 1}}, "resource_names": ["ticket-keys"]}`
	newEnvoy(t, s).wantKeys(s.post(path, typeJSON, []byte(metadata)))
	for _, body := range []string{
		``, ` `, `[]`, `1`, `{`, `{"version_info": 1}`, `{"resource_names": "ticket-keys"}`, `{"resource_names": [1]}`,
		`{"resource_names": [["ticket-keys"]]}`, `{"resource_names": ["ticket-keys"`, `{"error_detail": []}`, `{"error_detail": {"code": "x"}}`,
		`{} {}`, `{}x`, "{\"type_url\": \"\xff\"}",
		`{"node": "` + strings.Repeat("x", 64<<10) + `"}`,
		`{"node": [` + strings.Repeat(`"0123456789",`, 128<<10) + `0]}`,
		`{"resource_names": [` + strings.Repeat(`"",`, 512<<10) + `""]}`,
		strings.Repeat(`{"node":`, 100<<10),
	} {
		if p := s.post(path, typeJSON, []byte(body)).wantProblem(t, 400, api.ProblemCodeInvalidRequest); len(p.Detail) > 200 {
			t.Errorf("%.40s: a detail of %d bytes", body, len(p.Detail))
		}
	}
	s.post(path, "text/plain", []byte(`{}`)).wantProblem(t, 415, api.ProblemCodeUnsupportedMediaType)
	s.post(path, typeJSON, []byte(`{}`), "Accept", "text/html").wantProblem(t, 406, api.ProblemCodeNotAcceptable)
	s.post(path, typeJSON, []byte(`{}`), "X-Envoy-Expected-Rq-Timeout-Ms", "soon").wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	s.get(path, typeJSON).wantProblem(t, 405, api.ProblemCodeMethodNotAllowed)
}
