package handlers

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/handlers/headers"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/sslsession"
)

// problem is an error with the content of its document. Handlers create one where the
// domain has no error of its own. [asProblem] converts the errors of the domain. The
// code decides the status, title and fixed headers.
type problem struct {
	code   api.ProblemCode
	detail string           // for the client; "" means the code's own sentence
	header http.Header      // added to those of the code; nil for none
	limit  int64            // limit_bytes; 0 omits it
	size   int64            // size; 0 omits it
	fields []api.FieldError // errors
}

func (p *problem) Error() string { return string(p.code) + ": " + p.detail }

// problemKinds has the common properties of all problems of a code.
var problemKinds = map[api.ProblemCode]struct {
	status int
	title  string
	detail string
	header [2]string // name and value of a header that the status requires
}{
	api.ProblemCodeInvalidSessionID:     {status: 400, title: "Invalid session ID", detail: "A session ID is 2 to 64 hex digits of even length."},
	api.ProblemCodeInvalidRequest:       {status: 400, title: "Invalid request", detail: "A parameter, a header or the body is malformed."},
	api.ProblemCodeUnauthenticated:      {status: 401, title: "Unauthenticated", detail: "The request carries no valid credentials.", header: [2]string{"WWW-Authenticate", "Bearer"}},
	api.ProblemCodeForbidden:            {status: 403, title: "Forbidden", detail: "The credentials do not permit this operation."},
	api.ProblemCodeSessionNotFound:      {status: 404, title: "Session not found", detail: "There is no session with this ID, or it has expired."},
	api.ProblemCodeKeyNotFound:          {status: 404, title: "Ticket key not found", detail: "The active set has no ticket key with this name."},
	api.ProblemCodeConsumerNotFound:     {status: 404, title: "Consumer not found", detail: "There is no consumer with this name."},
	api.ProblemCodeRouteNotFound:        {status: 404, title: "Route not found", detail: "The service has no such path."},
	api.ProblemCodeMethodNotAllowed:     {status: 405, title: "Method not allowed", detail: "The path does not support this method."},
	api.ProblemCodeNotAcceptable:        {status: 406, title: "Not acceptable", detail: "The resource has no representation that Accept admits."},
	api.ProblemCodeConsumersBehind:      {status: 409, title: "Consumers are behind", detail: "Consumers do not hold the next key yet.", header: [2]string{"Retry-After", "1"}},
	api.ProblemCodePreconditionFailed:   {status: 412, title: "Precondition failed", detail: "If-Match or If-None-Match does not hold."},
	api.ProblemCodeSessionTooLarge:      {status: 413, title: "Session too large", detail: "The session is larger than limit_bytes."},
	api.ProblemCodeUnsupportedMediaType: {status: 415, title: "Unsupported media type", detail: "The body has no Content-Type, or one that is not supported."},
	api.ProblemCodeRangeNotSatisfiable:  {status: 416, title: "Range not satisfiable", detail: "The range starts after the end."},
	api.ProblemCodeInvalidSession:       {status: 422, title: "Invalid session", detail: "The body is not a session that can be stored."},
	api.ProblemCodeInvalidTicketKeys:    {status: 422, title: "Invalid ticket keys", detail: "The service rejected the set and keeps the active one."},
	api.ProblemCodeTooManyRequests:      {status: 429, title: "Too many requests", detail: "Too many authentications from this source have failed.", header: [2]string{"Retry-After", "1"}},
	api.ProblemCodeTooManyConsumers: {
		status: 429, title: "Too many consumers",
		detail: fmt.Sprintf("There are %d consumers already. Remove one with DELETE /consumers/{host}/{target}.", consumers.Max),
		header: [2]string{"Retry-After", "60"},
	},
	api.ProblemCodeInternal:           {status: 500, title: "Internal error", detail: "The service failed; its log has the cause, with the request ID."},
	api.ProblemCodeOverloaded:         {status: 503, title: "Overloaded", detail: "The service is at its limit of requests in flight.", header: [2]string{"Retry-After", "1"}},
	api.ProblemCodeCacheDisabled:      {status: 503, title: "Cache disabled", detail: "The service runs with --cache=off and keeps no sessions."},
	api.ProblemCodeBackendUnavailable: {status: 503, title: "Backend unavailable", detail: "The service could not store the change; nothing has changed. Its log has the cause, with the request ID.", header: [2]string{"Retry-After", "1"}},
}

// ProblemCodes returns the codes of all problems.
func ProblemCodes() (codes []string) {
	for code := range problemKinds {
		codes = append(codes, string(code))
	}
	return codes
}

