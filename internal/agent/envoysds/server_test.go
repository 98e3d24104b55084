package envoysds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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

	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/keys"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// record is what Envoy reads of the i-th key of a generation.
func record(generation uint64, i int) []byte {
	return bytes.Repeat([]byte{byte(16*generation) + byte(i) + 1}, keySize)
}

// setOf is the set of a generation: three keys, and the next one.
func setOf(generation uint64) keys.Set {
	key := func(i int) keys.Key {
		r := record(generation, i)
		return keys.NewKey(r[:16], r[16:48], r[48:])
	}
	next := key(3)
	return keys.Set{Keys: []keys.Key{key(0), key(1), key(2)}, Next: &next}
}

// running is a server in a test.
type running struct {
	*Server
	t      *testing.T
	config Config
	client secretv3.SecretDiscoveryServiceClient
}

func start(t *testing.T, timeout time.Duration) *running {
	t.Helper()
	r := &running{t: t, config: Config{
		Socket: filepath.Join(t.TempDir(), "sds.sock"), Attributes: files.Attributes{Mode: 0o600, UID: -1, GID: -1},
		Timeout: timeout, Changed: func() {},
	}}
	var err error
	if r.Server, err = Listen(r.config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.Server != nil {
			r.Close()
		}
	})
	connection, err := grpc.NewClient("unix:"+r.config.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	r.client = secretv3.NewSecretDiscoveryServiceClient(connection)
	return r
}

func (r *running) offer(generation uint64) {
	set := setOf(generation)
	secret := Secret(set)
	r.Offer(generation, secret)
	clear(secret) // the server has its own
}

// await waits until Accepted is as wanted: nil for "", or an error with the text.
func (r *running) await(want string) {
	r.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err = r.Accepted(); want == "" && err == nil || want != "" && err != nil && strings.Contains(err.Error(), want) {
			return
		}
	}
	r.t.Fatalf("%v, want %q", err, want)
}

