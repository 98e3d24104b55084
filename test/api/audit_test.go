package api_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/handlers"
)

// auditLog is one of a service, and what is in it.
func auditLog(t *testing.T) (l *audit.Log, configure func(*handlers.Config), events func() []audit.Event) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	return l, func(c *handlers.Config) {
			c.Audit, c.Checks = l, []handlers.Check{{Name: "audit_log", Degraded: l.Health}}
		}, func() (fresh []audit.Event) {
			t.Helper()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for line := range bytes.Lines(data[read:]) {
				var e audit.Event
				if err := json.Unmarshal(line, &e); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				fresh = append(fresh, e)
			}
			read = len(data)
			return fresh
		}
}

// What is to be recorded is, once, with who it was; and nothing else is.
func TestAudit(t *testing.T) {
	p, underPolicy := underPolicy(t)
	log, configure, events := auditLog(t)
	defer log.Close()
	s := startService(t, underPolicy, configure)
	as := func(role string) []string { return []string{"Authorization", "Bearer " + p.tokens[role]} }
	set := slices.Concat(record(), record())
	fingerprints := func() (out []string) {
		for _, k := range s.ring.Description().Keys {
			out = append(out, k.Fingerprint)
		}
		return out
	}
	for _, test := range []struct {
		name      string
		operation func() answer
		want      audit.Event // without what is the same for all
		nothing   bool
	}{
		{
			"no credentials", func() answer { return s.get("/sessions/01", typeBytes) },
			audit.Event{Operation: "GET /sessions/{id}", Outcome: audit.Denied, Code: "unauthenticated", Reason: "missing", Session: log.Session([]byte{1})},
			false,
		},
		{
			"malformed", func() answer { return s.get("/status", typeJSON, "Authorization", "Basic YTpi") },
			audit.Event{Operation: "GET /status", Outcome: audit.Denied, Code: "unauthenticated", Reason: "malformed"},
			false,
		},
		{
			"unknown", func() answer {
				return s.get("/status", typeJSON, "Authorization", "Bearer sessapi_"+strings.Repeat("a", 52))
			},
			audit.Event{Operation: "GET /status", Outcome: audit.Denied, Code: "unauthenticated", Reason: "unknown"},
			false,
		},
		{
			"expired", func() answer { return s.get("/status", typeJSON, as("observe expired")...) },
			audit.Event{Operation: "GET /status", Outcome: audit.Denied, Code: "unauthenticated", Reason: "expired", Identity: "observe"},
			false,
		},
		{
			"another role", func() answer { return s.post("/ticket-keys", typeBytes, set, as("key-consume")...) },
			audit.Event{Operation: "POST /ticket-keys", Outcome: audit.Denied, Code: "forbidden", Identity: "key-consume"},
			false,
		},
		{"another host", func() answer {
			r, err := http.NewRequest(http.MethodGet, s.URL+"/status", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = "evil.test"
			return s.do(r)
		}, audit.Event{Operation: "GET", Outcome: audit.Denied, Code: "forbidden"}, false},
		{
			"push", func() answer { return s.post("/ticket-keys", typeBytes, set, as("key-publish")...) },
			audit.Event{Operation: "POST /ticket-keys", Outcome: audit.Applied, Identity: "key-publish"},
			false,
		},
		{"the same again", func() answer { return s.post("/ticket-keys", typeBytes, set, as("key-publish")...) }, audit.Event{}, true},
		{"a weak set", func() answer { return s.post("/ticket-keys", typeBytes, make([]byte, 48), as("key-publish")...) }, audit.Event{}, true},
		{
			"rotate", func() answer { return s.post("/ticket-keys/rotate", "", nil, as("admin")...) },
			audit.Event{Operation: "POST /ticket-keys/rotate", Outcome: audit.Applied, Identity: "admin"},
			false,
		},
		{"revoke", func() answer {
			return s.request("DELETE", "/ticket-keys/"+s.ring.Description().Keys[0].Name.String(), nil, as("key-publish")...)
		}, audit.Event{Operation: "DELETE /ticket-keys/{name}", Outcome: audit.Applied, Identity: "key-publish"}, false},
		{"description", func() answer { return s.get("/ticket-keys", typeJSON, as("observe")...) }, audit.Event{}, true},
		{
			"export", func() answer { return s.get("/ticket-keys?format=nginx&key=1", typeBytes, as("key-consume")...) },
			audit.Event{Operation: "GET /ticket-keys", Outcome: audit.Exported, Identity: "key-consume", Format: "nginx"},
			false,
		},
		{"nothing new", func() answer {
			etag := `"` + strconv.FormatUint(s.ring.Generation(), 10) + `"`
			return s.get("/ticket-keys?format=ats", typeBytes, append(as("key-consume"), "If-None-Match", etag)...)
		}, audit.Event{}, true},
		{
			"export to Envoy", func() answer {
				return s.post("/v3/discovery:secrets", typeJSON, []byte("{}"), as("key-consume")...)
			},
			audit.Event{Operation: "POST /v3/discovery:secrets", Outcome: audit.Exported, Identity: "key-consume", Format: "envoy"},
			false,
		},
		{"nothing new for Envoy", func() answer {
			body := fmt.Appendf(nil, `{"version_info": "%d"}`, s.ring.Generation())
			return s.post("/v3/discovery:secrets", typeJSON, body, as("key-consume")...)
		}, audit.Event{}, true},
		{"nothing for Envoy", func() answer {
			return s.post("/v3/discovery:secrets", typeJSON, []byte(`{"resource_names": ["certificate"]}`), as("key-consume")...)
		}, audit.Event{}, true},
		{
			"flush", func() answer { return s.request("DELETE", "/sessions", nil, as("admin")...) },
			audit.Event{Operation: "DELETE /sessions", Outcome: audit.Applied, Identity: "admin"},
			false,
		},
		{"health", func() answer { return s.get("/livez", typeJSON) }, audit.Event{}, true},
	} {
		generation, before := s.ring.Generation(), fingerprints()
		a := test.operation()
		got := events()
		if test.nothing {
			if len(got) != 0 {
				t.Errorf("%s: recorded %+v", test.name, got)
			}
			continue
		}
		if len(got) != 1 {
			t.Errorf("%s: %d, %d events", test.name, a.StatusCode, len(got))
			continue
		}
		e := got[0]
		if e.RequestID != a.Header.Get("X-Request-Id") && a.Header.Get("X-Request-Id") != "" || e.RequestID == "" || e.Source != "127.0.0.1" || e.Time.IsZero() {
			t.Errorf("%s: %+v", test.name, e)
		}
		if s.ring.Generation() != generation {
			if e.Before == nil || e.After == nil || e.Before.Generation != generation || e.After.Generation != s.ring.Generation() ||
				!slices.Equal(e.Before.Fingerprints, before) || !slices.Equal(e.After.Fingerprints, fingerprints()) {
				t.Errorf("%s: from %+v to %+v", test.name, e.Before, e.After)
			}
		} else if e.Outcome == audit.Exported && (e.After == nil || !slices.Equal(e.After.Fingerprints, fingerprints())) {
			t.Errorf("%s: %+v", test.name, e.After)
		}
		e.Time, e.RequestID, e.Source, e.Before, e.After = test.want.Time, "", "", nil, nil
		if e != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, e, test.want)
		}
	}
}

