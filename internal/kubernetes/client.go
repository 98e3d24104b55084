// Package kubernetes reads and applies the entries of a Secret or a ConfigMap, through the
// API server of a Kubernetes cluster.
//
// [Client.Apply] is a server-side apply: the API server knows which field manager owns
// which entry, so that the entries of others stay as they are, and entries that are no
// longer applied go away. Files with credentials are read for each use. Redirects are not
// followed, and no proxy is used.
package kubernetes

import (
	"bytes"
	"cmp"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/printable"
)

// maxAnswer is more than the largest object that etcd stores, in bytes.
const maxAnswer = 4 << 20

// Kind is a kind of object that has entries.
type Kind struct {
	name   string
	plural string // in paths
}

// The kinds.
var (
	Secret    = Kind{"Secret", "secrets"}
	ConfigMap = Kind{"ConfigMap", "configmaps"}
)

// Reference names an object.
type Reference struct {
	Kind            Kind
	Namespace, Name string
}

// String returns KIND NAMESPACE/NAME.
func (r Reference) String() string { return r.Kind.name + " " + r.Namespace + "/" + r.Name }

func (r Reference) path() string {
	return "/api/v1/namespaces/" + url.PathEscape(r.Namespace) + "/" + r.Kind.plural + "/" + url.PathEscape(r.Name)
}

// Entry is an entry of an object. The object has its content in base64: a Secret because
// all its entries are encoded so, a ConfigMap because it has only text.
type Entry struct {
	Name    string
	Content []byte
}

// Object is an object as the API server has it.
type Object struct {
	version     string
	annotations map[string]string
	data        map[string]json.RawMessage
	managers    []manager
}

// manager owns fields of an object.
type manager struct {
	Name      string `json:"manager"`
	Operation string
	Fields    struct {
		Data map[string]json.RawMessage `json:"f:data"`
	} `json:"fieldsV1"`
}

// apply is the operation of a manager that owns fields by server-side apply.
const apply = "Apply"

// Annotation returns the value of an annotation; "" for none.
func (o *Object) Annotation(name string) string { return o.annotations[name] }

// Has reports whether the object has the entry.
func (o *Object) Has(e Entry) bool {
	text := bytes.Trim(o.data[e.Name], `"`)
	content, err := base64.StdEncoding.AppendDecode(make([]byte, 0, base64.StdEncoding.DecodedLen(len(text))), text)
	defer clear(content)
	return err == nil && o.data[e.Name] != nil && subtle.ConstantTimeCompare(content, e.Content) == 1
}

// Applied returns the names of the entries that the field manager owns by server-side
// apply, in order.
func (o *Object) Applied(fieldManager string) []string {
	var names []string
	for _, m := range o.managers {
		if m.Name == fieldManager && m.Operation == apply {
			for field := range m.Fields.Data {
				if name, ok := strings.CutPrefix(field, "f:"); ok {
					names = append(names, name)
				}
			}
		}
	}
	slices.Sort(names)
	return names
}

// Appliers returns the field managers that own the entry by server-side apply.
func (o *Object) Appliers(entry string) []string {
	var names []string
	for _, m := range o.managers {
		if _, owns := m.Fields.Data["f:"+entry]; owns && m.Operation == apply {
			names = append(names, m.Name)
		}
	}
	return names
}

// Version is what [Client.Apply] needs to change this state of the object and no later
// one. That of no object is "".
func (o *Object) Version() string {
	if o == nil {
		return ""
	}
	return o.version
}

// Wipe wipes the entries.
func (o *Object) Wipe() {
	if o == nil {
		return
	}
	for _, value := range o.data {
		clear(value)
	}
}

// Client makes requests to an API server. It is safe for concurrent use.
type Client struct {
	config *Config
	http   *http.Client
}

// New returns a client whose requests, and the connections for them, have this time limit.
// It makes no request.
func New(c *Config, timeout time.Duration) *Client {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		config, err := c.tls()
		if err != nil {
			return nil, err
		}
		// net/http does not cancel dialing with the request.
		return (&tls.Dialer{NetDialer: &net.Dialer{Timeout: timeout}, Config: config}).DialContext(ctx, network, address)
	}
	return &Client{c, &http.Client{
		Timeout: timeout,
		// Keys go to the server that was named, and to no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DialTLSContext: dial, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 1, MaxResponseHeaderBytes: 16 << 10},
	}}
}

// Get returns the object, which the caller must wipe, or nil if there is none.
func (c *Client) Get(ctx context.Context, r Reference) (*Object, error) {
	answer, err := c.do(ctx, http.MethodGet, r.path(), "application/json", nil)
	defer clear(answer)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseObject(answer)
}