// stream is a subscription of an Envoy, state of the world.
type stream struct {
	grpc.BidiStreamingClient[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
	t       *testing.T
	cancel  context.CancelFunc
	request *discoveryv3.DiscoveryRequest // the next
}

func (r *running) subscribe(node, version string, names ...string) *stream {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	r.t.Cleanup(cancel)
	client, err := r.client.StreamSecrets(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	s := &stream{client, r.t, cancel, &discoveryv3.DiscoveryRequest{
		Node: &corev3.Node{Id: node, Cluster: "edge"}, VersionInfo: version, ResourceNames: names, TypeUrl: secretType,
	}}
	s.send()
	return s
}

func (s *stream) send() {
	s.t.Helper()
	if err := s.request.ValidateAll(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.Send(s.request); err != nil {
		s.t.Fatal(err)
	}
	s.request.Node, s.request.ErrorDetail = nil, nil // as Envoy does
}

// receive reads a response, which must have the secret of the generation, or no secret
// for 0. The next request has its nonce.
func (s *stream) receive(generation uint64) *discoveryv3.DiscoveryResponse {
	s.t.Helper()
	response, err := s.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := response.ValidateAll(); err != nil {
		s.t.Fatal(err)
	}
	if response.GetTypeUrl() != secretType || response.GetNonce() == "" || response.GetNonce() == s.request.GetResponseNonce() {
		s.t.Errorf("type %q, nonce %q after %q", response.GetTypeUrl(), response.GetNonce(), s.request.GetResponseNonce())
	}
	s.request.ResponseNonce = response.GetNonce()
	if generation == 0 {
		if response.GetVersionInfo() != "" || len(response.GetResources()) != 0 {
			s.t.Errorf("version %q, %d resources, want none", response.GetVersionInfo(), len(response.GetResources()))
		}
		return response
	}
	if len(response.GetResources()) != 1 || response.GetVersionInfo() != fmt.Sprint(generation) {
		s.t.Fatalf("version %q, %d resources, want %d and 1", response.GetVersionInfo(), len(response.GetResources()), generation)
	}
	checkSecret(s.t, response.GetResources()[0], generation)
	return response
}

// accept accepts the response.
func (s *stream) accept(response *discoveryv3.DiscoveryResponse) {
	s.t.Helper()
	s.request.VersionInfo = response.GetVersionInfo()
	s.send()
}

const quoted = "inline_bytes: QUOTED"

// reject rejects the last response, with what is in it, as Envoy does.
func (s *stream) reject() {
	s.t.Helper()
	s.request.ErrorDetail = &statuspb.Status{Code: int32(codes.InvalidArgument), Message: quoted}
	s.send()
}

func checkSecret(t *testing.T, resource *anypb.Any, generation uint64) {
	t.Helper()
	var secret tlsv3.Secret
	if err := resource.UnmarshalTo(&secret); err != nil {
		t.Fatal("not a secret") // err may quote keys
	}
	if err := secret.ValidateAll(); err != nil {
		t.Fatal("not a valid secret")
	}
	var got [][]byte
	for _, source := range secret.GetSessionTicketKeys().GetKeys() {
		got = append(got, source.GetInlineBytes())
	}
	if set := setOf(generation); len(got) != 4 || !bytes.Equal(got[0], record(generation, 0)) || !bytes.Equal(slices.Concat(got...), keys.Envoy.Append(nil, set)) {
		t.Errorf("%d keys, which are not those of generation %d with the current one first", len(got), generation)
	}
	if secret.GetName() != "ticket-keys" {
		t.Errorf("the name is %q", secret.GetName())
	}
}

// A stream gets each set, and what it answers is what Accepted says.
func TestStream(t *testing.T) {
	r := start(t, patience)
	s := r.subscribe("edge-7", "", SecretName) // before there is a secret
	r.offer(1)
	first := s.receive(1)
	r.await("has not accepted the keys yet")
	s.accept(first)
	r.await("")

	r.offer(2)
	s.receive(2)
	r.await("has not accepted the keys yet")
	s.reject() // it stays at version 1, and is not sent this one again
	r.await(`Envoy "edge-7" rejected the keys (InvalidArgument); its log says why`)
	if err := r.Accepted(); strings.Contains(err.Error(), quoted) {
		t.Error("the error has what Envoy says")
	}
	other := r.subscribe("edge-8", "", SecretName) // others still get it
	other.accept(other.receive(2))
	r.offer(3)
	other.accept(other.receive(3))
	s.accept(s.receive(3))
	r.await("")

	other.cancel()
	s.cancel()
	r.await("no Envoy is connected")
}

// A request that was sent before the last response arrived says nothing.
func TestStreamStaleNonce(t *testing.T) {
	r := start(t, patience)
	r.offer(1)
	s := r.subscribe("edge-7", "", SecretName)
	response := s.receive(1)
	for _, nonce := range []string{"", "0", "2", "x"} {
		s.request.ResponseNonce, s.request.ResourceNames = nonce, []string{"certificate"}
		s.reject()
	}
	s.request.ResponseNonce, s.request.ResourceNames = response.GetNonce(), []string{SecretName}
	s.accept(response)
	r.await("")
	s.reject() // it is answered already
	r.offer(2)
	s.accept(s.receive(2))
	r.await("")
}

// A client that comes back with the current version has it, and one with another gets it.
func TestStreamReconnect(t *testing.T) {
	r := start(t, patience)
	r.offer(7)
	s := r.subscribe("edge-7", "7", SecretName)
	r.await("")
	r.offer(8)
	s.accept(s.receive(8))
	for _, version := range []string{"7", "9", "x", ""} {
		r.subscribe("edge-8", version, SecretName).receive(8)
	}
	r.await("has not accepted")
}

// The names are those of the service's REST side.
func TestStreamNames(t *testing.T) {
	r := start(t, patience)
	r.offer(1)
	for _, names := range [][]string{nil, {SecretName}, {"*"}, {"certificate", SecretName, SecretName}} {
		s := r.subscribe("edge-7", "", names...)
		s.accept(s.receive(1))
		r.await("")
		s.cancel()
		r.await("no Envoy")
	}
	for _, name := range []string{"certificate", "", strings.Repeat("x", 1000)} {
		s := r.subscribe("edge-7", "1", name, "other")
		s.receive(0)
		r.await(`Envoy "edge-7" asks for the secret "` + short(name))
		s.reject() // as Envoy does
		r.offer(2)
		s.request.ResourceNames = []string{SecretName}
		s.send()
		s.accept(s.receive(2))
		r.await("")
		s.request.ResourceNames = []string{name}
		s.send()
		s.receive(0)
		s.cancel()
		r.await("no Envoy")
		r.offer(1)
	}
}

// A client that drops the secret gets no more, and gets it at once when it asks again.
func TestStreamUnsubscribe(t *testing.T) {
	r := start(t, patience)
	r.offer(1)
	s := r.subscribe("edge-7", "", SecretName)
	s.accept(s.receive(1))
	r.await("")
	s.request.ResourceNames = nil
	s.send()
	r.await("no Envoy is connected") // that wants the keys
	r.offer(2)
	r.offer(1)
	s.request.ResourceNames = []string{SecretName}
	s.send()
	s.accept(s.receive(1))
	r.await("")
}

// An Envoy that does not answer gets one response, and the newest when it answers.
func TestStreamSlow(t *testing.T) {
	r := start(t, time.Millisecond)
	s := r.subscribe("edge-7", "", SecretName)
	for generation := range uint64(1000) {
		r.offer(1 + generation)
		if generation == 0 {
			r.await("has not answered for 1ms") // so the first response is sent
		}
	}
	s.accept(s.receive(1))
	s.accept(s.receive(1000))
	r.await("")
}

// deltaStream is a subscription of an Envoy, delta.
type deltaStream struct {
	grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
	t      *testing.T
	cancel context.CancelFunc
}

func (r *running) subscribeDelta(versions map[string]string, names ...string) *deltaStream {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	r.t.Cleanup(cancel)
	client, err := r.client.DeltaSecrets(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	s := &deltaStream{client, r.t, cancel}
	s.send(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: "edge-7"}, TypeUrl: secretType, ResourceNamesSubscribe: names, InitialResourceVersions: versions,
	})
	return s
}

func (s *deltaStream) send(request *discoveryv3.DeltaDiscoveryRequest) {
	s.t.Helper()
	if err := request.ValidateAll(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.Send(request); err != nil {
		s.t.Fatal(err)
	}
}

// receive reads a response, which must have the secret of the generation, or no secret
// for 0, and these names as those of secrets that do not exist.
func (s *deltaStream) receive(generation uint64, removed ...string) (nonce string) {
	s.t.Helper()
	response, err := s.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := response.ValidateAll(); err != nil {
		s.t.Fatal(err)
	}
	if !slices.Equal(response.GetRemovedResources(), removed) || response.GetTypeUrl() != secretType || response.GetNonce() == "" {
		s.t.Errorf("removed %q, want %q; type %q, nonce %q", response.GetRemovedResources(), removed, response.GetTypeUrl(), response.GetNonce())
	}
	if generation == 0 {
		if len(response.GetResources()) != 0 {
			s.t.Error("there is a secret")
		}
		return response.GetNonce()
	}
	version := fmt.Sprint(generation)
	if len(response.GetResources()) != 1 || response.GetSystemVersionInfo() != version ||
		response.GetResources()[0].GetVersion() != version || response.GetResources()[0].GetName() != SecretName {
		s.t.Fatalf("version %q, %d resources, want %d and 1", response.GetSystemVersionInfo(), len(response.GetResources()), generation)
	}
	checkSecret(s.t, response.GetResources()[0].GetResource(), generation)
	return response.GetNonce()
}

func (s *deltaStream) accept(nonce string) {
	s.t.Helper()
	s.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResponseNonce: nonce})
}

func (s *deltaStream) reject(nonce string) {
	s.t.Helper()
	s.send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: secretType, ResponseNonce: nonce, ErrorDetail: &statuspb.Status{Code: 1000, Message: quoted},
	})
}

