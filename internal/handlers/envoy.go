package handlers

import (
	"cmp"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/keys"
)

const (
	// maxDiscoveryBody is for the node of a request: it lists the extensions that are
	// compiled into Envoy, 100 KiB of JSON, and has whatever metadata the operator
	// gives it.
	maxDiscoveryBody = 1 << 20
	// maxDiscoveryToken bounds what is held of the body at a time, in bytes: nothing
	// that is read takes that much, and what is skipped may not either.
	maxDiscoveryToken = 16 << 10

	secretTypeURL = string(api.TypeGoogleapisComEnvoyExtensionsTransportSocketsTLSV3Secret)
	secretName    = string(api.SecretNameTicketKeys)
	secretKeySize = 80 // in bytes; "Each key must contain exactly 80 bytes" (common.proto of tls.v3)
)

// FetchSecrets implements [api.ServerInterface], for Envoy's REST subscription. What
// that does is in source/extensions/config_subscription/rest/http_subscription_impl.cc
// and rest_api_fetcher.cc of github.com/envoyproxy/envoy:
//
//   - It sends the node and the version_info of the last answer that it accepted, and
//     never an error_detail: after an answer that it rejected, it asks with the version
//     before. Answering at once is right then, for it comes back at its own pace.
//   - The next request is sent one to two refresh_delay after each answer, whatever that
//     was. So a request that is held costs nothing, and the keys arrive sooner.
//   - 304 changes nothing. 200 is applied, and is the version from then on; the secret
//     is compared by its hash, so that the same one again does no harm. Other statuses,
//     and no answer in request_timeout (1 s by default), count as update_failure and are
//     logged; the secret stays.
//   - Its requests have x-envoy-expected-rq-timeout-ms, with the request_timeout: the
//     client is built on the router (source/common/http/async_client_impl.cc), which does
//     not suppress Envoy's headers.
//   - An answer without resources is rejected, and the log says "Missing SDS resources
//     for NAME" (source/common/secret/sds_api.cc): what is wanted for a wrong name.
func (a *API) FetchSecrets(w http.ResponseWriter, r *http.Request, params api.FetchSecretsParams) {
	if err := a.fetchSecrets(w, r, params); err != nil {
		a.fail(w, r, err)
	}
}

func (a *API) fetchSecrets(w http.ResponseWriter, r *http.Request, params api.FetchSecretsParams) error {
	if _, err := bodyType(r, mediaJSON); err != nil {
		return err
	}
	if _, err := negotiate(r, mediaJSON); err != nil {
		return err
	}
	request, err := readDiscovery(w, r)
	if err == nil {
		err = a.permitAgain(r, permitKeySecrets) // the body may have taken its time
	}
	if err != nil {
		return err
	}
	if !request.wantsKeys() {
		// Without a version: a client that asks for the keys next must not be told that
		// it has them.
		if err := a.admit(w); err != nil {
			return err
		}
		noStore(w)
		writeJSON(w, http.StatusOK, api.DiscoveryResponse{
			TypeURL: cmp.Or(request.TypeURL, secretTypeURL), Resources: []api.Secret{},
		})
		return nil
	}
	has := func(generation uint64) bool { return request.VersionInfo == strconv.FormatUint(generation, 10) }
	a.whenChanged(w, r, has, discoveryWait(params), permitKeySecrets, func(w http.ResponseWriter, r *http.Request) {
		set, description := a.cfg.Ring.Snapshot()
		defer set.Wipe()
		a.logRejection(r, request, description.Generation)
		if has(description.Generation) {
			noStore(w)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if err := a.recordExport(w, r, keys.Envoy, description); err != nil {
			a.fail(w, r, err)
			return
		}
		body := appendDiscoveryResponse(nil, description.Generation, set)
		defer clear(body)
		noStore(w)
		writeBody(w, http.StatusOK, body)
	})
	return nil
}

// discoveryWait is how long the request may be held: for half of the time that Envoy
// gives it, so that the answer is there before Envoy gives it up.
func discoveryWait(params api.FetchSecretsParams) time.Duration {
	if params.XEnvoyExpectedRqTimeoutMs == nil {
		return 0
	}
	return time.Duration(min(*params.XEnvoyExpectedRqTimeoutMs/2, maxWait.Milliseconds())) * time.Millisecond
}

// logRejection logs that a client rejected the keys, once in a generation. Its message
// is not logged: an error of Envoy quotes the message that does not validate, keys
// included (ProtoExceptionUtil in source/common/protobuf/utility.cc).
func (a *API) logRejection(r *http.Request, request *discovery, generation uint64) {
	if request.ErrorDetail != nil && a.rejected.Swap(generation) != generation {
		a.cfg.Log.WarnContext(r.Context(), "an Envoy rejected the ticket keys; its log says why",
			"generation", generation, "code", request.ErrorDetail.Code, "remote", r.RemoteAddr)
	}
}

// discovery is what counts of a DiscoveryRequest. In the JSON of Protocol Buffers a
// name is in snake_case, as Envoy has it, or in camelCase, and null stands for no value.
type discovery struct {
	VersionInfo   string      `json:"version_info,case:ignore"`
	ResourceNames secretNames `json:"resource_names,case:ignore"`
	TypeURL       string      `json:"type_url,case:ignore"`
	ErrorDetail   *struct {
		Code int32 `json:"code"`
	} `json:"error_detail,case:ignore"`
}

func (d *discovery) wantsKeys() bool {
	return (d.TypeURL == "" || d.TypeURL == secretTypeURL) && (d.ResourceNames.ours || !d.ResourceNames.others)
}

// secretNames is whether names of a list are ours: a list of many would take memory.
type secretNames struct{ ours, others bool }

// UnmarshalJSONFrom implements [json.UnmarshalerFrom].
func (n *secretNames) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	list, err := d.ReadToken()
	if err != nil || list.Kind() == 'n' {
		return err
	}
	if list.Kind() != '[' {
		return errors.New("is not a list")
	}
	for {
		name, err := d.ReadToken()
		switch {
		case err != nil || name.Kind() == ']':
			return err
		case name.Kind() != '"':
			return errors.New("is not a string")
		case name.String() == secretName || name.String() == "*":
			n.ours = true
		default:
			n.others = true
		}
	}
}

