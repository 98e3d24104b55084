package handlers

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/elnormous/contenttype"

	"github.com/sessapi/sessapi/internal/api"
)

const (
	mediaJSON  = "application/json"
	mediaBytes = "application/octet-stream"
	mediaPEM   = "application/x-pem-file"
)

// representations are the media types that a resource has, the default first.
type representations []contenttype.MediaType

func newRepresentations(mediaTypes ...string) representations {
	r := make(representations, len(mediaTypes))
	for i, mediaType := range mediaTypes {
		r[i] = contenttype.NewMediaType(mediaType)
	}
	return r
}

// negotiate picks the one that Accept prefers (RFC 9110, section 12.5.1).
func (rs representations) negotiate(r *http.Request) (string, error) {
	accept := r.Header["Accept"]
	if len(accept) == 0 {
		return rs[0].MIME(), nil
	}
	if len(accept) == 1 {
		for _, have := range rs {
			if accept[0] == have.Type+"/"+have.Subtype {
				return accept[0], nil
			}
		}
	}
	chosen, _, err := contenttype.GetAcceptableMediaTypeFromHeader(strings.Join(accept, ","), rs)
	switch {
	case errors.Is(err, contenttype.ErrNoAcceptableTypeFound):
		names := make([]string, len(rs))
		for i, have := range rs {
			names[i] = have.MIME()
		}
		return "", &problem{
			code:   api.ProblemCodeNotAcceptable,
			detail: "Nothing that Accept admits can be sent; there is " + strings.Join(names, ", ") + ".",
		}
	case err != nil:
		return "", invalidRequest("Accept: malformed")
	}
	return chosen.MIME(), nil
}

// bodyType is the media type of the request's body, one of those taken.
func bodyType(r *http.Request, taken ...string) (string, error) {
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

// readBody reads the request's body into dst, which has room for more than
// limit bytes. A body over the limit is tooLarge; it is not read further.
func readBody(dst []byte, w http.ResponseWriter, r *http.Request, limit int, tooLarge error) ([]byte, error) {
	if r.ContentLength > int64(limit) {
		return dst, tooLarge
	}
	body := http.MaxBytesReader(w, r.Body, int64(limit))
	for {
		n, err := body.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		var overLimit *http.MaxBytesError
		switch {
		case err == io.EOF:
			return dst, nil
		case errors.As(err, &overLimit):
			return dst, tooLarge
		case err != nil:
			return dst, invalidRequest("The body broke off.")
		}
	}
}

// decodeJSON decodes exactly one JSON value without unknown members. Its
// errors say where and what, and never quote the input.
func decodeJSON(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	var (
		syntax    *json.SyntaxError
		wrongType *json.UnmarshalTypeError
		base64Err base64.CorruptInputError
	)
	switch {
	case err == nil:
		if _, err := dec.Token(); err != io.EOF {
			return invalidRequest("The JSON body is followed by something.")
		}
		return nil
	case errors.As(err, &syntax):
		return invalidRequest("The JSON body is malformed at byte %d.", syntax.Offset)
	case errors.As(err, &wrongType):
		return invalidRequest("%s: must not be a JSON %s", wrongType.Field, strings.Fields(wrongType.Value)[0])
	case errors.As(err, &base64Err):
		return errBase64
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return invalidRequest("The JSON body is incomplete.")
	}
	return invalidRequest("The JSON body has a member that the schema does not know.")
}

var errBase64 = &problem{code: api.ProblemCodeInvalidSession, detail: "data is not base64."}

// writeJSON answers with v as JSON.
func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // a response model always marshals
		panic(err)
	}
	h := w.Header()
	h.Set("Content-Type", mediaJSON)
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that went away is no error of ours
}

// noStore keeps an answer out of every cache.
func noStore(w http.ResponseWriter) { w.Header().Set("Cache-Control", "no-store") }