// Keys that are waited for are recorded when they are sent.
func TestAuditOfWaiters(t *testing.T) {
	log, configure, events := auditLog(t)
	defer log.Close()
	s := startService(t, configure)
	events()
	etag := `"` + strconv.FormatUint(s.ring.Generation(), 10) + `"`
	held := make(chan answer, 1)
	go func() {
		held <- s.get("/ticket-keys?format=ats", typeBytes, "If-None-Match", etag, "Prefer", "wait="+strconv.Itoa(slow))
	}()
	s.awaitWaiters(t, 1)
	s.post("/ticket-keys/rotate", "", nil).want(t, 200)
	(<-held).want(t, 200)
	got := events()
	if len(got) != 2 || got[0].Outcome != audit.Applied || got[1].Outcome != audit.Exported ||
		got[1].Operation != "GET /ticket-keys" || got[1].After.Generation != s.ring.Generation() {
		t.Errorf("%+v", got)
	}
}

// A flood of denials does not fill the log, whatever they are, and is summed up.
func TestAuditOfFlood(t *testing.T) {
	_, underPolicy := underPolicy(t)
	log, configure, events := auditLog(t)
	s := startService(t, underPolicy, configure)
	const denials = 40
	for i := range denials {
		r := httptest.NewRequest(strings.Repeat("X", 4096), "http://evil.test/status", nil)
		if i%2 == 0 {
			r = httptest.NewRequest(http.MethodGet, s.URL+"/status", nil)
		}
		r.RemoteAddr = fmt.Sprintf("[2001:db8::%x]:1", i) // all of one /64
		w := httptest.NewRecorder()
		s.api.Handler().ServeHTTP(w, r)
		if w.Code != http.StatusUnauthorized && w.Code != http.StatusForbidden {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	got := events()
	sum := got[len(got)-1]
	if len(got) > denials/2 || uint64(len(got)-1)+sum.Count != denials || sum.Source != "2001:db8::/64" || log.Summed() != sum.Count {
		t.Errorf("%d lines, the last of %+v", len(got), sum)
	}
	for _, e := range got {
		if len(e.Operation) > 64 {
			t.Errorf("an operation of %d bytes", len(e.Operation))
		}
	}
}

// Who loses the role while the body is under way changes nothing, and is sent no keys.
func TestPolicyChangesWithinBody(t *testing.T) {
	p, underPolicy := underPolicy(t)
	log, configure, events := auditLog(t)
	defer log.Close()
	s := startService(t, underPolicy, configure)
	server := httptest.NewServer(s.api.Handler()) // the check of the contract would read the body first
	defer server.Close()
	// The body is sent when it is asked for, which is once the request is let in.
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	defer client.CloseIdleConnections()
	for _, operation := range []struct {
		path, mediaType, role string
		body                  []byte
	}{
		{"/ticket-keys", typeBytes, "key-publish", record()},
		{"/v3/discovery:secrets", typeJSON, "key-consume", []byte(`{"resource_names": ["ticket-keys"]}`)},
	} {
		for _, test := range []struct {
			policy string
			status int
			code   api.ProblemCode
		}{
			{strings.Replace(p.text.String(), "roles: ["+operation.role+"]", "roles: [observe]", 1), 403, api.ProblemCodeForbidden},
			{"identities: [{name: other, roles: [observe], uids: [0]}]", 401, api.ProblemCodeUnauthenticated},
		} {
			p.set(t, p.text.String())
			generation := s.ring.Generation()
			body, rest := io.Pipe()
			request, err := http.NewRequest(http.MethodPost, server.URL+operation.path, body)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", operation.mediaType)
			request.Header.Set("Authorization", "Bearer "+p.tokens[operation.role])
			request.Header.Set("Expect", "100-continue")
			go func() {
				_, _ = rest.Write(operation.body[:10])
				p.set(t, test.policy)
				_, _ = rest.Write(operation.body[10:])
				_ = rest.Close()
			}()
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != test.status {
				t.Errorf("%s: %d, want %d", operation.path, response.StatusCode, test.status)
			}
			if s.ring.Generation() != generation {
				t.Errorf("%s: the keys changed", operation.path)
			}
			if got := events(); len(got) != 1 || got[0].Outcome != audit.Denied || got[0].Code != string(test.code) {
				t.Errorf("%s: %+v", operation.path, got)
			}
		}
	}
}

// What cannot be recorded is not done.
func TestAuditFails(t *testing.T) {
	log, configure, _ := auditLog(t)
	s := startService(t, configure)
	s.put("/sessions/01", typeBytes, []byte("opaque")).want(t, 201)
	if err := log.Close(); err != nil { // and so every event fails
		t.Fatal(err)
	}
	before := s.ring.Description()
	name := before.Keys[0].Name.String()
	for _, operation := range []func() answer{
		func() answer { return s.post("/ticket-keys", typeBytes, record()) },
		func() answer { return s.post("/ticket-keys/rotate", "", nil) },
		func() answer { return s.request("DELETE", "/ticket-keys/"+name, nil) },
		func() answer { return s.get("/ticket-keys?format=ats", typeBytes) },
		func() answer { return s.request("DELETE", "/sessions", nil) },
	} {
		a := operation()
		a.want(t, 503)
		if a.Header.Get("Content-Type") != "application/problem+json" || a.Header.Get("Retry-After") == "" || !bytes.Contains(a.body, []byte(`"backend_unavailable"`)) {
			t.Errorf("%s: %s", a.Request.Method, a.body)
		}
	}
	if after := s.ring.Description(); after.Generation != before.Generation || after.Keys[0].Name.String() != name {
		t.Error("keys changed that were not recorded")
	}
	s.get("/sessions/01", typeBytes).want(t, 200) // and is not flushed
	s.get("/ticket-keys", typeJSON).want(t, 200)
	if ready := s.get("/readyz", typeJSON).want(t, 200); !bytes.Contains(ready.body, []byte(`"degraded"`)) {
		t.Errorf("readyz says %s", ready.body)
	}
	if log.Failures() != 5 {
		t.Errorf("%d failures", log.Failures())
	}
}

// Nothing of a key or session is in the log.
func TestAuditHoldsNoSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s := startService(t, func(c *handlers.Config) { c.Audit = log })
	set := record()
	s.post("/ticket-keys", typeBytes, set).want(t, 200)
	s.get("/ticket-keys?format=ats", typeBytes).want(t, 200)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{set[16:32], set[32:48]} {
		if bytes.Contains(data, secret) || bytes.Contains(data, []byte(hex.EncodeToString(secret))) {
			t.Error("a secret is in the audit log")
		}
	}
}

// Exports of one identity, format and generation are summed up, and HEAD is none.
func TestAuditOfExports(t *testing.T) {
	p, underPolicy := underPolicy(t)
	log, configure, events := auditLog(t)
	s := startService(t, underPolicy, configure)
	export := func(method, format string) {
		t.Helper()
		s.request(method, "/ticket-keys?format="+format, nil, "Authorization", "Bearer "+p.tokens["key-consume"]).want(t, 200)
	}
	export(http.MethodHead, "ats")
	if got := events(); len(got) != 0 {
		t.Errorf("HEAD is recorded as %+v", got)
	}
	const exports = 40
	for range exports {
		export(http.MethodGet, "ats")
	}
	export(http.MethodGet, "nginx")
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	got := events()
	if len(got) != 3 || got[0].Format != "ats" || got[1].Format != "nginx" {
		t.Fatalf("%d lines: %+v", len(got), got)
	}
	if sum := got[2]; sum.Operation != "exports" || sum.Count != exports-1 || sum.Identity != "key-consume" || sum.Format != "ats" ||
		sum.After == nil || sum.After.Generation != s.ring.Generation() || log.ExportsSummed() != sum.Count {
		t.Errorf("the sum is %+v", sum)
	}
}
