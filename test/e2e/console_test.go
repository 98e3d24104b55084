package e2e_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The tests in web/test: the console's logic in Node.js, and the console in Chromium with
// real services.
func TestConsole(t *testing.T) {
	t.Parallel()
	need(t, "node")
	for _, program := range []string{"npm", "openssl", "redis-server"} {
		need(t, program)
	}
	chromium := need(t, "chromium")
	if _, err := os.Stat("../../web/node_modules"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("%v; make test installs it", err)
	}
	cmd := exec.CommandContext(t.Context(), "npm", "test", "--silent")
	cmd.Dir = "../../web"
	cmd.Env = append(os.Environ(), "SESSAPI="+sessapiPath, "CHROMIUM="+chromium)
	output, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(output), "skipped 0\n") {
		t.Fatalf("%v\n%s", err, output)
	}
	t.Logf("%s", output)
}
