package handlers

import (
	"bytes"
	"embed"
	"html"
	"net/http"
	"path"
	"sync"

	"github.com/goccy/go-yaml"

	"github.com/sessapi/sessapi"
)

//go:embed docs
var docs embed.FS

// openAPIJSON is converted on first use, so that the service starts faster.
var openAPIJSON = sync.OnceValues(func() ([]byte, error) { return yaml.YAMLToJSON(sessapi.OpenAPI) })

// GetOpenAPIYAML implements [api.ServerInterface].
func (a *API) GetOpenAPIYAML(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(sessapi.OpenAPI)
}

// GetOpenAPIJSON implements [api.ServerInterface].
func (a *API) GetOpenAPIJSON(w http.ResponseWriter, r *http.Request) {
	document, err := openAPIJSON()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", mediaJSON)
	_, _ = w.Write(document)
}

// docsPolicy lets the reference page load only files of the service itself. The
// renderer inserts inline styles, and searches in a worker that it creates from a blob.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; " +
	"connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// docsPage is the reference page. It contains the contract for readers without
// JavaScript. The first request renders it.
var docsPage = sync.OnceValues(func() ([]byte, error) {
	page, err := docs.ReadFile("docs/index.html")
	return bytes.Replace(page, []byte("CONTRACT"), []byte(html.EscapeString(string(sessapi.OpenAPI))), 1), err
})

// GetDocs implements [api.ServerInterface].
func (a *API) GetDocs(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", docsPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Type", "text/html; charset=utf-8")
	page, err := docsPage()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	_, _ = w.Write(page)
}

// GetDocsFile implements [api.ServerInterface].
func (a *API) GetDocsFile(w http.ResponseWriter, r *http.Request, file string) {
	mediaType := map[string]string{".js": "text/javascript", ".txt": mediaText}[path.Ext(file)]
	if mediaType == "" {
		a.routeNotFound(w, r)
		return
	}
	content, err := docs.ReadFile("docs/" + file)
	if err != nil {
		a.routeNotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", mediaType+"; charset=utf-8")
	_, _ = w.Write(content)
}
