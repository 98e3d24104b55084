package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newToken runs sessapi token new, and returns the two relevant lines.
func newToken(t *testing.T, args ...string) (token, line string) {
	t.Helper()
	var out, complaint strings.Builder
	if code := run(append([]string{"token", "new"}, args...), environment{ctx: t.Context(), stdout: &out, stderr: &complaint}); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &complaint)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	token, line = lines[0], lines[len(lines)-1]
	if !regexp.MustCompile(`^sessapi_[a-z2-7]{52}$`).MatchString(token) || !strings.HasPrefix(line, "- ") || strings.Contains(line, token) {
		t.Fatalf("%q", lines)
	}
	return token, line
}

func TestNewToken(t *testing.T) {
	if a, _ := newToken(t); func() bool { b, _ := newToken(t); return a == b }() {
		t.Error("two tokens are alike")
	}
	for given, want := range map[string]string{
		"90d":                       time.Now().UTC().Add(90 * 24 * time.Hour).Format("2006-01-02"),
		"36h":                       time.Now().UTC().Add(36 * time.Hour).Format("2006-01-02"),
		"2999-01-31":                "2999-01-31T00:00:00Z",
		"2999-01-31T12:00:00+02:00": "2999-01-31T10:00:00Z",
	} {
		if _, line := newToken(t, "--expires", given); !strings.Contains(line, "expires: "+want) {
			t.Errorf("%s: %s", given, line)
		}
	}
	for given, want := range map[string]int{"0d": exitUsage, "-1d": exitUsage, "99999999d": exitUsage, "soon": exitUsage, "yesterday": exitUsage, "2020-01-01": exitUsage, "2020-01-01T00:00:00Z": exitUsage} {
		if code := run([]string{"token", "new", "--expires=" + given}, environment{ctx: t.Context(), stdout: io.Discard, stderr: io.Discard}); code != want {
			t.Errorf("%s: exit code %d, want %d", given, code, want)
		}
	}
}

// The output of token new goes into a policy unchanged, and the service loads the
// policy on a reload.
func TestPolicyOfService(t *testing.T) {
	token, line := newToken(t, "--expires=1d")
	other, otherLine := newToken(t)
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(line string) {
		t.Helper()
		text := fmt.Sprintf("identities:\n  - name: a\n    roles: [observe]\n    tokens:\n      %s\n", line)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(line)
	address, reload, _ := serve(t, "--policy="+path)
	status := func(token string) int {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := new(http.Client).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	if got, wrong := status(token), status(other); got != 200 || wrong != 401 {
		t.Errorf("status %d, and %d with another token", got, wrong)
	}
	write(otherLine)
	reload <- syscall.SIGHUP
	for deadline := time.Now().Add(time.Minute); status(other) != 200; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the policy is not reloaded")
		}
	}
	if old := status(token); old != 401 {
		t.Errorf("after the reload: status %d with the old token", old)
	}
	write("- {}")
	var stderr strings.Builder
	code := run([]string{"serve", "--listen=127.0.0.1:0", "--dumpable", "--policy=" + path},
		environment{ctx: t.Context(), stdout: io.Discard, stderr: &stderr})
	if code != exitFailure || !strings.Contains(stderr.String(), "sessapi: --policy: ") {
		t.Errorf("a broken policy: exit code %d, %s", code, &stderr)
	}
}
