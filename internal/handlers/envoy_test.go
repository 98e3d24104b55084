package handlers

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sessapi/sessapi/internal/api"
)

// A body is read to its end or rejected for its own fault, in whatever pieces it
// arrives, and at most one token of it is held.
func FuzzDiscovery(f *testing.F) {
	for _, seed := range []string{
		`{"version_info":"1","node":{"id":"a","metadata":{"b":[1,{"c":null}]}},"resource_names":["ticket-keys"],"type_url":"` + secretTypeURL + `","response_nonce":"","error_detail":{"code":3,"message":"x","details":[]}}`,
		`{"versionInfo":"1","resourceNames":["*"],"typeUrl":"x","errorDetail":null}`,
		`{"resource_names":null} `, `{"resource_names":[]}`, `{"resource_names":[1]}`, `{"resource_names":{}}`,
		`{"version_info":1}`, `{"a":1,"a":2}`, `{}{}`, `null`, `[`, ``, `{"node":{"x":"` + strings.Repeat("y", maxDiscoveryToken) + `"}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		read := func(r *http.Request) (discovery, string) {
			request, err := readDiscovery(httptest.NewRecorder(), r)
			if err != nil {
				if problem, ok := errors.AsType[*problem](err); !ok || problem.code != api.ProblemCodeInvalidRequest {
					t.Fatal(err)
				}
				return discovery{}, err.Error()
			}
			if max(len(request.VersionInfo), len(request.TypeURL)) > 2*maxDiscoveryToken {
				t.Fatal("a string that is longer than what may be held")
			}
			return *request, ""
		}
		whole := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		slow := httptest.NewRequest(http.MethodPost, "/", iotest.OneByteReader(strings.NewReader(body)))
		got, failure := read(whole)
		again, failureAgain := read(slow)
		got.ErrorDetail, again.ErrorDetail = nil, nil
		if len(body) < maxDiscoveryToken && (got != again || failure != failureAgain) {
			t.Errorf("%+v, %q at once; %+v, %q byte by byte", got, failure, again, failureAgain)
		}
	})
}
