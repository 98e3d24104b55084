package client

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// A description that breaks the contract is an error, which repeats nothing of it.
func TestHostileDescription(t *testing.T) {
	const (
		escape = `\u001b[2J`
		name   = `"name":"5c3a7f0e9b2d4c618f0a1b2c3d4e5f60"`
		hex    = "422d51ad3eb9527559044e224a606b0f"
		key    = `{` + name
	)
	body := described
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
	second := func(name, role string) string {
		return `,{"name":"` + name + `","role":"` + role + `","bits":128,"fingerprint":"` + hex + `"}]`
	}
	for what, change := range map[string][2]string{
		"name":              {name, `"name":"` + escape + `"`},
		"long name":         {name, `"name":"` + strings.Repeat("a", 40<<10) + `"`},
		"upper-case name":   {name, `"name":"5C3A7F0E9B2D4C618F0A1B2C3D4E5F60"`},
		"name and line end": {name, `"name":"5c3a7f0e9b2d4c618f0a1b2c3d4e5f60\n"`},
		"role":              {"current", escape},
		"bits":              {"256", "255"},
		"fingerprint":       {hex, escape},
		"source":            {`"api"`, `"` + escape + `"`},
		"long source":       {`"api"`, `"` + strings.Repeat("a", 65) + `"`},
		"upper-case source": {`"api"`, `"API"`},
		"cut off":           {"}]", ""},
		"time":              {"2026-11-24T20:31:02Z", escape + strings.Repeat("x", 10<<10)},
		"no keys":           {key, `{"keys":[]}`},
		"empty":             {described, `{"generation":7,"source":"api","keys":[]}`},
		"no current":        {`"current"`, `"next"`},
		"two current":       {"}]", "}" + second(hex, "current")},
		"two next":          {"}]", "}" + strings.TrimSuffix(second(hex, "next"), "]") + second(hex[1:]+"0", "next")},
		"one name twice":    {"}]", "}" + second("5c3a7f0e9b2d4c618f0a1b2c3d4e5f60", "previous")},
		"65 keys":           {"}]", "}" + strings.Repeat(strings.TrimSuffix(second(hex, "previous"), "]"), 64) + "]"},
	} {
		body = strings.Replace(described, change[0], change[1], 1)
		d, err := c.Rotate(t.Context())
		if d != nil || err == nil || strings.ContainsRune(err.Error(), '\x1B') || len(err.Error()) > 1024 ||
			!strings.HasSuffix(err.Error(), "; the change may have been made") {
			t.Errorf("%s: %v, %.200v", what, d, err)
		}
		if _, err := c.TicketKeys(t.Context()); err == nil || strings.Contains(err.Error(), "may have been made") {
			t.Errorf("%s: without a change: %.200v", what, err)
		}
	}
	for what, change := range map[string][2]string{
		"nothing new": {},
		"new source":  {`"api"`, `"cloud_kms2"`},
		"new role":    {"}]", "}" + second(hex, "next_but_one")},
	} {
		body = strings.Replace(described, change[0], change[1], 1)
		if _, err := c.Rotate(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What a problem says may be anything; what the error says is short and can be read.
func TestHostileProblem(t *testing.T) {
	for body, code := range map[string]string{
		`{"code":"forbidden","detail":"\u001b]0;x\u0007","errors":[{"field":"\u001b[2J","reason":"\r\n\u202e"}]}`: "forbidden",
		`{"code":"\u001b[2J","detail":"x"}`:                                                                                "",
		`{"code":"` + strings.Repeat("a", 1000) + `","detail":"x"}`:                                                        "",
		`{"code":"internal","detail":"` + strings.Repeat("x", 50<<10) + `"}`:                                               "internal",
		`{"code":"internal","errors":[` + strings.Repeat(`{"field":"","reason":""},`, 2000) + `{"field":"","reason":""}]}`: "internal",
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, body)
		})
		_, err := c.TicketKeys(t.Context())
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != code || len(e.Error()) > 2048 || strings.ContainsAny(e.Error(), "\x1B\x07\r\n\u202E") || len(e.Fields) > maxFields {
			t.Errorf("%.100s: %.200v", body, err)
		}
	}
}

// Keys in a text format are text, and an ETag is a generation.
func TestHostileKeys(t *testing.T) {
	etag, keys := `"7"`, "key: |\n  aa\r\n"
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		w.Header().Set("ETag", etag)
		_, _ = io.WriteString(w, keys)
	})
	fetch := func() error {
		_, err := c.Format(t.Context(), "h2o", nil)
		return err
	}
	if err := fetch(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"key\x1B[2J", "key\x00", "a\rb", "\u202E", "\t\xFF"} {
		if keys = bad; fetch() == nil {
			t.Errorf("%q is accepted as keys", bad)
		}
	}
	keys = "key"
	for _, bad := range []string{"7", `"a"`, `"` + strings.Repeat("7", 1000) + `"`} {
		if etag = bad; fetch() == nil {
			t.Errorf("%q is accepted as a generation", bad)
		}
	}
}
