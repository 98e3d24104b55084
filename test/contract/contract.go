// Package contract holds HTTP exchanges against openapi.yaml: what a test does
// through a checked handler is proved to be what the document says.
package contract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/sessapi/sessapi"
)

// Contract is openapi.yaml, ready to check exchanges.
type Contract struct {
	Doc    *openapi3.T
	router routers.Router
}

// Load reads and validates openapi.yaml.
func Load(tb testing.TB) *Contract {
	tb.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(sessapi.OpenAPI)
	if err != nil {
		tb.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		tb.Fatal(err)
	}
	doc.Servers = nil // paths are checked on whatever address a test listens
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		tb.Fatal(err)
	}
	for _, mediaType := range []string{"application/x-pem-file", "image/svg+xml", "text/css", "text/html", "text/javascript", "text/event-stream", "application/openmetrics-text", "application/vnd.google.protobuf"} {
		openapi3filter.RegisterBodyDecoder(mediaType, openapi3filter.FileBodyDecoder)
	}
	return &Contract{Doc: doc, router: router}
}

// Check is next with every exchange checked. What breaks the contract fails the
// test:
//
//   - a request that the document does not allow and that is not answered
//     with 4xx;
//   - an answer whose status, headers, media type or body the document does
//     not have for the operation;
//   - an error that is no problem document;
//   - an answer without the headers that all have.
func (c *Contract) Check(tb testing.TB, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		sent := r.Clone(r.Context())
		sent.Body = io.NopCloser(bytes.NewReader(body))
		if err == nil {
			r.Body = io.NopCloser(bytes.NewReader(body))
		} else { // a client that breaks off has to look like one to next
			r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), brokenReader{err}))
		}
		recorder := httptest.NewRecorder()
		next.ServeHTTP(finalOnly{recorder}, r)
		response := recorder.Result()
		answer := recorder.Body.Bytes()
		if err := c.exchange(sent, response, answer); err != nil {
			tb.Errorf("%s %s answered %d breaks the contract: %v", r.Method, r.URL, response.StatusCode, err)
		}
		maps.Copy(w.Header(), response.Header)
		w.WriteHeader(response.StatusCode)
		if r.Method != http.MethodHead {
			_, _ = w.Write(answer)
		}
	})
}

// finalOnly passes over 1xx answers, which a proxy hands on and a recorder takes
// for the answer.
type finalOnly struct{ *httptest.ResponseRecorder }

func (w finalOnly) WriteHeader(status int) {
	if status >= 200 {
		w.ResponseRecorder.WriteHeader(status)
	}
}

type brokenReader struct{ err error }

func (r brokenReader) Read([]byte) (int, error) { return 0, r.err }

// everyAnswer is the headers that the document's description gives every answer.
var everyAnswer = map[string]string{"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}

// exchange returns what is wrong with an answer to a request.
func (c *Contract) exchange(r *http.Request, response *http.Response, body []byte) error {
	for name, want := range everyAnswer {
		if got := response.Header.Get(name); got != want {
			return fmt.Errorf("%s is %q", name, got)
		}
	}
	if response.StatusCode >= 400 && r.Method != http.MethodHead && r.URL.Path != "/readyz" {
		if got := response.Header.Get("Content-Type"); got != "application/problem+json" {
			return fmt.Errorf("an error of type %q", got)
		}
	}
	input, err := c.route(r)
	if err != nil { // no such route or method: there is no more to hold it against
		if response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusMethodNotAllowed {
			return nil
		}
		return fmt.Errorf("the document has no such operation: %w", err)
	}
	if err := openapi3filter.ValidateRequest(r.Context(), input); err != nil && (response.StatusCode < 400 || response.StatusCode > 499) {
		return fmt.Errorf("the request is not valid: %w", err)
	}
	if r.Method == http.MethodHead {
		return c.head(input, response)
	}
	return openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input,
		Status:                 response.StatusCode,
		Header:                 response.Header,
		Body:                   io.NopCloser(bytes.NewReader(body)),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	})
}

// head checks an answer without a body, which the library lets pass.
func (c *Contract) head(input *openapi3filter.RequestValidationInput, response *http.Response) error {
	described := input.Route.Operation.Responses.Status(response.StatusCode)
	if described == nil {
		return errors.New("the document has no such status")
	}
	for name, header := range described.Value.Headers {
		if header.Value.Required && response.Header.Get(name) == "" {
			return fmt.Errorf("there is no %s", name)
		}
	}
	return nil
}

// Valid reports whether the document allows the request; nil when it does. The
// body can be read again afterwards.
func (c *Contract) Valid(r *http.Request) error {
	input, err := c.route(r)
	if err != nil {
		return err
	}
	return openapi3filter.ValidateRequest(r.Context(), input)
}

// route finds the operation of a request. Where the document has GET alone,
// HEAD is held against it.
func (c *Contract) route(r *http.Request) (*openapi3filter.RequestValidationInput, error) {
	route, params, err := c.router.FindRoute(r)
	if err != nil && r.Method == http.MethodHead {
		get := r.Clone(r.Context())
		get.Method = http.MethodGet
		route, params, err = c.router.FindRoute(get)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.Method, strings.SplitN(r.URL.Path, "?", 2)[0], err)
	}
	return &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		// Credentials are for the service to judge.
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}, nil
}
