package e2e_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/sessapi/sessapi/client"
)

// sdsSite is a service, and an agent that serves its keys to Envoys.
type sdsSite struct {
	*edgeSite
	t               *testing.T
	command, config string
	socket          string
	agent           *process
}

// connect connects an Envoy to the agent, as soon as that listens.
func (s *sdsSite) connect() secretv3.SecretDiscoveryServiceClient {
	s.t.Helper()
	connection, err := grpc.NewClient("unix:"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = connection.Close() })
	return secretv3.NewSecretDiscoveryServiceClient(connection)
}

// subscribe is the first request of an Envoy that has accepted the version.
func (s *sdsSite) subscribe(version string) secretv3.SecretDiscoveryService_StreamSecretsClient {
	s.t.Helper()
	stream, err := s.connect().StreamSecrets(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	send(s.t, stream.Send, &discoveryv3.DiscoveryRequest{
		Node: &corev3.Node{Id: "edge-7"}, TypeUrl: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
		ResourceNames: []string{"ticket-keys"}, VersionInfo: version,
	})
	return stream
}

func send[Request interface{ ValidateAll() error }](t *testing.T, send func(Request) error, r Request) {
	t.Helper()
	if err := r.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	if err := send(r); err != nil {
		t.Fatal(err)
	}
}

// receive reads a response, which must have the keys of the generation.
func (s *sdsSite) receive(stream secretv3.SecretDiscoveryService_StreamSecretsClient, d *client.TicketKeys) *discoveryv3.DiscoveryRequest {
	s.t.Helper()
	response, err := stream.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := response.ValidateAll(); err != nil || len(response.GetResources()) != 1 || response.GetVersionInfo() != strconv.FormatUint(d.Generation, 10) {
		s.t.Fatalf("version %q, %d resources, %v", response.GetVersionInfo(), len(response.GetResources()), err)
	}
	s.checkSecret(response.GetResources()[0])
	return &discoveryv3.DiscoveryRequest{
		ResourceNames: []string{"ticket-keys"}, VersionInfo: response.GetVersionInfo(), ResponseNonce: response.GetNonce(),
	}
}

// checkSecret compares a secret with the keys of the service, the current one first.
func (s *sdsSite) checkSecret(resource *anypb.Any) {
	s.t.Helper()
	var secret tlsv3.Secret
	if resource.UnmarshalTo(&secret) != nil || secret.ValidateAll() != nil { // whose errors may quote keys
		s.t.Fatal("not a valid secret")
	}
	var got, want [][]byte
	for _, source := range secret.GetSessionTicketKeys().GetKeys() {
		got = append(got, source.GetInlineBytes())
	}
	for i := range got {
		key, err := s.client.Format(s.t.Context(), "envoy", &i)
		if err != nil {
			s.t.Fatal(err)
		}
		want = append(want, key)
		if bytes.Contains([]byte(s.agent.out.String()), key[16:32]) || strings.Contains(s.agent.out.String(), base64.StdEncoding.EncodeToString(key)[24:64]) {
			s.t.Error("the log of the agent has a key")
		}
	}
	if secret.GetName() != "ticket-keys" || len(got) < 4 || !slices.EqualFunc(got, want, bytes.Equal) {
		s.t.Errorf("%d keys as %q, which are not those of the service", len(got), secret.GetName())
	}
}

func (s *sdsSite) startAgent() {
	s.t.Helper()
	s.agent = start(s.t, s.command, "agent", "--config="+s.config)
}

func (s *sdsSite) awaitApplying(reason string) {
	s.t.Helper()
	s.awaitConsumer(s.t, "edge", "applying: "+reason, func(c client.Consumer) bool {
		return c.State == "applying" && c.Detail != nil && *c.Detail == reason
	})
}

// An agent serves the keys to Envoys over gRPC, and the service sees what they say.
func TestAgentServesEnvoy(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	s := &sdsSite{
		t: t, edgeSite: openSite(t, nil), command: buildCommand(t, "-race", "-tags=envoysds"),
		config: filepath.Join(dir, "agent.yaml"), socket: filepath.Join(dir, "sds.sock"),
	}
	config := "service: {addresses: [\"http://127.0.0.1:" + s.port + "\"]}\nname: host\ntargets:\n  - {name: edge, kind: envoy-sds, socket: sds.sock}\n"
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), sessapiPath, "agent", "--config="+s.config, "--check").CombinedOutput()
	if err == nil || !strings.Contains(string(output), "line 4: target edge: kind: this sessapi was built without envoy-sds") {
		t.Errorf("the build without the kind: %v\n%s", err, output)
	}
	run(t, s.command, "agent", "--config="+s.config, "--check")
	run(t, s.command, "agent", "--config="+s.config, "--once")

	s.startAgent()
	s.awaitApplying("no Envoy is connected to the socket")
	d, err := s.client.TicketKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stream := s.subscribe("")
	accepted := s.receive(stream, d)
	s.awaitApplying("Envoy has not accepted the keys yet")
	send(t, stream.Send, accepted)
	s.awaitCurrent(t, "edge", d.Generation)

	rejected := s.receive(stream, s.rotate(t))
	rejected.VersionInfo, rejected.ErrorDetail = accepted.GetVersionInfo(), &statuspb.Status{Code: int32(codes.InvalidArgument), Message: "QUOTED"}
	send(t, stream.Send, rejected)
	s.awaitFailed(t, "edge", `Envoy "edge-7" rejected the keys (InvalidArgument); its log says why`)
	d = s.rotate(t)
	send(t, stream.Send, s.receive(stream, d))
	s.awaitCurrent(t, "edge", d.Generation)

	// A second Envoy, which uses the other variant of the protocol.
	delta, err := s.connect().DeltaSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send(t, delta.Send, &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "edge-8"}, ResourceNamesSubscribe: []string{"ticket-keys"}})
	response, err := delta.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if err := response.ValidateAll(); err != nil || len(response.GetResources()) != 1 || response.GetResources()[0].GetVersion() != strconv.FormatUint(d.Generation, 10) {
		t.Fatalf("%d resources, %v", len(response.GetResources()), err)
	}
	s.checkSecret(response.GetResources()[0].GetResource())
	s.awaitApplying("Envoy has not accepted the keys yet")
	send(t, delta.Send, &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: response.GetNonce()})
	s.awaitCurrent(t, "edge", d.Generation)

	// An agent that is killed leaves its socket, and the next one replaces it. An Envoy
	// that has the keys is not sent them again.
	s.agent.stop(t, syscall.SIGKILL)
	s.startAgent()
	s.awaitApplying("no Envoy is connected to the socket")
	stream = s.subscribe(strconv.FormatUint(d.Generation, 10))
	s.awaitCurrent(t, "edge", d.Generation)
	d = s.rotate(t)
	send(t, stream.Send, s.receive(stream, d))
	s.awaitCurrent(t, "edge", d.Generation)

	s.agent.stop(t, syscall.SIGTERM)
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("after the agent has stopped: %v", err)
	}
	if _, err := os.Lstat(s.socket); err == nil || s.agent.err != nil {
		t.Errorf("the agent left the socket, or failed: %v", s.agent.err)
	}
	if strings.Contains(s.agent.out.String(), "QUOTED") {
		t.Error("the agent logs what Envoy says")
	}
}
