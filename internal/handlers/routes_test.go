package handlers

import (
	"fmt"
	"net/http"
	"os"
	"path"
	"slices"
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

// queryParameters lists the names of the query parameters of an operation of the
// contract.
func queryParameters(operation any, components map[string]any) string {
	names := []string{}
	parameters, _ := operation.(map[string]any)["parameters"].([]any)
	for _, parameter := range parameters {
		p := parameter.(map[string]any)
		if reference, ok := p["$ref"].(string); ok {
			p = components[path.Base(reference)].(map[string]any)
		}
		if p["in"] == "query" {
			names = append(names, p["name"].(string))
		}
	}
	slices.Sort(names)
	return fmt.Sprint(names)
}

// Every operation rejects a query parameter that is not in the contract, and does
// nothing.
func TestUnknownQueryParameters(t *testing.T) {
	a := newAPI(t)
	h := a.Handler()
	put := serve(h, http.MethodPut, "/sessions/01", strings.NewReader("opaque"), "Content-Type", mediaBytes)
	if put.Code != http.StatusCreated {
		t.Fatal(put.Body)
	}
	generation := a.cfg.Ring.Description().Generation
	for _, rt := range a.routes() {
		target := strings.NewReplacer("{id}", "01", "{name}", strings.Repeat("0", 32), "{file}", "init.js").Replace(rt.pattern)
		for _, query := range []string{"max_byte=1", "id=01", "a", strings.Repeat("x", 1000) + "=1", "%E4=1"} {
			w := serve(h, rt.method, target+"?"+query, nil)
			if w.Code != http.StatusBadRequest {
				t.Errorf("%s %s?%.20s: %d", rt.method, target, query, w.Code)
			}
			name, _, _ := strings.Cut(query, "=")
			if text := w.Body.String(); rt.method != http.MethodHead && (!strings.Contains(text, `"code":"invalid_request"`) ||
				len(name) < 20 && !strings.Contains(name, "%") && !strings.Contains(text, name) || len(text) > 1000) {
				t.Errorf("%s %s?%.20s: %s", rt.method, target, query, text)
			}
		}
	}
	if w := serve(h, http.MethodGet, "/sessions/01", nil); w.Code != http.StatusOK {
		t.Errorf("the session: %d", w.Code)
	}
	if got := a.cfg.Ring.Description().Generation; got != generation {
		t.Error("the ticket keys have changed")
	}
}

// The table has the operations of the contract with their query parameters, and equals
// the reviewed one: no route appears, disappears or moves to another listener unseen.
func TestRoutes(t *testing.T) {
	var document struct {
		Paths      map[string]map[string]any `yaml:"paths"`
		Components struct {
			Parameters map[string]any `yaml:"parameters"`
		} `yaml:"components"`
	}
	if err := yaml.Unmarshal(sessapi.OpenAPI, &document); err != nil {
		t.Fatal(err)
	}
	var described []string
	for pattern, item := range document.Paths {
		for method, operation := range item {
			if method != "parameters" {
				described = append(described, strings.ToUpper(method)+" "+pattern+queryParameters(operation, document.Components.Parameters))
			}
		}
	}
	var table strings.Builder
	var routed []string
	for _, rt := range newAPI(t).routes() {
		listener := [...]string{onMain: "main", onOps: "ops", onBoth: "both"}[rt.on]
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
		query := slices.Sorted(slices.Values(rt.query))
		routed = append(routed, fmt.Sprint(rt.method+" "+rt.pattern, query))
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
