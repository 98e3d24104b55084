package handlers

import (
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/handlers/headers"
)

const (
	mediaJSON  = "application/json"
	mediaBytes = "application/octet-stream"
	mediaPEM   = "application/x-pem-file"
	mediaText  = "text/plain"
	mediaYAML  = "application/yaml"
)

// negotiate picks the media type of the response. See [headers.Negotiate].
func negotiate(r *http.Request, offered ...string) (string, error) {
	mediaType, err := headers.Negotiate(r.Header["Accept"], offered...)
	if errors.Is(err, headers.ErrNotAcceptable) {
		err = &problem{
			code:   api.ProblemCodeNotAcceptable,
			detail: "The resource has no representation that Accept admits; it has " + strings.Join(offered, ", ") + ".",
		}
	}
	return mediaType, err
}

// bodyType returns the media type of the request body if it is one of taken.
func bodyType(r *http.Request, taken ...string) (string, error) {
	if r.Header["Content-Range"] != nil { // a part must not replace the whole (RFC 9110, section 14.5)
		return "", invalidRequest("Content-Range: partial updates are not supported")
	}
	if slices.ContainsFunc(r.Header["Content-Encoding"], isCoded) {
		return "", &problem{
			code:   api.ProblemCodeUnsupportedMediaType,
			detail: "The body must have no Content-Encoding.",
			header: http.Header{"Accept": {strings.Join(taken, ", ")}, "Accept-Encoding": {"identity"}},
		}
	}
	header := r.Header.Get("Content-Type")
	if slices.Contains(taken, header) {
		return header, nil
	}
	mediaType, _, err := mime.ParseMediaType(header)
	if err == nil && slices.Contains(taken, mediaType) {
		return mediaType, nil
	}
	list := strings.Join(taken, ", ")
	return "", &problem{
		code:   api.ProblemCodeUnsupportedMediaType,
		detail: "The body's Content-Type must be one of " + list + ".",
		header: http.Header{"Accept": {list}},
	}
}

// isCoded reports whether a Content-Encoding is other than identity.
func isCoded(coding string) bool { return coding != "" && !strings.EqualFold(coding, "identity") }

// readBody reads the request body into dst. dst is empty and has room for more than the
// body or, if its length is unknown, for more than limit bytes. A body over the limit
// fails with tooLarge. Its rest is not read, so an HTTP/1 connection is closed.
func readBody(dst []byte, w http.ResponseWriter, r *http.Request, limit int, tooLarge error) ([]byte, error) {
	if r.ContentLength > int64(limit) {
		closeConnection(w, r)
		return dst, tooLarge
	}
	for len(dst) <= limit {
		n, err := r.Body.Read(dst[len(dst):min(cap(dst), limit+1)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, bodyProblem(err)
		}
	}
	closeConnection(w, r)
	return dst, tooLarge
}

// bodyProblem is the problem of a body that cannot be read completely.
func bodyProblem(err error) *problem {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return invalidRequest("The body did not arrive in time.")
	}
	return invalidRequest("The body ended early.")
}

// closeConnection closes the connection after the response, unless it is HTTP/2: that
// can drop the body of one request and serve others.
func closeConnection(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
}

var bytesType = reflect.TypeFor[[]byte]()

// notBase64 is a member, by its JSON Pointer, that is not base64.
type notBase64 struct {
	pointer  string
	lineEnds bool // it is base64 except for line ends
}

// Error completes a sentence that begins with the member.
func (e notBase64) Error() string {
	if e.lineEnds {
		return "has line ends in its base64; write it on one line (base64 -w 0, openssl base64 -A)"
	}
	return "is not base64"
}

// decodeJSON decodes exactly one JSON value. It rejects unknown and repeated members,
// names in another case, and base64 with white space. Its errors say where and what is
// wrong, and never quote the input.
func decodeJSON(data []byte, v any) error {
	if err := json.Unmarshal(data, v, json.RejectUnknownMembers(true)); err != nil {
		return jsonProblem(err)
	}
	return nil
}

// jsonProblem converts an error of the JSON decoder.
func jsonProblem(err error) error {
	syntax, isSyntax := errors.AsType[*jsontext.SyntacticError](err)
	semantic, isSemantic := errors.AsType[*json.SemanticError](err)
	switch {
	case errors.Is(err, json.ErrUnknownName):
		return invalidRequest("The JSON body has an unknown member.")
	case errors.Is(err, jsontext.ErrDuplicateName):
		return invalidRequest("The JSON body repeats a member.")
	case isSyntax:
		return invalidRequest("The JSON body is malformed at byte %d.", syntax.ByteOffset)
	case isSemantic && semantic.JSONPointer == "":
		return invalidRequest("The JSON body must be an object.")
	case isSemantic && semantic.JSONKind == '"' && semantic.GoType == bytesType:
		_, isCorrupt := errors.AsType[base64.CorruptInputError](semantic.Err)
		return notBase64{string(semantic.JSONPointer), !isCorrupt} // the decoder skips line ends, which JSON must not have here
	case isSemantic: // every name in the pointer is from the schema
		return invalidRequest("%s: has the wrong JSON type, or is out of range", semantic.JSONPointer)
	}
	return invalidRequest("The JSON body is malformed.")
}

var jsonOptions = json.JoinOptions(
	// JSON must be UTF-8, the content of a session need not be: U+FFFD replaces invalid
	// bytes.
	jsontext.AllowInvalidUTF8(true),
	json.WithMarshalers(json.MarshalToFunc(func(e *jsontext.Encoder, t time.Time) error {
		return e.WriteToken(jsontext.String(t.Format(audit.TimeFormat)))
	})),
)

// marshal returns v as a line of JSON.
func marshal(v any) []byte {
	body, err := json.Marshal(v, jsonOptions)
	if err != nil { // a response model always marshals
		panic(err)
	}
	return append(body, '\n')
}

// writeJSON answers with v as JSON.
func writeJSON(w http.ResponseWriter, status int, v any) { writeBody(w, status, marshal(v)) }

// writeBody answers with a line of JSON.
func writeBody(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", mediaJSON)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only when the client is gone
}

// noStore forbids caches to store the response.
func noStore(w http.ResponseWriter) { w.Header().Set("Cache-Control", "no-store") }
