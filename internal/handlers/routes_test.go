package handlers

import (
	"fmt"
	"net/http"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/goccy/go-yaml"

	"github.com/sessapi/sessapi"
)

// chiContext gives a handler the router's context, as a router does.
func chiContext(h http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Handle("/*", h)
	return r
}

// The table has the operations of the contract, and is the one that was
// reviewed: a route cannot come or go, or change its listener, unseen.
func TestRoutes(t *testing.T) {
	var document struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	if err := yaml.Unmarshal(sessapi.OpenAPI, &document); err != nil {
		t.Fatal(err)
	}
	var described []string
	for path, item := range document.Paths {
		for method := range item {
			if method != "parameters" {
				described = append(described, strings.ToUpper(method)+" "+path)
			}
		}
	}
	var table strings.Builder
	var routed []string
	for _, rt := range newAPI(t).routes() {
		listener := "main"
		if rt.ops {
			listener = "ops"
		}
		if rt.permit == 0 {
			t.Errorf("%s %s has no permission", rt.method, rt.pattern)
		}
		if (rt.secret != 0) != (rt.asksSecret != nil) {
			t.Errorf("%s %s says only half of what secrets need", rt.method, rt.pattern)
		}
		permit := rt.permit.String()
		if rt.secret != 0 {
			permit += "; secrets: " + rt.secret.String()
		}
		fmt.Fprintf(&table, "%-6s %-20s %-4s %s\n", rt.method, rt.pattern, listener, permit)
		routed = append(routed, rt.method+" "+rt.pattern)
	}
	sort.Strings(described)
	sort.Strings(routed)
	if d, r := strings.Join(described, "\n"), strings.Join(routed, "\n"); d != r {
		t.Errorf("openapi.yaml describes\n%s\n\nthe table routes\n%s", d, r)
	}
	golden, err := os.ReadFile("testdata/routes.golden")
	if err != nil {
		t.Fatal(err)
	}
	if table.String() != string(golden) {
		t.Errorf("testdata/routes.golden should be, after review:\n%s", &table)
	}
}
