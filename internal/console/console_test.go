package console

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// maxSize is the size of all files together, as a browser that compresses gets them.
const maxSize = 150 << 10

func get(t *testing.T, name, ifNoneMatch string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("If-None-Match", ifNoneMatch)
	if name == "" {
		ServePage(w, r)
	} else if !ServeFile(w, r, name) {
		t.Fatalf("there is no %s", name)
	}
	return w
}

// The page has no script or style of its own, and its files are there, small, and cached
// by their names.
func TestPage(t *testing.T) {
	page := get(t, "", "")
	for header, want := range map[string]string{
		"Content-Security-Policy":    policy,
		"Cross-Origin-Opener-Policy": "same-origin",
		"Referrer-Policy":            "no-referrer",
		"Cache-Control":              "no-cache",
		"Content-Type":               "text/html; charset=utf-8",
	} {
		if got := page.Header().Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	html := page.Body.String()
	if strings.Contains(policy, "unsafe") || regexp.MustCompile(`<style|style=|<script[^>]*>[^<]`).MatchString(html) {
		t.Errorf("inline script or style, or a policy for it: %s\n%s", policy, html)
	}
	files := regexp.MustCompile(`"console/([^"]+)"`).FindAllStringSubmatch(html, -1)
	if len(files) != 3 { // script, style and icon
		t.Fatalf("the page names %v", files)
	}
	bodies := [][]byte{page.Body.Bytes()}
	for _, file := range files {
		w := get(t, file[1], "")
		caching := w.Header().Get("Cache-Control")
		if hashed := strings.Contains(file[1], "-"); hashed != strings.Contains(caching, "immutable") {
			t.Errorf("%s: Cache-Control is %s", file[1], caching)
		}
		if w.Header().Get("Content-Type") == "" || w.Body.Len() == 0 {
			t.Errorf("%s: %v, %d bytes", file[1], w.Header(), w.Body.Len())
		}
		bodies = append(bodies, w.Body.Bytes())
	}
	size := 0
	for _, body := range bodies {
		var compressed bytes.Buffer
		zip := gzip.NewWriter(&compressed)
		_, _ = zip.Write(body)
		_ = zip.Close()
		size += compressed.Len()
	}
	t.Logf("%d bytes compressed", size)
	if size > maxSize {
		t.Errorf("the page has %d bytes compressed, more than %d", size, maxSize)
	}
	if entries, err := dist.ReadDir("dist"); err != nil || len(entries) != len(bodies) {
		t.Errorf("%d files are embedded, %d are in use: %v", len(entries), len(bodies), err)
	}
}

func TestNotModified(t *testing.T) {
	page := get(t, "", `"another"`)
	if page.Code != http.StatusOK {
		t.Fatalf("status is %d", page.Code)
	}
	again := get(t, "", page.Header().Get("ETag"))
	if again.Code != http.StatusNotModified || again.Body.Len() != 0 || again.Header().Get("Content-Security-Policy") == "" {
		t.Errorf("%d, %v, %d bytes", again.Code, again.Header(), again.Body.Len())
	}
}

func TestNoSuchFile(t *testing.T) {
	for _, name := range []string{"index.html", "../console.go", "", ".", "nothing.js"} {
		w := httptest.NewRecorder()
		if ServeFile(w, httptest.NewRequest(http.MethodGet, "/", nil), name) || len(w.Header()) != 0 {
			t.Errorf("%q is served: %v", name, w.Header())
		}
	}
}
