// Package console serves the console, the page for the person on call. The page is built
// from web/ into dist/ and holds no data: it reads the API with the credentials of its
// user.
package console

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
)

//go:embed dist
var dist embed.FS

// policy lets the page load and call only the service itself. It has no inline script
// and no inline style.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

var mediaTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

// ServePage serves the page. A browser asks each time whether it has changed.
func ServePage(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	serve(w, r, "index.html", "no-cache")
}

// ServeFile serves a file that the page names. It reports false if there is none. The
// build puts a hash of the content into the names of all but the icon.
func ServeFile(w http.ResponseWriter, r *http.Request, name string) bool {
	caching := "public, max-age=31536000, immutable"
	if name == "icon.svg" {
		caching = "no-cache"
	}
	return name != "index.html" && serve(w, r, name, caching)
}

func serve(w http.ResponseWriter, r *http.Request, name, caching string) bool {
	content, err := dist.ReadFile("dist/" + name)
	if err != nil {
		return false
	}
	hash := sha256.Sum256(content)
	etag := `"` + hex.EncodeToString(hash[:16]) + `"`
	h := w.Header()
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", caching)
	h.Set("ETag", etag)
	if strings.Contains(r.Header.Get("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return true
	}
	h.Set("Content-Type", mediaTypes[path.Ext(name)])
	_, _ = w.Write(content)
	return true
}