func parseObject(answer []byte) (*Object, error) {
	var o struct {
		Metadata struct {
			ResourceVersion string
			Annotations     map[string]string
			ManagedFields   []manager
		}
		Data map[string]json.RawMessage
	}
	if err := json.Unmarshal(answer, &o); err != nil { // the error may repeat a value
		return nil, errors.New("the answer of the API server is not an object of Kubernetes")
	}
	return &Object{o.Metadata.ResourceVersion, o.Metadata.Annotations, o.Data, o.Metadata.ManagedFields}, nil
}

// Apply makes the field manager own exactly these entries and annotations, whatever other
// managers own, or creates the object with them. With a version, the error is a conflict
// if the object has another one.
func (c *Client) Apply(ctx context.Context, r Reference, fieldManager, version string, annotations map[string]string, entries []Entry) error {
	body := marshal(r, version, annotations, entries)
	defer clear(body)
	query := url.Values{"fieldManager": {fieldManager}, "force": {"true"}, "fieldValidation": {"Strict"}}
	// The answer is to have no entries.
	answer, err := c.do(ctx, http.MethodPatch, r.path()+"?"+query.Encode(), "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", body)
	clear(answer)
	return err
}

// marshal returns an object as JSON. encoding/json would leave copies of the secrets in its
// buffers.
func marshal(r Reference, version string, annotations map[string]string, entries []Entry) []byte {
	quote := func(text string) string {
		quoted, _ := json.Marshal(text) // never fails for a string
		return string(quoted)
	}
	head := `{"apiVersion":"v1","kind":` + quote(r.Kind.name) + `,"metadata":{"name":` + quote(r.Name) + `,"namespace":` + quote(r.Namespace)
	if version != "" {
		head += `,"resourceVersion":` + quote(version)
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		pairs = append(pairs, quote(name)+":"+quote(annotations[name]))
	}
	head += `,"annotations":{` + strings.Join(pairs, ",") + `}},"data":{`
	size := len(head) + 2
	for _, e := range entries {
		size += len(quote(e.Name)) + base64.StdEncoding.EncodedLen(len(e.Content)) + len(`:"",`)
	}
	body := append(make([]byte, 0, size), head...)
	for i, e := range entries {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(append(body, quote(e.Name)...), `:"`...)
		body = append(base64.StdEncoding.AppendEncode(body, e.Content), '"')
	}
	return append(body, "}}"...)
}

// do makes a request and returns the answer, which the caller wipes.
func (c *Client) do(ctx context.Context, method, path, accept string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.config.Server+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	token, err := c.config.bearer()
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	request.Header.Set("Accept", accept)
	request.Header.Set("User-Agent", "sessapi")
	if body != nil {
		request.Header.Set("Content-Type", "application/apply-patch+yaml")
	}
	response, err := c.http.Do(request)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // which does not repeat the path
		}
		return nil, fmt.Errorf("API server %s: %w", c.config.Server, c.config.explainTLS(err))
	}
	defer response.Body.Close()
	answer, err := files.ReadAll(response.Body, 64<<10, maxAnswer)
	switch {
	case err != nil:
		return nil, fmt.Errorf("API server %s: %w", c.config.Server, err)
	case response.StatusCode == http.StatusOK, response.StatusCode == http.StatusCreated:
		return answer, nil
	case response.StatusCode == http.StatusUnauthorized:
		c.http.CloseIdleConnections() // the next has the client certificate as it is then
	}
	defer clear(answer)
	return nil, parseError(response, answer)
}

// Error is an answer of the API server other than success.
type Error struct {
	Code       int           // of HTTP
	Message    string        // of the API server, safe to print
	RetryAfter time.Duration // 0 for none
}

func parseError(response *http.Response, answer []byte) *Error {
	var status struct{ Message string }
	_ = json.Unmarshal(answer, &status) // a proxy may have answered
	e := &Error{Code: response.StatusCode, Message: printable.Short(cmp.Or(status.Message, http.StatusText(response.StatusCode), "no reason given"))}
	if seconds, err := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 16); err == nil {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}

// Conflict reports whether the object had another version.
func (e *Error) Conflict() bool { return e.Code == http.StatusConflict }

// Error says what to do about the most frequent answers.
func (e *Error) Error() string {
	switch e.Code {
	case http.StatusUnauthorized:
		return "the API server does not accept the credentials (401); they may have expired, or be for another cluster"
	case http.StatusForbidden:
		return "the API server does not allow it (403): " + e.Message
	case http.StatusTooManyRequests:
		return "the API server is busy (429): " + e.Message
	}
	return fmt.Sprintf("the API server answers %d: %s", e.Code, e.Message)
}
