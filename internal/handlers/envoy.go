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
	// maxDiscoveryBody leaves room for the node in a request: it lists the extensions
	// that are compiled into Envoy, 100 KiB of JSON, and has any metadata that the
	// operator adds.
	maxDiscoveryBody = 1 << 20
	// maxDiscoveryToken limits the bytes of the body that are held at one time. A
	// longer JSON token is rejected, even if its value would be skipped.
	maxDiscoveryToken = 16 << 10

	secretTypeURL = string(api.TypeGoogleapisComEnvoyExtensionsTransportSocketsTLSV3Secret)
	secretName    = string(api.SecretNameTicketKeys)
	secretKeySize = 80 // in bytes; "Each key must contain exactly 80 bytes" (common.proto of tls.v3)
)

// FetchSecrets implements [api.ServerInterface] for Envoy's REST subscription. Envoy
// behaves as follows
// (source/extensions/config_subscription/rest/http_subscription_impl.cc and
// rest_api_fetcher.cc of github.com/envoyproxy/envoy):
//
//   - A request carries the node and the version_info of the last accepted response,
//     never an error_detail. After Envoy rejects a response, it sends the previous
//     version. The service answers at once then, because Envoy polls at its own pace.
//   - Envoy sends the next request one to two refresh_delay after each response,
//     whatever its status. So holding a request costs nothing, and the keys arrive
//     sooner.
//   - 304 changes nothing. 200 is applied and sets the version. Envoy compares secrets
//     by hash, so the same secret again does no harm. Other statuses, and no response
//     within request_timeout (1 s by default), count as update_failure and are logged;
//     Envoy keeps the secret.
//   - Requests carry x-envoy-expected-rq-timeout-ms with the request_timeout: the
//     client is built on the router (source/common/http/async_client_impl.cc), which
//     does not suppress Envoy's headers.
//   - Envoy rejects a response without resources, and logs "Missing SDS resources for
//     NAME" (source/common/secret/sds_api.cc). This is right for a wrong name.
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
		_, err = a.permitAgain(r, permitKeySecrets) // the body may have taken long to arrive
	}
	if err != nil {
		return err
	}
	if !request.wantsKeys() {
		// Send no version: a client that asks for the keys next would seem to have
		// them.
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

// discoveryWait returns how long the request may be held: half of Envoy's timeout, so
// that the response arrives before Envoy gives up.
func discoveryWait(params api.FetchSecretsParams) time.Duration {
	if params.XEnvoyExpectedRqTimeoutMs == nil {
		return 0
	}
	return time.Duration(min(*params.XEnvoyExpectedRqTimeoutMs/2, maxWait.Milliseconds())) * time.Millisecond
}

// logRejection logs that a client rejected the keys, once per generation. It does not
// log the client's message: Envoy's errors quote the message that does not validate,
// keys included (ProtoExceptionUtil in source/common/protobuf/utility.cc).
func (a *API) logRejection(r *http.Request, request *discovery, generation uint64) {
	if request.ErrorDetail != nil && a.rejected.Swap(generation) != generation {
		a.cfg.Log.WarnContext(r.Context(), "an Envoy rejected the ticket keys; its log says why",
			"generation", generation, "code", request.ErrorDetail.Code, "remote", r.RemoteAddr)
	}
}

// discovery is the part of a DiscoveryRequest that the service uses. In the JSON of
// Protocol Buffers, names are in snake_case, as Envoy sends them, or in camelCase, and
// null means no value.
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

// secretNames says whether a list has our name, and others. Keeping a long list would
// take memory.
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

// readDiscovery reads the request body to its end.
func readDiscovery(w http.ResponseWriter, r *http.Request) (*discovery, error) {
	body := &discoveryBody{Reader: r.Body}
	// Detecting repeated names in the metadata would take memory.
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

// discoveryBody limits a body and how much of it the decoder holds.
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

// appendDiscoveryResponse appends a DiscoveryResponse with the set as its secret. The
// caller must wipe it. A JSON encoder would leave keys in its buffers.
func appendDiscoveryResponse(dst []byte, generation uint64, set keys.Set) []byte {
	const (
		beforeKey, afterKey = `{"inline_bytes":"`, `"},`
		perKey              = len(beforeKey) + (secretKeySize+2)/3*4 + len(afterKey)
		frame               = 512 // more than everything but the keys takes
	)
	records := keys.Envoy.Append(nil, set)
	defer clear(records)
	dst = slices.Grow(dst, frame+perKey*len(records)/secretKeySize) // growing it later would leave copies of keys behind
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