// readDiscovery reads the request's body to its end.
func readDiscovery(w http.ResponseWriter, r *http.Request) (*discovery, error) {
	body := &discoveryBody{Reader: r.Body}
	// Names of the metadata may repeat: to know them all would take memory.
	body.decoder = jsontext.NewDecoder(body, jsontext.AllowDuplicateNames(true))
	var request discovery
	err := json.UnmarshalDecode(body.decoder, &request)
	if err == nil {
		if _, err = body.decoder.ReadToken(); errors.Is(err, io.EOF) {
			return &request, nil
		}
		err = cmp.Or(err, error(invalidRequest("Something follows the JSON body.")))
	}
	if problem, ok := errors.AsType[*problem](err); ok {
		closeConnection(w, r) // the rest of the body is not read
		return nil, problem
	}
	return nil, jsonProblem(err)
}

// discoveryBody bounds a body and how much of it the decoder holds.
type discoveryBody struct {
	io.Reader
	decoder *jsontext.Decoder
	read    int64 // in bytes
}

var errDiscoveryTooLarge = invalidRequest("The body is larger than %d bytes, or a string in it is larger than %d.", maxDiscoveryBody, maxDiscoveryToken)

// Read implements [io.Reader].
func (b *discoveryBody) Read(p []byte) (int, error) {
	if b.read > maxDiscoveryBody || b.read-b.decoder.InputOffset() > maxDiscoveryToken {
		return 0, errDiscoveryTooLarge
	}
	n, err := b.Reader.Read(p)
	b.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = bodyProblem(err)
	}
	return n, err
}

// appendDiscoveryResponse appends a DiscoveryResponse with the set as its secret, which
// the caller must wipe. An encoder would leave keys in its buffers.
func appendDiscoveryResponse(dst []byte, generation uint64, set keys.Set) []byte {
	const (
		beforeKey, afterKey = `{"inline_bytes":"`, `"},`
		perKey              = len(beforeKey) + (secretKeySize+2)/3*4 + len(afterKey)
		frame               = 512 // more than everything else takes
	)
	records := keys.Envoy.Append(nil, set)
	defer clear(records)
	dst = slices.Grow(dst, frame+perKey*len(records)/secretKeySize) // growing it later would leave copies behind
	dst = append(dst, `{"version_info":"`...)
	dst = strconv.AppendUint(dst, generation, 10)
	dst = append(dst, `","type_url":"`+secretTypeURL+`","resources":[{"@type":"`+secretTypeURL+`","name":"`+secretName+`","session_ticket_keys":{"keys":[`...)
	for record := range slices.Chunk(records, secretKeySize) {
		dst = append(dst, beforeKey...)
		dst = base64.StdEncoding.AppendEncode(dst, record)
		dst = append(dst, afterKey...)
	}
	return append(dst[:len(dst)-len(",")], "]}}]}\n"...)
}
