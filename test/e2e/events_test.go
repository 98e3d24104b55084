package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

// example returns the first block of the document in the language, for this service.
func (s *service) example(tb testing.TB, document, language string) string {
	tb.Helper()
	for _, block := range fence.FindAllStringSubmatch(string(readFile(tb, document)), -1) {
		if block[1] == language {
			return strings.ReplaceAll(block[2], "127.0.0.1:8440", s.addr)
		}
	}
	tb.Fatalf("%s has no example in %s", document, language)
	return ""
}

// The examples of docs/events.md show events as they happen.
func TestEventExamples(t *testing.T) {
	t.Parallel()
	s := serve(t)
	dir := t.TempDir()
	write := func(name, language string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(s.example(t, "../../docs/events.md", language)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	binary := filepath.Join(dir, "follow")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, write("main.go", "go"))
	build.Dir = "../.."
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	need(t, "curl")
	shell := exec.Command("bash", write("curl.sh", "sh"))
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	followers := []*process{
		start(t, binary),
		start(t, need(t, "node"), write("events.mjs", "js")),
		startCommand(t, shell),
	}
	t.Cleanup(func() { _ = syscall.Kill(-shell.Process.Pid, syscall.SIGTERM) })
	redistest.Await(t, "the streams", func() error { return metricIs(t, s, "sessapi_events_subscribers 3") })
	if status, body := s.do(t, http.MethodPut, "/sessions/0102", []byte("opaque"), "Content-Type", "application/octet-stream"); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	if status, body := s.do(t, http.MethodPost, "/ticket-keys/rotate", nil); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	followers[0].out.await(t, `session.stored [0-9a-f]{32}\nticket_keys.updated \d+\n`)
	followers[1].out.await(t, `session.stored \{.*"id":"0102".*\}\nticket_keys.updated \{.*"source":"rotation"`)
	followers[2].out.await(t, `event: session.stored\ndata: \{.*"id_hash":"[0-9a-f]{32}","id":"0102","format":"opaque",.*"size":6\}\n\nid: .*\nevent: ticket_keys.updated\n`)
	// A stop ends the streams.
	s.stop(t, syscall.SIGTERM)
	for _, p := range followers[1:] {
		p.wait(t)
	}
}

// metricIs returns an error unless the metrics have the line.
func metricIs(tb testing.TB, s *service, line string) error {
	tb.Helper()
	_, body := s.get(tb, "/metrics", "text/plain")
	if !strings.Contains(string(body), "\n"+line+"\n") {
		return fmt.Errorf("no %s in %q", line, regexp.MustCompile(`(?m)^sessapi_events.*$`).FindAll(body, -1))
	}
	return nil
}

// Two nodes tell what requests to them did to the fleet's sessions, what became of their
// copies, and how their link to Redis is.
func TestFleetEvents(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	redis := redistest.Start(t)
	sealKey := newSealKey(t)
	join := func() (*service, *output) {
		s := serve(t, "--redis="+redis.URL(), "--seal-key-file="+sealKey, "--cache-memory=8MiB", "--redis-read-timeout=2s")
		p := start(t, "curl", "-sN", "http://"+s.addr+"/events")
		redistest.Await(t, "the stream", func() error { return metricIs(t, s, "sessapi_events_subscribers 1") })
		return s, p.out
	}
	a, atA := join()
	b, atB := join()
	awaitLink(t, a, true)
	awaitLink(t, b, true)
	put := func(s *service, id string, want int) {
		t.Helper()
		if status, body := s.do(t, http.MethodPut, "/sessions/"+id, []byte("opaque"), "Content-Type", "application/octet-stream"); status != want {
			t.Fatalf("%d %s", status, body)
		}
	}
	put(a, "0a", http.StatusCreated)
	if status, _ := b.get(t, "/sessions/0a", "application/octet-stream"); status != http.StatusOK {
		t.Fatal(status)
	}
	put(b, "0a", http.StatusNoContent)
	put(b, "0b", http.StatusCreated)
	if status, _ := a.do(t, http.MethodDelete, "/sessions/0a", nil); status != http.StatusNoContent {
		t.Fatal(status)
	}
	if status, _ := a.do(t, http.MethodDelete, "/sessions", nil); status != http.StatusOK {
		t.Fatal(status)
	}
	if status, _ := b.do(t, http.MethodPost, "/ticket-keys/rotate", nil); status != http.StatusOK {
		t.Fatal(status)
	}
	atA.await(t, `event: ticket_keys.updated\n`)
	atB.await(t, `event: ticket_keys.updated\n`)
	redis.Kill()
	atA.await(t, `event: fleet.changed\ndata: \{"connected":false,"degraded":".*"`)
	redis.Restart()
	atA.await(t, `event: fleet.changed\ndata: \{"connected":true,`)
	session := regexp.MustCompile(`event: (session\.\w+)\ndata: .*"id":"(\w+)"`)
	summary := func(out *output) (list []string) {
		for _, match := range session.FindAllStringSubmatch(out.String(), -1) {
			list = append(list, strings.TrimPrefix(match[1], "session.")+" "+match[2])
		}
		return list
	}
	if got := strings.Join(summary(atA), ", "); got != "stored 0a, removed 0a, removed 0b" {
		t.Errorf("node A told: %s", got)
	}
	if got := strings.Join(summary(atB), ", "); got != "replaced 0a, stored 0b" {
		t.Errorf("node B told: %s", got)
	}
}