// Unavailable is the error of a backend that did not make, or could not confirm, a
// change.
type Unavailable interface {
	error
	// Outcome tells the client in sentences what became of the change.
	Outcome() string
	// Logged reports whether the backend has logged the cause itself.
	Logged() bool
	// RetryAfter is how long the client should wait before it tries again.
	RetryAfter() time.Duration
}

// problemTypePrefix and a code together link to the heading of the code on the
// reference page.
const problemTypePrefix = "/docs#section/Problems/"

// invalidRequest is the problem of a malformed parameter, header or body.
func invalidRequest(format string, args ...any) *problem {
	return &problem{code: api.ProblemCodeInvalidRequest, detail: fmt.Sprintf(format, args...)}
}

// asProblem converts any error to a problem. Errors that it does not know are internal.
func (a *API) asProblem(err error) *problem {
	// AsType allocates nothing, unlike As, and a missing session is common.
	p, isProblem := errors.AsType[*problem](err)
	limited, isLimited := errors.AsType[*auth.LimitedError](err)
	keysErr, isKeysErr := errors.AsType[*keys.InvalidError](err)
	tooManyValues, isTooManyValues := errors.AsType[*api.TooManyValuesForParamError](err)
	unavailable, isUnavailable := errors.AsType[Unavailable](err)
	held, isHeld := errors.AsType[*keys.HeldError](err)
	invalidReport, isInvalidReport := errors.AsType[*consumers.InvalidError](err)
	malformed, isMalformed := errors.AsType[*headers.MalformedError](err)
	badParam, isBadParam := errors.AsType[*api.InvalidParamFormatError](err)
	switch {
	case isProblem:
		return p
	case errors.Is(err, auth.ErrUnauthenticated):
		return &problem{code: api.ProblemCodeUnauthenticated}
	case errors.Is(err, auth.ErrForbidden):
		return &problem{code: api.ProblemCodeForbidden}
	case isLimited:
		return &problem{
			code:   api.ProblemCodeTooManyRequests,
			header: http.Header{"Retry-After": {strconv.Itoa(limited.RetryAfterSeconds())}},
		}
	case errors.Is(err, cache.ErrTooLarge), errors.Is(err, sslsession.ErrTooLarge):
		return &problem{code: api.ProblemCodeSessionTooLarge, limit: int64(a.cfg.MaxSessionBytes)}
	case errors.Is(err, cache.ErrClosed):
		return &problem{code: api.ProblemCodeOverloaded, detail: "The service is stopping."}
	case errors.Is(err, cache.ErrInvalidID):
		return &problem{code: api.ProblemCodeInvalidSessionID}
	case errors.Is(err, cache.ErrNotFound):
		return &problem{code: api.ProblemCodeSessionNotFound}
	case errors.Is(err, cache.ErrPrecondition), errors.Is(err, keys.ErrPrecondition):
		return &problem{code: api.ProblemCodePreconditionFailed}
	case errors.Is(err, cache.ErrEmpty):
		return &problem{code: api.ProblemCodeInvalidSession, detail: "The session is empty."}
	case errors.Is(err, cache.ErrExpired):
		return &problem{code: api.ProblemCodeInvalidSession, detail: "The session has expired: its own start plus timeout has passed. ttl_seconds sets another lifetime."}
	case errors.Is(err, sslsession.ErrNotSession), errors.Is(err, sslsession.ErrPEM):
		return &problem{code: api.ProblemCodeInvalidSession, detail: sentence(err)}
	case errors.Is(err, keys.ErrKeyNotFound):
		return &problem{code: api.ProblemCodeKeyNotFound}
	case errors.Is(err, consumers.ErrNotFound):
		return &problem{code: api.ProblemCodeConsumerNotFound}
	case errors.Is(err, consumers.ErrTooMany):
		return &problem{code: api.ProblemCodeTooManyConsumers}
	case errors.Is(err, consumers.ErrOwned):
		return &problem{code: api.ProblemCodeForbidden, detail: "Another identity owns this consumer until its report expires."}
	case isInvalidReport:
		return invalidRequest("%s", invalidReport)
	case isUnavailable:
		seconds := max(1, int(math.Ceil(unavailable.RetryAfter().Seconds())))
		return &problem{
			code:   api.ProblemCodeBackendUnavailable,
			detail: unavailable.Outcome(),
			header: http.Header{"Retry-After": {strconv.Itoa(seconds)}},
		}
	case errors.Is(err, keys.ErrUnavailable), errors.Is(err, errUnrecorded), errors.Is(err, errNotFlushed):
		return &problem{code: api.ProblemCodeBackendUnavailable}
	case isHeld:
		return &problem{
			code: api.ProblemCodeConsumersBehind,
			detail: fmt.Sprintf("The next key becomes current when all consumers hold it, at the latest at %s. Nothing has changed.",
				held.Until.UTC().Format(time.RFC3339)),
		}
	case errors.Is(err, keys.ErrNoSuchKey):
		return &problem{code: api.ProblemCodeKeyNotFound, detail: "The active set has no key with this number."}
	case isKeysErr:
		return &problem{code: api.ProblemCodeInvalidTicketKeys, fields: fieldErrors(keysErr.Issues)}
	case isTooManyValues:
		return invalidRequest("%s: must be sent once", tooManyValues.ParamName)
	case isMalformed:
		return invalidRequest("%s", malformed)
	case isBadParam:
		return invalidRequest("%s: malformed", badParam.ParamName)
	}
	return &problem{code: api.ProblemCodeInternal}
}

