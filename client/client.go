// Package client is the client of a sessapi service. It describes, fetches, pushes,
// rotates and revokes session ticket keys, and follows their changes. It lists, describes,
// fetches, stores and removes TLS sessions.
//
// With one line, a Go server resumes the sessions of all other servers of its fleet. Either
// they share the ticket keys, and a ticket holds its session, for a server that listens
// with tls.Listen:
//
//	go c.FollowTicketKeys(ctx, config)
//
// or they share the sessions, and a ticket is the ID of one:
//
//	c.ShareSessions(ctx, config)
//
// # Guarantees
//
//   - Answers are checked against the contract before they are used. The text of an
//     [*Error] is short and has no control characters.
//   - Every request ends: with its context, or with a timeout. No answer takes more
//     memory than a set of keys or a page of sessions needs.
//   - Functions that follow the keys run until their context ends. If the service does
//     not answer, or sends invalid keys, the last keys stay in use.
//   - Errors and logs hold no secrets. The package wipes its buffers of secrets; it cannot
//     wipe those of net/http.
//
// If the service answers with an error, the error is an [*Error].
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/printable"
)

const (
	// requestTimeout is for an answer that the service has at hand.
	requestTimeout = 15 * time.Second
	// maxBody is more than a set of 64 keys needs in any format, and more than
	// its description needs: that has about 300 bytes a key.
	maxBody = 64 << 10
	// maxHeader bounds the header of an answer, in bytes.
	maxHeader = 16 << 10
	// maxToken bounds a file with a token, in bytes.
	maxToken = 4 << 10
)

// TicketKeys describes a set of ticket keys: current, next, previous from the
// newest on. It holds no secret.
type TicketKeys = api.TicketKeys

// TicketKey describes one key of a set.
type TicketKey = api.TicketKey

// TicketKeyRole is what a key of a set is for: current, next or previous.
type TicketKeyRole = api.TicketKeyRole

// TicketKeyBits is the size of a key's secrets: 128 or 256.
type TicketKeyBits = api.TicketKeyBits

// TicketKeyUpload is a set of keys with their secrets. The first key encrypts. Next
// encrypts after the next rotation.
type TicketKeyUpload = api.TicketKeyUpload

// TicketKeyMaterial is a key with its secrets.
type TicketKeyMaterial = api.TicketKeyMaterial

// Client makes requests to one service. It is safe for concurrent use.
type Client struct {
	api *api.Client
	log *slog.Logger
}

// Option changes how a [Client] works.
type Option func(*settings)

type settings struct {
	http      *http.Client
	tls       *tls.Config
	tokenFile string
	log       *slog.Logger
}

// WithHTTPClient makes requests through c, for TLS settings, credentials or a proxy of
// your own. c must not have a Timeout, which would end the requests of [Client.Watch]. The
// default client follows no redirects and uses no proxy.
func WithHTTPClient(c *http.Client) Option { return func(s *settings) { s.http = c } }

// WithTLSConfig sets the TLS configuration: the CAs that the service's certificate is
// verified with, and the client certificate. c must not be changed afterwards. It cannot be
// combined with [WithHTTPClient].
func WithTLSConfig(c *tls.Config) Option { return func(s *settings) { s.tls = c } }

// WithTokenFile sends the bearer token in the file (RFC 6750, section 2.1). [New]
// fails if the file has no token. The file is read for each request, so that the token can
// be replaced. With http:// to another machine, which would send the token in the clear,
// [New] returns an error.
func WithTokenFile(path string) Option { return func(s *settings) { s.tokenFile = path } }

// WithLogger logs the failures from which the client recovers by itself: those of
// [Client.Watch], [Client.Events] and [Client.ShareSessions]. Without it they are not
// reported.
func WithLogger(log *slog.Logger) Option { return func(s *settings) { s.log = log } }

