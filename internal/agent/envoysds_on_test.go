//go:build envoysds

package agent

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sessapi/sessapi/internal/agent/envoysds"
	"github.com/sessapi/sessapi/internal/logtest"
)

func TestEnvoySDSConfig(t *testing.T) {
	for target, want := range map[string]string{
		"socket: s":                                        "",
		"socket: s, mode: 0660, owner: \"0:0\"":            "",
		"socket: s, mode: 0600, timeout: 5s":               "",
		"socket: s, probe: \"127.0.0.1:443\"":              "",
		"name: sds":                                        "socket: there is none",
		"socket: s, file: /f":                              "file: does not go with kind envoy-sds",
		"socket: s, keys: 4":                               "keys: does not go with kind envoy-sds",
		"socket: s, format: ats":                           "format: does not go with kind envoy-sds",
		"socket: s, reload: [a]":                           "reload: does not go with kind envoy-sds",
		"socket: s, test: [a]":                             "test: does not go with kind envoy-sds",
		"socket: s, secret: a":                             "secret: does not go with kind envoy-sds",
		"socket: s, mode: 0640":                            "mode: must be 0600 or 0660",
		"socket: s, mode: 0666":                            "line 3: mode: ",
		"socket: s, owner: no-such-user":                   "owner: ",
		"socket: s, probe: here":                           "probe: ",
		"socket: s, timeout: 1h":                           "timeout: ",
		"socket: s}, {kind: envoy-sds, name: b, socket: s": "envoy-sds and b write the same file /s",
	} {
		c, err := parseConfig([]byte("service: {addresses: [unix:/s]}\nname: host\ntargets: [{kind: envoy-sds, "+target+"}]\n"), "/")
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v", target, err)
		case want == "" && c.Targets[0].Socket != "/s":
			t.Errorf("%s: %+v", target, c.Targets[0])
		}
	}
}

// sdsTest is an agent with one target of kind envoy-sds.
type sdsTest struct {
	*testing.T
	service *modelService
	socket  string
	log     logtest.Buffer
	agent   *Agent
	stop    func()
}

func newSDS(t *testing.T) *sdsTest {
	t.Helper()
	s := &sdsTest{
		T: t, socket: filepath.Join(t.TempDir(), "sds.sock"),
		service: &modelService{changed: make(chan struct{}), reports: map[string]Report{}},
	}
	s.rotate()
	return s
}

func (s *sdsTest) rotate() {
	r := rand.New(rand.NewPCG(s.service.generation, 0))
	s.service.update(func() { s.service.ring = []modelKey{newModelKey(r), newModelKey(r), newModelKey(r)} })
}

func (s *sdsTest) newAgent() {
	s.Helper()
	config := &Config{Name: "host", Targets: []Target{{Name: "edge", Kind: "envoy-sds", Socket: s.socket}}}
	if err := config.Targets[0].check(); err != nil {
		s.Fatal(err)
	}
	s.agent = newAgent(config, s.service, reach{run: runFor, ask: askSocket, probe: ticketKeyName}, 0, slog.New(slog.NewTextHandler(&s.log, nil)))
}

// start starts an agent, until stop is called or the test ends.
func (s *sdsTest) start() {
	s.Helper()
	s.newAgent()
	ctx, cancel := context.WithCancel(s.Context())
	var running sync.WaitGroup
	running.Go(func() { s.agent.Run(ctx) })
	s.stop = func() { cancel(); running.Wait() }
	s.Cleanup(s.stop)
}

// await waits until the service has this report of the target.
func (s *sdsTest) await(state State, generation uint64, detail string) {
	s.Helper()
	var got Report
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.service.mu.Lock()
		got = s.service.reports["edge"]
		s.service.mu.Unlock()
		if got.State == state && got.Generation == generation && got.Detail == detail {
			return
		}
	}
	s.Fatalf("%+v, want %s at %d: %s\n%s", got, state, generation, detail, s.log.String())
}

