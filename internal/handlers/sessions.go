package handlers

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/handlers/headers"
	"github.com/sessapi/sessapi/internal/sslsession"
)

// opaque is the format of a session that is not an SSL_SESSION. The cache stores the
// format of a session as its mark.
const opaque sslsession.Format = 0

// The media types of sessions that OpenSSL loads, and of all others.
var (
	opensslRepresentations = []string{mediaJSON, mediaBytes, mediaPEM}
	otherRepresentations   = []string{mediaJSON, mediaBytes}
)

func sessionRepresentations(f sslsession.Format) []string {
	if f == sslsession.OpenSSL {
		return opensslRepresentations
	}
	return otherRepresentations
}

// uploadSlack is the room in a PEM or JSON body for everything except base64: line
// ends, text before the block, white space, other members.
const uploadSlack = 4 << 10

// maxUploadBytes is the size of the largest body for a session of size bytes: base64
// with a line end after every 64 characters, and uploadSlack.
func maxUploadBytes(size int) int { return size*4/3*66/64 + uploadSlack }

// sessionETag returns the quoted ETag of a session's bytes in a representation. Each
// representation has its own ETag (RFC 9110, section 8.8.3.3).
func sessionETag(tag cache.Tag, mediaType string) string {
	quoted := make([]byte, 0, 40)
	quoted = append(quoted, '"')
	quoted = tag.AppendHex(quoted)
	if mediaType == mediaPEM {
		quoted = append(quoted, "-pem"...)
	}
	return string(append(quoted, '"'))
}

// GetSession implements [api.ServerInterface].
func (a *API) GetSession(w http.ResponseWriter, r *http.Request, id api.SessionID, params api.GetSessionParams) {
	a.serveSession(w, r, id, params)
}

// HeadSession implements [api.ServerInterface].
func (a *API) HeadSession(w http.ResponseWriter, r *http.Request, id api.SessionID, params api.HeadSessionParams) {
	a.serveSession(w, r, id, api.GetSessionParams{
		MaxBytes: params.MaxBytes, IfMatch: params.IfMatch, IfNoneMatch: params.IfNoneMatch,
	})
}

func (a *API) serveSession(w http.ResponseWriter, r *http.Request, rawID string, params api.GetSessionParams) {
	id, err := a.sessionID(rawID)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if params.MaxBytes != nil {
		if err := checkMaxBytes(params); err != nil {
			a.fail(w, r, err)
			return
		}
	}
	buf := a.buffers.get()
	defer a.buffers.put(buf)
	data, entry, ok := a.cfg.Sessions.Get(r.Context(), *buf, id)
	*buf = data
	if !ok {
		a.fail(w, r, cache.ErrNotFound)
		return
	}
	noStore(w)
	w.Header().Set("Vary", "Accept")
	format := sslsession.Format(entry.Mark)
	mediaType, err := negotiateSession(r, format, params.MaxBytes)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	switch mediaType {
	case mediaBytes:
		a.serveBytes(w, r, data, sessionETag(entry.TagOf(data), mediaBytes), mediaBytes, params)
	case mediaPEM:
		pem := sslsession.AppendPEM(make([]byte, 0, sslsession.PEMSize(len(data))), data)
		defer clear(pem)
		a.serveBytes(w, r, pem, sessionETag(entry.TagOf(data), mediaPEM), mediaPEM, params)
	default:
		a.serveDescription(w, r, describe(id, entry, data), params)
	}
}

// negotiateSession picks the representation of a session. With max_bytes it never picks
// the description, which has no parts. With max_bytes=0, which only asks for the size,
// it picks the stored bytes instead.
func negotiateSession(r *http.Request, f sslsession.Format, maxBytes *int64) (mediaType string, err error) {
	offered := sessionRepresentations(f)
	if maxBytes == nil {
		return negotiate(r, offered...)
	}
	if *maxBytes == 0 {
		mediaType, err = negotiate(r, offered...)
		if mediaType == mediaJSON {
			mediaType = mediaBytes
		}
		return mediaType, err
	}
	mediaType, err = headers.Negotiate(r.Header["Accept"], append([]string{""}, offered[1:]...)...)
	if err != nil {
		err = &problem{
			code:   api.ProblemCodeNotAcceptable,
			detail: "With max_bytes, Accept must name one of " + strings.Join(offered[1:], ", ") + ".",
		}
	}
	return mediaType, err
}

// serveDescription sends the description of a session. Its ETag is a hash of the JSON.
func (a *API) serveDescription(w http.ResponseWriter, r *http.Request, description api.Session, params api.GetSessionParams) {
	body := marshal(description)
	hash := sha256.Sum256(body)
	tag := fmt.Sprintf(`"%x-json"`, hash[:16])
	w.Header().Set("ETag", tag)
	if a.preempted(w, r, tag, params) {
		return
	}
	writeBody(w, http.StatusOK, body)
}

