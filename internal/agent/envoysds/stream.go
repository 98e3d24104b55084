package envoysds

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/sessapi/sessapi/internal/printable"
)

const (
	wildcard = "*" // a name that stands for all secrets
	// maxUnknown is how many secrets that there are not a delta stream may ask for at
	// a time.
	maxUnknown = 64
	// maxName is how much of a name from outside is shown, in bytes.
	maxName = 64
)

// subscriber is the state of a stream. The server's mutex guards it.
type subscriber struct {
	node  string // ID of the Envoy; "" if it has none
	begun bool   // there was a request

	named    bool // it asks for the secret by its name
	all      bool // it asks for all secrets
	anyNames bool // state of the world: there was a request with names
	// misnamed means that it asks for a secret that does not exist, such as other.
	misnamed bool
	other    string
	// unknown are the names that the next response says do not exist.
	unknown []string

	held, rejected, sent uint64 // generations; 0 for none
	code                 codes.Code
	nonce                uint64    // of the last response; 0 before the first
	unanswered           time.Time // since when that is; zero if it is answered
}

func (u *subscriber) wanted() bool { return u.named || u.all }

// name is the Envoy, for people.
func (u *subscriber) name() string {
	if u.node == "" {
		return "an Envoy without a node ID"
	}
	return "Envoy " + strconv.Quote(u.node)
}

// short makes a name from outside fit to be kept and shown.
func short(name string) string {
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "") + "…"
	}
	return strings.Clone(printable.Text(name)) // not what it was part of
}

// forget makes the secret due again when it is asked for.
func (u *subscriber) forget() { u.held, u.rejected = 0, 0 }

// begin notes what only the first request of a stream has.
func (u *subscriber) begin(node *corev3.Node, version string) {
	u.begun, u.node = true, short(node.GetId())
	u.held, _ = strconv.ParseUint(version, 10, 64) // else it is not one of ours
}

// answer notes the answer to the last response.
func (u *subscriber) answer(failure *statuspb.Status) {
	u.unanswered = time.Time{}
	switch {
	case u.sent == 0: // there was no secret in it
	case failure != nil:
		u.rejected, u.code = u.sent, codes.Code(max(failure.GetCode(), 0))
	default:
		u.held = u.sent
	}
}

// answers reports whether a nonce is that of the last response.
func (u *subscriber) answers(nonce string) bool { return nonce == strconv.FormatUint(u.nonce, 10) }

// StreamSecrets is part of the generated interface: state of the world.
func (s *Server) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	return serve(stream.Context(), s, stream.Recv, (*subscriber).take, func(r *response) error {
		answer := &discoveryv3.DiscoveryResponse{TypeUrl: secretType, Nonce: r.nonce}
		// Without the secret there is no version: a client that asks for the secret
		// next would seem to have it.
		if r.secret != nil {
			answer.VersionInfo = r.version
			answer.Resources = []*anypb.Any{{TypeUrl: secretType, Value: r.secret}}
		}
		return stream.Send(answer)
	})
}

// take notes a request.
func (u *subscriber) take(r *discoveryv3.DiscoveryRequest) error {
	if err := checkType(r.GetTypeUrl()); err != nil {
		return err
	}
	switch {
	case !u.begun:
		u.begin(r.GetNode(), r.GetVersionInfo())
	case u.nonce != 0 && !u.answers(r.GetResponseNonce()):
		return nil // it was sent before the last response arrived; another follows
	case !u.unanswered.IsZero():
		u.answer(r.GetErrorDetail())
	}
	names := r.GetResourceNames()
	u.anyNames = u.anyNames || len(names) > 0
	u.named, u.all = slices.Contains(names, SecretName), !u.anyNames || slices.Contains(names, wildcard)
	before := u.misnamed
	if u.misnamed = !u.wanted() && len(names) > 0; u.misnamed {
		u.other = short(names[0])
	}
	if u.misnamed && !before {
		u.unknown = []string{u.other} // Envoy rejects the response, and logs the name
	}
	if !u.wanted() {
		u.forget()
	}
	return nil
}

