package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"regexp"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/printable"
)

const (
	// maxSessionBody is more than a page of 100 sessions takes, and the largest
	// session there is in any representation.
	maxSessionBody = 128 << 10

	mediaJSON  = "application/json"
	mediaBytes = "application/octet-stream"
	mediaPEM   = "application/x-pem-file"
)

var (
	idPattern     = regexp.MustCompile(`^([0-9a-f]{2}){1,32}$`)
	cursorPattern = regexp.MustCompile(`^[!-~]{1,128}$`)
)

// Session describes a TLS session. It holds no secret.
type Session = api.Session

// SSLSession is the fields of an SSL_SESSION, without its secrets.
type SSLSession = api.SSLSession

// Sessions describes all sessions, in no particular order, without the fields of an
// SSL_SESSION. It fetches page after page. An error ends the iteration.
func (c *Client) Sessions(ctx context.Context) iter.Seq2[Session, error] {
	return func(yield func(Session, error) bool) {
		var params api.ListSessionsParams
		for {
			var page api.SessionPage
			err := c.getJSON(ctx, &page, func(ctx context.Context) (*http.Response, error) { return c.api.ListSessions(ctx, &params) })
			if err == nil && page.NextCursor != nil && !cursorPattern.MatchString(*page.NextCursor) {
				err = errors.New("the cursor of the service's answer is malformed")
			}
			if err != nil {
				yield(Session{}, err)
				return
			}
			for _, session := range page.Sessions {
				if err := checkSession(&session); err != nil {
					yield(Session{}, err)
					return
				}
				if !yield(session, nil) {
					return
				}
			}
			if params.Cursor = page.NextCursor; params.Cursor == nil {
				return
			}
		}
	}
}

// Session describes the session of an ID, which is 2 to 64 hex digits.
func (c *Client) Session(ctx context.Context, id string) (*Session, error) {
	var session Session
	if err := c.getJSON(ctx, &session, func(ctx context.Context) (*http.Response, error) { return c.getSession(ctx, id, mediaJSON) }); err != nil {
		return nil, err
	}
	return &session, checkSession(&session)
}

// SessionBytes returns the bytes of a session as they are stored. The caller must
// wipe them.
func (c *Client) SessionBytes(ctx context.Context, id string) ([]byte, error) {
	return c.sessionAs(ctx, id, mediaBytes)
}

// SessionPEM returns a session in PEM, as openssl s_client -sess_in reads it. The caller
// must wipe it. If OpenSSL cannot load the session, the error has the code not_acceptable.
func (c *Client) SessionPEM(ctx context.Context, id string) ([]byte, error) {
	return c.sessionAs(ctx, id, mediaPEM)
}

func (c *Client) sessionAs(ctx context.Context, id, mediaType string) ([]byte, error) {
	header, data, err := c.do(ctx, requestTimeout, maxSessionBody, func(ctx context.Context) (*http.Response, error) {
		return c.getSession(ctx, id, mediaType)
	})
	if err != nil {
		return nil, err
	}
	// What answers in place of the service, such as a proxy, has another type.
	if got := header.Get("Content-Type"); got != mediaType || len(data) == 0 {
		clear(data)
		return nil, fmt.Errorf("the service sent %d bytes of %q, not a session", len(data), printable.Short(got))
	}
	return data, nil
}

// PutSession stores a session under an ID and replaces any session with that ID. data is
// an SSL_SESSION in DER or PEM, or opaque bytes; the caller must wipe it. ttl is the
// lifetime in whole seconds; 0 leaves it to the service. PutSession reports whether the
// session is new.
func (c *Client) PutSession(ctx context.Context, id string, data []byte, ttl time.Duration) (created bool, err error) {
	var params api.PutSessionParams
	if ttl != 0 {
		params.TTLSeconds = new(int64(ttl / time.Second))
	}
	_, _, err = c.do(ctx, requestTimeout, maxSessionBody, func(ctx context.Context) (*http.Response, error) {
		response, err := c.api.PutSessionWithBody(ctx, id, &params, mediaBytes, bytes.NewReader(data))
		created = err == nil && response.StatusCode == http.StatusCreated
		return response, err
	})
	return created, err
}

// DeleteSession removes the session of an ID.
func (c *Client) DeleteSession(ctx context.Context, id string) error {
	_, _, err := c.do(ctx, requestTimeout, maxSessionBody, func(ctx context.Context) (*http.Response, error) {
		return c.api.DeleteSession(ctx, id, &api.DeleteSessionParams{})
	})
	return err
}

// FlushSessions removes all sessions and returns their number.
func (c *Client) FlushSessions(ctx context.Context) (removed int64, err error) {
	var flushed api.Flushed
	err = c.getJSON(ctx, &flushed, func(ctx context.Context) (*http.Response, error) { return c.api.FlushSessions(ctx) })
	return flushed.Removed, err
}

func (c *Client) getSession(ctx context.Context, id, accept string) (*http.Response, error) {
	return c.api.GetSession(ctx, id, &api.GetSessionParams{}, func(_ context.Context, r *http.Request) error {
		r.Header.Set("Accept", accept)
		return nil
	})
}

// getJSON makes a request and decodes its answer into v.
func (c *Client) getJSON(ctx context.Context, v any, request func(context.Context) (*http.Response, error)) error {
	header, body, err := c.do(ctx, requestTimeout, maxSessionBody, request)
	if err != nil {
		return err
	}
	if got := header.Get("Content-Type"); got != mediaJSON {
		return fmt.Errorf("the service sent %q, not %s", printable.Short(got), mediaJSON)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("the service's answer does not match the API: %s", printable.Short(err.Error()))
	}
	return nil
}

// checkSession holds a description to the contract, and makes its texts fit for a
// terminal.
func checkSession(s *Session) error {
	if !idPattern.MatchString(s.ID) || !wordPattern.MatchString(string(s.Format)) {
		return errors.New("the service's answer is not the description of a session")
	}
	for _, ssl := range []*SSLSession{s.Openssl, s.Boringssl} {
		if ssl == nil {
			continue
		}
		for _, text := range []*string{&ssl.Protocol, &ssl.Cipher, &ssl.SessionID, ssl.ServerName, ssl.ALPN, ssl.SessionIDContext, ssl.PeerSubject} {
			if text != nil {
				*text = printable.Short(*text)
			}
		}
	}
	return nil
}