func TestDelta(t *testing.T) {
	r := start(t, patience)
	s := r.subscribeDelta(nil, SecretName)
	r.offer(1)
	nonce := s.receive(1)
	r.await("has not accepted the keys yet")
	s.reject("x") // no nonce of ours
	s.accept(nonce)
	r.await("")
	s.reject(nonce) // it is answered already

	r.offer(2)
	s.reject(s.receive(2))
	r.await(`Envoy "edge-7" rejected the keys (Code(1000)); its log says why`)
	r.offer(3)
	s.accept(s.receive(3))
	r.await("")

	s.send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{SecretName}})
	r.await("no Envoy is connected") // that wants the keys
	r.offer(4)
	r.offer(3)
	s.send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{SecretName}})
	s.accept(s.receive(3))
	r.await("")
	// A client that subscribes again may have dropped the secret.
	s.send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{SecretName}})
	s.accept(s.receive(3))
	r.await("")
}

// A client that comes back says which version it has.
func TestDeltaReconnect(t *testing.T) {
	r := start(t, patience)
	r.offer(7)
	s := r.subscribeDelta(map[string]string{SecretName: "7", "other": "1"}, SecretName)
	r.await("")
	r.offer(8)
	s.accept(s.receive(8))
	r.await("")
	r.subscribeDelta(map[string]string{SecretName: "7"}, SecretName).receive(8)
	r.subscribeDelta(map[string]string{"other": "8"}, SecretName).receive(8)
}