// DeltaSecrets is part of the generated interface: delta.
func (s *Server) DeltaSecrets(stream secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	return serve(stream.Context(), s, stream.Recv, (*subscriber).takeDelta, func(r *response) error {
		answer := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: secretType, Nonce: r.nonce, RemovedResources: r.unknown}
		if r.secret != nil {
			answer.SystemVersionInfo = r.version
			answer.Resources = []*discoveryv3.Resource{{Name: SecretName, Version: r.version, Resource: &anypb.Any{TypeUrl: secretType, Value: r.secret}}}
		}
		return stream.Send(answer)
	})
}

// takeDelta notes a request.
func (u *subscriber) takeDelta(r *discoveryv3.DeltaDiscoveryRequest) error {
	if err := checkType(r.GetTypeUrl()); err != nil {
		return err
	}
	first := !u.begun
	if first {
		u.begin(r.GetNode(), r.GetInitialResourceVersions()[SecretName])
		u.all = len(r.GetResourceNamesSubscribe()) == 0
	} else if !u.unanswered.IsZero() && u.answers(r.GetResponseNonce()) {
		u.answer(r.GetErrorDetail())
	}
	for _, name := range r.GetResourceNamesUnsubscribe() {
		switch name {
		case wildcard:
			u.all = false
		case SecretName:
			u.named = false
			u.forget() // if all are asked for, the client is told that it still exists
		}
		u.misnamed = u.misnamed && short(name) != u.other
		u.unknown = slices.DeleteFunc(u.unknown, func(unknown string) bool { return unknown == name })
	}
	for _, name := range r.GetResourceNamesSubscribe() {
		switch name {
		case wildcard:
			u.all = true
		case SecretName:
			if u.named = true; !first {
				u.forget() // the client may have dropped the secret
			}
		default:
			if len(u.unknown) == maxUnknown {
				return status.Errorf(codes.InvalidArgument, "more than %d secrets that do not exist; there is %s", maxUnknown, SecretName)
			}
			u.unknown = append(u.unknown, name)
			u.misnamed, u.other = true, short(name)
		}
	}
	if !u.wanted() {
		u.forget()
	}
	return nil
}

func checkType(url string) error {
	if url != "" && url != secretType {
		return status.Errorf(codes.InvalidArgument, "the type is not %s", secretType)
	}
	return nil
}

// response is what a subscriber is to be sent.
type response struct {
	nonce   string
	version string
	secret  []byte // nil for none; a copy, which the caller wipes
	unknown []string
}

// next returns the response that is due, or nil, and a channel that is closed when the
// secret changes.
func (s *Server) next(u *subscriber) (*response, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := u.begun && u.wanted() && s.generation != 0 && u.held != s.generation && u.rejected != s.generation
	if !u.unanswered.IsZero() || !due && len(u.unknown) == 0 {
		return nil, s.updated
	}
	u.nonce++
	r := &response{nonce: strconv.FormatUint(u.nonce, 10), unknown: u.unknown}
	u.sent, u.unknown, u.unanswered = 0, nil, time.Now()
	if due {
		r.version, r.secret, u.sent = strconv.FormatUint(s.generation, 10), bytes.Clone(s.secret), s.generation
	}
	return r, s.updated
}

// serve answers the requests of a stream until it ends.
func serve[Request any](ctx context.Context, s *Server, receive func() (Request, error), take func(*subscriber, Request) error, send func(*response) error) error {
	u := &subscriber{}
	s.update(func() { s.subscribers = append(s.subscribers, u) })
	defer s.update(func() {
		s.subscribers = slices.DeleteFunc(s.subscribers, func(other *subscriber) bool { return other == u })
	})
	requests := make(chan Request)
	var ended error       // why there are no more requests
	s.running.Go(func() { // until the stream ends: receive returns then
		defer close(requests)
		for {
			var request Request
			if request, ended = receive(); ended != nil {
				return
			}
			select {
			case requests <- request:
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		r, updated := s.next(u)
		if r != nil {
			err := send(r)
			clear(r.secret)
			if err != nil {
				return err
			}
			continue
		}
		select {
		case <-s.closing:
			return status.Error(codes.Unavailable, "the agent stops")
		case request, ok := <-requests:
			if !ok && errors.Is(ended, io.EOF) {
				return nil
			}
			if !ok {
				return ended
			}
			var err error
			s.update(func() { err = take(u, request) })
			if err != nil {
				return err
			}
		case <-updated:
		}
	}
}

// update changes the state of subscribers.
func (s *Server) update(change func()) {
	s.mu.Lock()
	change()
	s.mu.Unlock()
	s.changed()
}