// sessionID parses the ID in the path. It fails without a cache.
func (a *API) sessionID(raw string) (cache.ID, error) {
	if a.cfg.Sessions == nil {
		return cache.ID{}, &problem{code: api.ProblemCodeCacheDisabled}
	}
	return cache.ParseID(raw)
}

func checkMaxBytes(params api.GetSessionParams) error {
	if *params.MaxBytes < 0 {
		return invalidRequest("max_bytes: must not be negative")
	}
	if params.Range != nil {
		return invalidRequest("max_bytes: cannot be combined with Range")
	}
	return nil
}

// serveBytes sends a byte representation, or the requested part of it.
func (a *API) serveBytes(w http.ResponseWriter, r *http.Request, data []byte, tag, mediaType string, params api.GetSessionParams) {
	h := w.Header()
	h.Set("Session-Size", strconv.Itoa(len(data)))
	h.Set("ETag", tag)
	if a.preempted(w, r, tag, params) {
		return
	}
	part, partial := headers.Range{End: len(data)}, false
	switch {
	case params.MaxBytes != nil && *params.MaxBytes == 0:
		w.WriteHeader(http.StatusNoContent)
		return
	case params.MaxBytes != nil:
		part.End = int(min(*params.MaxBytes, int64(len(data))))
		partial = part.End < len(data)
	case params.Range != nil && (params.IfRange == nil || *params.IfRange == tag):
		asked, ok, err := headers.ParseRange(*params.Range, len(data))
		switch {
		case errors.Is(err, headers.ErrNotSatisfiable):
			a.fail(w, r, &problem{
				code: api.ProblemCodeRangeNotSatisfiable, size: int64(len(data)),
				header: http.Header{"Content-Range": {"bytes */" + strconv.Itoa(len(data))}},
			})
			return
		case err != nil:
			a.fail(w, r, err)
			return
		case ok:
			part, partial = asked, true
		}
	}
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.Start, part.End-1, len(data)))
	}
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(part.End-part.Start))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(data[part.Start:part.End]) // fails only when the client is gone
	}
}

// preempted answers a request whose precondition fails for the ETag, and reports
// whether it did.
func (a *API) preempted(w http.ResponseWriter, r *http.Request, tag string, params api.GetSessionParams) bool {
	if params.IfMatch == nil && params.IfNoneMatch == nil {
		return false
	}
	ifMatch, ifNoneMatch, err := parseConditions(params.IfMatch, params.IfNoneMatch)
	switch {
	case err != nil:
		a.fail(w, r, err)
	case ifMatch != nil && !ifMatch.MatchStrong(tag):
		a.fail(w, r, cache.ErrPrecondition)
	case ifNoneMatch != nil && ifNoneMatch.MatchWeak(tag):
		w.WriteHeader(http.StatusNotModified)
	default:
		return false
	}
	return true
}

func parseConditions(ifMatch, ifNoneMatch *string) (match, noneMatch *headers.ETags, err error) {
	if match, err = headers.ParseETags("If-Match", ifMatch); err != nil {
		return nil, nil, err
	}
	noneMatch, err = headers.ParseETags("If-None-Match", ifNoneMatch)
	return match, noneMatch, err
}

// writeCondition returns the condition of a PUT or DELETE; nil for none. It accepts the
// ETag of either byte representation.
func writeCondition(ifMatch, ifNoneMatch *string) (cache.Condition, error) {
	match, noneMatch, err := parseConditions(ifMatch, ifNoneMatch)
	if err != nil || match == nil && noneMatch == nil {
		return nil, err
	}
	return func(current cache.Tag, exists bool) bool {
		raw, pem := sessionETag(current, mediaBytes), sessionETag(current, mediaPEM)
		if match != nil && !(exists && (match.MatchStrong(raw) || match.MatchStrong(pem))) {
			return false
		}
		return noneMatch == nil || !exists || !noneMatch.MatchWeak(raw) && !noneMatch.MatchWeak(pem)
	}, nil
}