// New returns a client of the service at baseURL: http://HOST:PORT,
// https://HOST:PORT or unix:PATH. It makes no request.
func New(baseURL string, options ...Option) (*Client, error) {
	path, isUnix := strings.CutPrefix(baseURL, "unix:")
	u, err := url.Parse(baseURL)
	switch {
	case isUnix && path != "":
		baseURL = "http://localhost"
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the service's address must be http://HOST:PORT, https://HOST:PORT or unix:PATH")
	case u.User != nil:
		return nil, errors.New("the service's address must not hold credentials")
	}
	s := settings{log: slog.New(slog.DiscardHandler)}
	for _, option := range options {
		option(&s)
	}
	switch {
	case s.tokenFile != "" && !isUnix && u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, errors.New("a token is sent only over https://, unix: or the loopback")
	case s.http == nil:
		s.http = newHTTPClient(path, isUnix, s.tls)
	case s.tls != nil:
		return nil, errors.New("WithHTTPClient and WithTLSConfig cannot be combined")
	case isUnix:
		return nil, errors.New("with WithHTTPClient, the address must not be unix:PATH")
	}
	requestOptions := []api.ClientOption{api.WithHTTPClient(s.http)}
	if s.tokenFile != "" {
		if _, err := readToken(s.tokenFile); err != nil {
			return nil, err
		}
		requestOptions = append(requestOptions, api.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
			token, err := readToken(s.tokenFile)
			r.Header.Set("Authorization", "Bearer "+token)
			return err
		}))
	}
	requests, err := api.NewClient(baseURL, requestOptions...)
	if err != nil {
		return nil, err
	}
	return &Client{requests, s.log}, nil
}

func isLoopback(host string) bool { return host == "localhost" || net.ParseIP(host).IsLoopback() }

// readToken returns the token in a file, which may end in a newline. Its errors
// do not hold it.
func readToken(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxToken+1))
	defer clear(data)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" || len(data) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", &fs.PathError{Op: "read", Path: path, Err: errors.New("must hold a token in one line, and nothing else")}
	}
	return token, nil
}

func newHTTPClient(path string, isUnix bool, config *tls.Config) *http.Client {
	return &http.Client{
		// Keys go to the service that was named, and to no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if isUnix {
					network, address = "unix", path
				}
				dialer := net.Dialer{Timeout: requestTimeout}
				return dialer.DialContext(ctx, network, address)
			},
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    requestTimeout,
			IdleConnTimeout:        90 * time.Second, // the service closes after 2 minutes
			MaxIdleConnsPerHost:    100,              // of a server whose handshakes ask for sessions
			MaxResponseHeaderBytes: maxHeader,
			ForceAttemptHTTP2:      true,
		},
	}
}

// TicketKeys describes the active set.
func (c *Client) TicketKeys(ctx context.Context) (*TicketKeys, error) {
	return c.describe(ctx, requestTimeout, func(ctx context.Context) (*http.Response, error) {
		return c.api.GetTicketKeys(ctx, nil)
	})
}

// NextTicketKeys describes the active set as soon as its generation is another than
// the given one. The service holds the request for as long as wait; when nothing has
// changed by then, the description is nil.
func (c *Client) NextTicketKeys(ctx context.Context, generation uint64, wait time.Duration) (*TicketKeys, error) {
	params := &api.GetTicketKeysParams{IfNoneMatch: etag(generation)}
	d, err := c.describe(ctx, wait+grace, func(ctx context.Context) (*http.Response, error) {
		return c.api.GetTicketKeys(ctx, params, preferWait(wait))
	})
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusNotModified {
		return nil, nil
	}
	return d, err
}

// preferWait asks for an answer that is held until something changes (RFC 7240,
// section 4.3).
func preferWait(wait time.Duration) api.RequestEditorFn {
	return func(_ context.Context, r *http.Request) error {
		if wait > 0 {
			r.Header.Set("Prefer", fmt.Sprintf("wait=%d", int(wait.Seconds())))
		}
		return nil
	}
}

// Format returns the active set in the format of a server, one of those that
// openapi.yaml lists: ats, httpd, nginx and so on. For a format with one key in a file, it
// returns the file with the number key; nil is 0, the key that encrypts. For other formats
// key must be nil. The caller must wipe the result.
func (c *Client) Format(ctx context.Context, format string, key *int) ([]byte, error) {
	_, data, err := c.fetch(ctx, requestTimeout, format, key, "", 0)
	return data, err
}