func fieldErrors(issues []keys.Issue) []api.FieldError {
	fields := make([]api.FieldError, len(issues))
	for i, issue := range issues {
		fields[i] = api.FieldError{Field: issue.Field, Reason: issue.Reason}
	}
	return fields
}

// sentence turns an error's text into the detail of a problem.
func sentence(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// fail answers with the problem of err. All errors leave through it: those of handlers,
// of the generated parameter binding, of the router (404 and 405), of the limits, and
// recovered panics. The cause of an internal or backend error only goes to the log.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := a.asProblem(err)
	id := requestID(w, r)
	a.cfg.Recorder.Problem(string(p.code))
	unavailable, isUnavailable := errors.AsType[Unavailable](err)
	if p.code == api.ProblemCodeInternal || p.code == api.ProblemCodeBackendUnavailable && !(isUnavailable && unavailable.Logged()) {
		a.cfg.Log.LogAttrs(r.Context(), slog.LevelError, "request failed",
			slog.String("request_id", id), slog.String("method", loggedMethod(r)), slog.String("error", err.Error()))
	}
	if p.code == api.ProblemCodeUnauthenticated || p.code == api.ProblemCodeForbidden {
		a.recordDenial(w, r, p.code, err)
	}
	kind := problemKinds[p.code]
	body := p.document(id)
	// Remove headers that describe the response that was intended.
	h := w.Header()
	for _, name := range [...]string{"Content-Length", "Content-Range", "Accept-Ranges", "Etag", "Session-Size", "Preference-Applied"} {
		delete(h, name)
	}
	if kind.header[0] != "" {
		h.Set(kind.header[0], kind.header[1])
	}
	maps.Copy(h, p.header)
	if p.code == api.ProblemCodeUnauthenticated && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		h.Set("Connection", "close") // a newer certificate needs a new connection
	}
	noStore(w)
	h.Set("Content-Type", "application/problem+json")
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(kind.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) //nolint:gosec // JSON, which no browser takes for a page; a client that went away is no error of ours
	}
}

// document returns the problem as JSON, with a final newline.
func (p *problem) document(requestID string) []byte {
	kind := problemKinds[p.code]
	doc := api.Problem{
		Type:      problemTypePrefix + string(p.code),
		Title:     kind.title,
		Status:    kind.status,
		Detail:    p.detail,
		Code:      p.code,
		RequestID: requestID,
	}
	if doc.Detail == "" {
		doc.Detail = kind.detail
	}
	if p.limit != 0 {
		doc.LimitBytes = &p.limit
	}
	if p.size != 0 {
		doc.Size = &p.size
	}
	if p.fields != nil {
		doc.Errors = &p.fields
	}
	body, err := json.Marshal(doc)
	if err != nil { // a struct of strings and numbers always marshals
		panic(err)
	}
	return append(body, '\n')
}

const requestIDHeader = "X-Request-Id"

// requestID returns the ID of the request in the log: the client's X-Request-Id if it
// is sane, else a random one. The response carries it as a header, where later calls
// find it.
func requestID(w http.ResponseWriter, r *http.Request) string {
	id := w.Header().Get(requestIDHeader)
	if id != "" {
		return id
	}
	id = r.Header.Get(requestIDHeader)
	if !saneRequestID(id) {
		id = rand.Text()
	}
	w.Header().Set(requestIDHeader, id)
	return id
}

// saneRequestID reports whether a client's request ID is short and plain enough to log.
func saneRequestID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	return !strings.ContainsFunc(id, func(c rune) bool {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune("-_.:", c):
			return false
		}
		return true
	})
}