// PutSession implements [api.ServerInterface].
func (a *API) PutSession(w http.ResponseWriter, r *http.Request, rawID api.SessionID, params api.PutSessionParams) {
	id, err := a.sessionID(rawID)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	condition, err := writeCondition(params.IfMatch, params.IfNoneMatch)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	buf := a.buffers.get()
	defer a.buffers.put(buf)
	upload, err := a.readSession(buf, w, r, params.TTLSeconds)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	defer clear(upload.data)
	tag := cache.TagOf(upload.data)
	replaced, err := a.cfg.Sessions.Put(r.Context(), id, upload.data, cache.PutOptions{
		ExpiresAt: upload.end, Mark: uint8(upload.format), Tag: tag, If: condition,
	})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	h := w.Header()
	noStore(w)
	h.Set("ETag", sessionETag(tag, mediaBytes))
	if replaced {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h.Set("Location", "/sessions/"+id.String())
	w.WriteHeader(http.StatusCreated)
}

// upload is a session from a request body of any type.
type upload struct {
	data   []byte // may alias the request's buffer
	format sslsession.Format
	end    time.Time
}

// readSession reads the body of a PUT into buf, and determines its format and end. The
// caller must wipe the upload's data.
func (a *API) readSession(buf *[]byte, w http.ResponseWriter, r *http.Request, ttl *int64) (upload, error) {
	mediaType, err := bodyType(r, mediaBytes, mediaPEM, mediaJSON)
	if err != nil {
		return upload{}, err
	}
	body, err := readBody(*buf, w, r, maxUploadBytes(a.cfg.MaxSessionBytes), cache.ErrTooLarge)
	*buf = body
	if err == nil {
		err = a.admit(w)
	}
	if err != nil {
		return upload{}, err
	}
	data := body
	if mediaType == mediaJSON {
		if ttl != nil {
			return upload{}, invalidRequest("ttl_seconds: with a JSON body, send it in the body")
		}
		data, ttl, err = decodeUpload(body)
	}
	isPEM := mediaType == mediaPEM || sslsession.IsPEM(data)
	if err == nil && isPEM {
		text := data
		data, err = sslsession.DecodePEM(text)
		clear(text)
	}
	if err != nil {
		return upload{}, err
	}
	if ttl != nil && *ttl < 1 {
		clear(data)
		return upload{}, invalidRequest("ttl_seconds: must be at least 1")
	}
	session, err := sslsession.Parse(data, a.cfg.Now())
	switch {
	case err == nil:
		return upload{data, session.Format, a.sessionEnd(ttl, &session)}, nil
	case isPEM:
		clear(data)
		return upload{}, err
	}
	return upload{data, opaque, a.sessionEnd(ttl, nil)}, nil
}

// decodeUpload reads a JSON body.
func decodeUpload(body []byte) (data []byte, ttl *int64, err error) {
	var request api.SessionUpload
	err = decodeJSON(body, &request)
	if member, ok := errors.AsType[notBase64](err); ok {
		err = &problem{code: api.ProblemCodeInvalidSession, detail: "data " + member.Error() + "."}
	}
	if err != nil {
		clear(request.Data)
		return nil, nil, err
	}
	if request.Data == nil {
		return nil, nil, invalidRequest("data: is required")
	}
	return request.Data, request.TTLSeconds, nil
}

// sessionEnd returns the end of a session stored now: after the given time, else at its
// own end, else after the default time. It never exceeds the maximum.
func (a *API) sessionEnd(ttl *int64, session *sslsession.Session) time.Time {
	now := a.cfg.Now()
	last := now.Add(a.cfg.MaxTTL)
	end := now.Add(a.cfg.DefaultTTL)
	switch {
	case ttl != nil && *ttl > int64(a.cfg.MaxTTL/time.Second):
		end = last
	case ttl != nil:
		end = now.Add(time.Duration(*ttl) * time.Second)
	case session != nil:
		end = session.EndsAt()
	}
	if end.After(last) {
		return last
	}
	return end
}

// DeleteSession implements [api.ServerInterface].
func (a *API) DeleteSession(w http.ResponseWriter, r *http.Request, rawID api.SessionID, params api.DeleteSessionParams) {
	id, err := a.sessionID(rawID)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	condition, err := writeCondition(params.IfMatch, nil)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if err := a.cfg.Sessions.Delete(r.Context(), id, condition); err != nil {
		a.fail(w, r, err)
		return
	}
	noStore(w)
	w.WriteHeader(http.StatusNoContent)
}

// errNotFlushed reports a flush after which sessions may come back.
var errNotFlushed = errors.New("cannot remove all sessions")

// FlushSessions implements [api.ServerInterface].
func (a *API) FlushSessions(w http.ResponseWriter, r *http.Request) {
	if a.cfg.Sessions == nil {
		a.fail(w, r, &problem{code: api.ProblemCodeCacheDisabled})
		return
	}
	if err := a.recordEvent(w, r, audit.Event{Outcome: audit.Applied}); err != nil {
		a.fail(w, r, err)
		return
	}
	removed, err := a.cfg.Sessions.Flush(r.Context())
	if err != nil {
		failed := audit.Event{Outcome: audit.Failed, Detail: "the flush before this line was not made, or not of all sessions"}
		a.fail(w, r, errors.Join(fmt.Errorf("%w: %w", errNotFlushed, err), a.recordEvent(w, r, failed)))
		return
	}
	noStore(w)
	writeJSON(w, http.StatusOK, api.Flushed{Removed: int64(removed)})
}

const (
	defaultPageSize = 100
	maxPageSize     = 1000
)

// ListSessions implements [api.ServerInterface].
func (a *API) ListSessions(w http.ResponseWriter, r *http.Request, params api.ListSessionsParams) {
	if a.cfg.Sessions == nil {
		a.fail(w, r, &problem{code: api.ProblemCodeCacheDisabled})
		return
	}
	limit := int32(defaultPageSize)
	if params.Limit != nil {
		limit = *params.Limit
	}
	if limit < 1 || limit > maxPageSize {
		a.fail(w, r, invalidRequest("limit: must be from 1 to %d", maxPageSize))
		return
	}
	var after cache.ID
	if params.Cursor != nil {
		var ok bool
		if after, ok = a.parseCursor(*params.Cursor); !ok {
			a.fail(w, r, invalidRequest("cursor: is unknown, or from before a restart of the service"))
			return
		}
	}
	if _, err := negotiate(r, mediaJSON); err != nil {
		a.fail(w, r, err)
		return
	}
	entries, more := a.cfg.Sessions.List(after, int(limit))
	page := api.SessionPage{Sessions: make([]api.Session, len(entries))}
	for i, entry := range entries {
		page.Sessions[i] = describeEntry(entry.ID, entry.Entry)
	}
	if more {
		cursor := a.cursor(entries[len(entries)-1].ID)
		page.NextCursor = &cursor
	}
	noStore(w)
	writeJSON(w, http.StatusOK, page)
}

func sessionFormat(e cache.Entry) api.SessionFormat {
	switch sslsession.Format(e.Mark) {
	case sslsession.OpenSSL:
		return api.SessionFormatOpenssl
	case sslsession.BoringSSL:
		return api.SessionFormatBoringssl
	}
	return api.SessionFormatOpaque
}

// describeEntry describes a session by its cache entry.
func describeEntry(id cache.ID, e cache.Entry) api.Session {
	return api.Session{
		ID: id.String(), Size: e.Size, Format: sessionFormat(e),
		StoredAt: e.StoredAt.UTC(), ExpiresAt: e.ExpiresAt.UTC(),
	}
}

// describe describes a session by its cache entry and its content.
func describe(id cache.ID, e cache.Entry, data []byte) api.Session {
	d := describeEntry(id, e)
	session, err := sslsession.Parse(data, e.StoredAt.UTC())
	switch {
	case err != nil: // other bytes
	case d.Format == api.SessionFormatOpenssl:
		d.Openssl = describeSSL(id, &session)
	case d.Format == api.SessionFormatBoringssl:
		d.Boringssl = describeSSL(id, &session)
	}
	return d
}

// cursor is the position after a session in a listing. Positions change when the
// service restarts, so a cursor starts with the ID of the run.
func (a *API) cursor(last cache.ID) string {
	return base64.RawURLEncoding.EncodeToString(append(a.run[:], last.Bytes()...))
}

func (a *API) parseCursor(cursor string) (after cache.ID, ok bool) {
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return after, false
	}
	raw, ok = bytes.CutPrefix(raw, a.run[:])
	if !ok {
		return after, false
	}
	after, err = cache.MakeID(raw)
	return after, err == nil
}