// Files returns the first n keys of the active set, or all if there are fewer, in a format
// with one key in a file. All are of one generation. The caller must wipe them.
func (c *Client) Files(ctx context.Context, format string, n int) ([][]byte, error) {
	for range maxMoves {
		etag, first, err := c.fetch(ctx, requestTimeout, format, new(0), "", 0)
		if err != nil {
			return nil, err
		}
		files, err := c.fetchOthers(ctx, format, n, etag, [][]byte{first})
		if err == nil {
			return files, nil
		}
		for _, data := range files {
			clear(data)
		}
		if !errors.Is(err, errMoved) {
			return nil, err
		}
	}
	return nil, errMoved
}

// maxMoves is how often files are fetched anew because the set has changed meanwhile.
const maxMoves = 10

var errMoved = errors.New("the keys changed while their files were fetched")

// fetchOthers appends the files after the first one.
func (c *Client) fetchOthers(ctx context.Context, format string, n int, etag string, files [][]byte) ([][]byte, error) {
	for i := 1; i < n; i++ {
		itsETag, data, err := c.fetch(ctx, requestTimeout, format, &i, "", 0)
		if e, ok := errors.AsType[*Error](err); ok && e.Code == string(api.ProblemCodeKeyNotFound) {
			return files, nil // the set has no more
		}
		if err != nil {
			return files, err
		}
		files = append(files, data)
		if itsETag != etag {
			return files, errMoved
		}
	}
	return files, nil
}

// fetch returns the active set in a format, and its ETag. With the ETag of an
// earlier answer the service takes as long as wait for a change; then the error
// is [http.StatusNotModified].
func (c *Client) fetch(ctx context.Context, timeout time.Duration, format string, key *int, etag string, wait time.Duration) (newETag string, data []byte, err error) {
	params := &api.GetTicketKeysParams{Format: new(api.TicketKeyFormat(format))}
	if etag != "" {
		params.IfNoneMatch = &etag
	}
	header, data, err := c.do(ctx, timeout, maxBody, func(ctx context.Context) (*http.Response, error) {
		return c.api.GetTicketKeys(ctx, params, func(_ context.Context, r *http.Request) error {
			if key != nil {
				query := r.URL.Query()
				query.Set("key", strconv.Itoa(*key))
				r.URL.RawQuery = query.Encode()
			}
			return nil
		}, preferWait(wait))
	})
	if err != nil {
		return "", nil, err
	}
	// What answers in place of the service, such as a proxy, has another type.
	if got := header.Get("Content-Type"); got != contentType(format) || len(data) == 0 {
		clear(data)
		return "", nil, fmt.Errorf("the service sent %d bytes of %q, not keys for %s", len(data), printable.Short(got), format)
	}
	if contentType(format) != "application/octet-stream" && !isText(data) {
		clear(data)
		return "", nil, fmt.Errorf("the service sent binary data, not keys for %s", format)
	}
	newETag = header.Get("ETag")
	if newETag == "" && wait > 0 {
		clear(data)
		return "", nil, errors.New("the service's answer has no ETag")
	}
	if newETag != "" && !etagPattern.MatchString(newETag) {
		clear(data)
		return "", nil, errors.New("the ETag of the service's answer is not a generation")
	}
	return newETag, data, nil
}

// contentType is that of keys in the format.
func contentType(format string) string {
	switch format {
	case "haproxy", "go":
		return "text/plain"
	case "h2o":
		return "application/yaml"
	}
	return "application/octet-stream"
}

// UpdateOption changes how an update is made.
type UpdateOption func(*update)

type update struct{ ifMatch *string }

// IfGeneration makes an update only if the active set has this generation. Otherwise the
// error has the code precondition_failed.
func IfGeneration(generation uint64) UpdateOption {
	return func(u *update) { u.ifMatch = etag(generation) }
}

func etag(generation uint64) *string { return new(`"` + strconv.FormatUint(generation, 10) + `"`) }

func ifMatch(options []UpdateOption) *string {
	var u update
	for _, option := range options {
		option(&u)
	}
	return u.ifMatch
}

// Push replaces the active set with data, which is in the format of a server, and returns
// the description of the new active set. A rejected set changes nothing; the error's Fields
// say why. The caller must wipe data.
func (c *Client) Push(ctx context.Context, format string, data []byte, options ...UpdateOption) (*TicketKeys, error) {
	params := &api.ReplaceTicketKeysParams{Format: new(api.TicketKeyFormat(format)), IfMatch: ifMatch(options)}
	return c.change(ctx, func(ctx context.Context) (*http.Response, error) {
		return c.api.ReplaceTicketKeysWithBody(ctx, params, contentType(format), bytes.NewReader(data))
	})
}

