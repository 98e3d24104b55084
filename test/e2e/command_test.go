package e2e_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The command as a user types it.
func TestCommand(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(sessapiPath)+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("GORACE", "atexit_sleep_ms=0") // instead of a second for each command
			return nil
		},
	})
}

// An address with the wrong scheme is told from a service that does not run.
func TestWrongScheme(t *testing.T) {
	cert, key := certificate(t, "/CN=localhost")
	secure := start(t, sessapiPath, "serve", "--listen=127.0.0.1:0", "--tls-cert="+cert, "--tls-key="+key)
	plain := serve(t)
	for server, want := range map[string]string{
		"http://" + secure.out.await(t, `"name":"main","address":"([^"]+)"`)[1]: "the service speaks TLS: use https://",
		"https://" + plain.addr: "the service does not speak TLS: use http://",
	} {
		for _, command := range []string{"sessions list", "keys rotate"} {
			cmd := exec.CommandContext(t.Context(), sessapiPath, append(strings.Fields(command), "--server="+server)...)
			output, err := cmd.CombinedOutput()
			if err == nil || !strings.HasPrefix(string(output), "sessapi: --server="+server+": "+want) || strings.Count(string(output), "\n") != 1 {
				t.Errorf("%s: %v, %s", command, err, output)
			}
		}
	}
}