// describeSSL describes the SSL_SESSION stored under id.
func describeSSL(id cache.ID, s *sslsession.Session) *api.SSLSession {
	d := &api.SSLSession{
		Protocol:             s.Protocol.String(),
		Cipher:               s.Cipher.String(),
		SessionID:            hex.EncodeToString(s.ID),
		IDMatches:            bytes.Equal(s.ID, id.Bytes()),
		StartedAt:            s.StartedAt,
		TimeoutSeconds:       int64(s.Timeout / time.Second),
		ServerName:           text(s.ServerName),
		ALPN:                 text(s.ALPN),
		SessionIDContext:     text(hex.AppendEncode(nil, s.SessionIDContext)),
		ExtendedMasterSecret: s.ExtendedMasterSecret,
	}
	if s.Peer != nil {
		d.VerifyResult = new(int64(s.VerifyResult))
		if subject, ok := s.PeerSubject(); ok {
			d.PeerSubject = &subject
		}
	}
	if s.TicketLifetimeHint != 0 {
		d.TicketLifetimeHintSeconds = new(int64(s.TicketLifetimeHint / time.Second))
	}
	if s.MaxEarlyData != 0 {
		d.MaxEarlyData = new(int64(s.MaxEarlyData))
	}
	return d
}

// text returns b as an optional member; nil if it is empty.
func text(b []byte) *string {
	if len(b) == 0 {
		return nil
	}
	return new(string(b))
}