// connect subscribes an Envoy to the secret.
func (s *sdsTest) connect() (stream secretv3.SecretDiscoveryService_StreamSecretsClient, leave func()) {
	s.Helper()
	connection, err := grpc.NewClient("unix:"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.Fatal(err)
	}
	leave = func() { _ = connection.Close() }
	s.Cleanup(leave)
	stream, err = secretv3.NewSecretDiscoveryServiceClient(connection).StreamSecrets(s.Context(), grpc.WaitForReady(true))
	if err == nil {
		err = stream.Send(&discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "edge-7"}, ResourceNames: []string{envoysds.SecretName}})
	}
	if err != nil {
		s.Fatal(err)
	}
	return stream, leave
}

// receive receives the keys that the service has, and accepts or rejects them.
func (s *sdsTest) receive(stream secretv3.SecretDiscoveryService_StreamSecretsClient, accept bool) {
	s.Helper()
	response, err := stream.Recv()
	if err != nil {
		s.Fatal(err)
	}
	if set := s.service.set(); !slices.Equal(response.GetResources()[0].GetValue(), envoysds.Secret(set)) {
		s.Error("other keys than the service has")
	}
	answer := &discoveryv3.DiscoveryRequest{
		VersionInfo: response.GetVersionInfo(), ResponseNonce: response.GetNonce(), ResourceNames: []string{envoysds.SecretName},
	}
	if !accept {
		answer.VersionInfo, answer.ErrorDetail = "", &statuspb.Status{Code: 3, Message: "inline_bytes: QUOTED"}
	}
	if err := stream.Send(answer); err != nil {
		s.Fatal(err)
	}
}

const (
	noEnvoy     = "no Envoy is connected to the socket"
	notAccepted = "Envoy has not accepted the keys yet"
	rejected    = `Envoy "edge-7" rejected the keys (InvalidArgument); its log says why`
)

// The state of the target is what Envoy says.
func TestEnvoySDS(t *testing.T) {
	s := newSDS(t)
	s.start()
	s.await(Applying, 0, noEnvoy)
	stream, leave := s.connect()
	s.await(Applying, 0, notAccepted)
	s.receive(stream, true)
	s.await(Current, 1, "")

	s.rotate()
	s.await(Applying, 1, notAccepted)
	s.receive(stream, false)
	s.await(Failed, 1, rejected)
	s.rotate()
	s.receive(stream, true)
	s.await(Current, 3, "")
	leave()
	s.await(Applying, 3, noEnvoy)

	// A socket that somebody removes is made again.
	stream, _ = s.connect()
	s.receive(stream, true)
	s.await(Current, 3, "")
	if err := os.Remove(s.socket); err != nil {
		t.Fatal(err)
	}
	s.await(Applying, 3, noEnvoy)
	stream, _ = s.connect()
	s.receive(stream, true)
	s.await(Current, 3, "")

	// A second agent fails while the first one runs, and then takes its place.
	stop := s.stop
	s.start()
	s.await(Failed, 0, "socket: "+s.socket+": address already in use")
	stop()
	s.await(Applying, 0, noEnvoy)
	stream, _ = s.connect()
	s.receive(stream, true)
	s.await(Current, 3, "")
	status := s.agent.Status()[0]
	if status.Changes != 1 || status.Failures == 0 {
		t.Errorf("%d changes, %d failures", status.Changes, status.Failures)
	}
	s.stop()
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on")
	}
	if _, err := os.Lstat(s.socket); err == nil {
		t.Error("the socket is still there")
	}
	if log := s.log.String(); strings.Contains(log, "QUOTED") {
		t.Error(log)
	}
}

// There is nothing to do once.
func TestEnvoySDSOnce(t *testing.T) {
	s := newSDS(t)
	s.newAgent()
	if err := s.agent.Once(t.Context()); err != nil {
		t.Error(err)
	}
	if log := s.log.String(); !strings.Contains(log, "nothing to do once") {
		t.Error(log)
	}
	if _, err := os.Lstat(s.socket); err == nil {
		t.Error("there is a socket")
	}
}
