package e2e_test

import (
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The command as a user types it.
func TestCommand(t *testing.T) {
	t.Parallel()
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

// make run is the binary with its version, and Ctrl-C on a terminal ends it well, as
// stopping the service is no failure.
func TestMakeRun(t *testing.T) {
	t.Parallel()
	script, makePath := need(t, "script"), need(t, "make")
	build := exec.Command(makePath, "build") // which may take longer than what run waits for
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if commit, err := exec.Command("git", "rev-parse", "HEAD").Output(); err == nil {
		if version := run(t, "../../bin/sessapi", "--version"); !strings.Contains(version, string(commit[:12])) {
			t.Errorf("the version is %s, of the commit %s", version, commit)
		}
	}
	cmd := exec.Command(script, "--quiet", "--return", "--command", "make run", "/dev/null")
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "SESSAPI_LISTEN=127.0.0.1:0")
	keyboard, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := startCommand(t, cmd)
	for deadline := time.Now().Add(2 * time.Minute); !strings.Contains(p.out.String(), "msg=serving"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not serve:\n%s", p.out)
		}
	}
	if _, err := io.WriteString(keyboard, "\x03"); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	if out := p.out.String(); p.err != nil || !strings.Contains(out, "msg=stopped") || strings.Contains(out, "make:") {
		t.Errorf("%v:\n%s", p.err, out)
	}
}