// PushKeys is Push for single keys. The caller must wipe their secrets.
func (c *Client) PushKeys(ctx context.Context, upload TicketKeyUpload, options ...UpdateOption) (*TicketKeys, error) {
	body, err := json.Marshal(upload)
	if err != nil {
		return nil, err
	}
	defer clear(body)
	params := &api.ReplaceTicketKeysParams{IfMatch: ifMatch(options)}
	return c.change(ctx, func(ctx context.Context) (*http.Response, error) {
		return c.api.ReplaceTicketKeysWithBody(ctx, params, "application/json", bytes.NewReader(body))
	})
}

// Rotate rotates the active set by one step and returns the new description.
func (c *Client) Rotate(ctx context.Context, options ...UpdateOption) (*TicketKeys, error) {
	return c.change(ctx, func(ctx context.Context) (*http.Response, error) {
		return c.api.RotateTicketKeys(ctx, &api.RotateTicketKeysParams{IfMatch: ifMatch(options)})
	})
}

// Revoke removes the key with this name, 32 hex digits, from the active set and returns
// the new description.
func (c *Client) Revoke(ctx context.Context, name string, options ...UpdateOption) (*TicketKeys, error) {
	return c.change(ctx, func(ctx context.Context) (*http.Response, error) {
		return c.api.RevokeTicketKey(ctx, name, &api.RevokeTicketKeyParams{IfMatch: ifMatch(options)})
	})
}

// describe makes a request that is answered with a description.
func (c *Client) describe(ctx context.Context, timeout time.Duration, request func(context.Context) (*http.Response, error)) (*TicketKeys, error) {
	_, body, err := c.do(ctx, timeout, maxBody, request)
	if err != nil {
		return nil, err
	}
	var description TicketKeys
	if err := json.Unmarshal(body, &description); err != nil {
		return nil, fmt.Errorf("the service's answer is not a description of ticket keys: %s", printable.Short(err.Error()))
	}
	if err := checkDescription(&description); err != nil {
		return nil, fmt.Errorf("the service's answer is not a description of ticket keys: %w", err)
	}
	return &description, nil
}

// change is describe for a request that changes the active set.
func (c *Client) change(ctx context.Context, request func(context.Context) (*http.Response, error)) (*TicketKeys, error) {
	success := false
	description, err := c.describe(ctx, requestTimeout, func(ctx context.Context) (*http.Response, error) {
		response, err := request(ctx)
		success = err == nil && response.StatusCode == http.StatusOK
		return response, err
	})
	if err != nil && success {
		err = fmt.Errorf("%w; the change may have been made", err)
	}
	return description, err
}

// do makes a request and reads the whole of its answer, maxBody bytes at most, which
// is the caller's to wipe.
func (c *Client) do(ctx context.Context, timeout time.Duration, maxBody int, request func(context.Context) (*http.Response, error)) (http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	response, err := request(ctx)
	if errors.Is(err, http.ErrSchemeMismatch) {
		err = ErrPlainHTTP
	}
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	size := int64(maxBody)
	if response.Body == http.NoBody {
		size = 0
	} else if response.ContentLength > 0 {
		size = min(size, response.ContentLength)
	}
	body := make([]byte, size+1) // growing it would leave copies of secrets behind
	n := 0
	for n < len(body) && err == nil {
		var m int
		m, err = response.Body.Read(body[n:])
		n += m
	}
	switch {
	case n > maxBody:
		err = fmt.Errorf("the service's answer is larger than %d bytes", maxBody)
	case errors.Is(err, io.EOF): // not so an answer that is cut off: io.ErrUnexpectedEOF
		err = nil
	}
	if err == nil && response.StatusCode/100 != 2 {
		err = newError(response, body[:n])
		if response.StatusCode == http.StatusBadRequest && bytes.HasPrefix(body[:n], []byte(tlsHint)) {
			err = ErrTLS
		}
	}
	if err != nil {
		clear(body)
		return nil, nil, err
	}
	return response.Header, body[:n], nil
}