func TestDeltaNames(t *testing.T) {
	r := start(t, patience)
	r.offer(1)
	for _, names := range [][]string{nil, {"*"}, {"*", SecretName}} {
		s := r.subscribeDelta(nil, names...)
		s.accept(s.receive(1))
		r.await("")
		if len(names) == 2 {
			// All are asked for, so the client is told that the secret still exists.
			s.send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{SecretName}})
			s.accept(s.receive(1))
			r.await("")
		}
		s.send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{"*"}})
		r.await("no Envoy is connected")
		s.cancel()
	}

	s := r.subscribeDelta(nil, "certificate", "", SecretName)
	s.accept(s.receive(1, "certificate", ""))
	r.await("")
	s.cancel()
	s = r.subscribeDelta(nil, "certificate")
	nonce := s.receive(0, "certificate")
	r.await(`Envoy "edge-7" asks for the secret "certificate"; the only one is ticket-keys`)
	s.send(&discoveryv3.DeltaDiscoveryRequest{
		ResponseNonce: nonce, ResourceNamesUnsubscribe: []string{"certificate"}, ResourceNamesSubscribe: []string{SecretName},
	})
	s.accept(s.receive(1))
	r.await("")

	// What is asked for and not answered is limited.
	names := make([]string, maxUnknown+1)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	_, err := r.subscribeDelta(nil, names...).Recv()
	wantCode(t, err, codes.InvalidArgument)
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%v, want %v", err, want)
	}
}

func TestRefused(t *testing.T) {
	r := start(t, patience)
	r.offer(1)
	const cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	s := r.subscribe("edge-7", "", SecretName)
	s.receive(1)
	s.request.TypeUrl = cluster
	s.send()
	_, err := s.Recv()
	wantCode(t, err, codes.InvalidArgument)
	d := r.subscribeDelta(nil, SecretName)
	d.receive(1)
	d.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: cluster})
	_, err = d.Recv()
	wantCode(t, err, codes.InvalidArgument)

	_, err = r.client.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{})
	wantCode(t, err, codes.Unimplemented)

	_, err = r.subscribe(strings.Repeat("x", maxRequest), "", SecretName).Recv()
	wantCode(t, err, codes.ResourceExhausted)
	// Without a type, it is that of the service. A node may be missing, or large.
	s = r.subscribe(strings.Repeat("\x1b", maxRequest/2), "")
	s.request.TypeUrl = ""
	s.accept(s.receive(1))
	r.await("")
	r.offer(2)
	s.receive(2)
	s.reject()
	r.await(strings.Repeat("\uFFFD", maxName) + `…" rejected`)
}

func TestStreamLimit(t *testing.T) {
	r := start(t, patience)
	r.offer(1)
	for range maxStreams {
		r.subscribe("edge-7", "", SecretName).receive(1)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := r.client.StreamSecrets(ctx)
	wantCode(t, err, codes.DeadlineExceeded)
}

// Close ends in time, whatever the clients do, and leaves no socket.
func TestClose(t *testing.T) {
	r := start(t, patience)
	r.offer(1)
	s := r.subscribe("edge-7", "", SecretName)
	s.receive(1)
	silent, err := net.Dial("unix", r.config.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	secret := r.secret
	r.Close()
	_, err = s.Recv()
	wantCode(t, err, codes.Unavailable)
	if _, err := os.Lstat(r.config.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if bytes.ContainsFunc(secret, func(r rune) bool { return r != 0 }) {
		t.Error("the secret is not wiped")
	}
	r.Server = nil
}

func TestReachable(t *testing.T) {
	r := start(t, patience)
	if _, err := Listen(r.config); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second server: %v", err)
	}
	if !r.Reachable() {
		t.Error("not reachable")
	}
	if err := os.Remove(r.config.Socket); err != nil {
		t.Fatal(err)
	}
	if r.Reachable() {
		t.Error("reachable without the socket")
	}
	second, err := Listen(r.config)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	r.Close()
	r.Server = nil
	if !second.Reachable() {
		t.Error("the first server removed the socket of the second")
	}
}

// A response is wiped once it is written, whatever its size.
func TestWipingCodec(t *testing.T) {
	for _, size := range []int{0, 100, 10_000} {
		data, err := wipingCodec{}.Marshal(&anypb.Any{Value: bytes.Repeat([]byte{1}, size)})
		if err != nil || len(data) != 1 {
			t.Fatal(len(data), err)
		}
		written := data[0].ReadOnlyData()
		if bytes.Count(written, []byte{1}) != size {
			t.Error("not the message")
		}
		data.Free()
		if bytes.ContainsRune(written, 1) {
			t.Errorf("%d bytes are not wiped", size)
		}
	}
}
