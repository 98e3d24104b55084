// Package e2e_test runs the built command with real TLS servers and clients.
package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/fleet/redistest"
	"github.com/sessapi/sessapi/test/contract"
)

// sessapiPath is the command, built with the race detector.
var sessapiPath string

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == attackCommand {
		runAttack(os.Args[2], os.Args[3])
		return
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sessapi-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // servers run the command, too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	sessapiPath = filepath.Join(dir, "sessapi")
	if output, err := build(sessapiPath, "-race"); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, output)
		return 1
	}
	http.DefaultClient.Timeout = patience
	_ = os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin") // where Debian has servers
	return m.Run()
}

// build builds the command, with flags of go build.
func build(path string, flags ...string) (output []byte, err error) {
	build := exec.Command("go", append(append([]string{"build", "-buildvcs=false", "-o", path}, flags...), "./cmd/sessapi")...)
	build.Dir = "../.."
	return build.CombinedOutput()
}

// buildCommand builds the command with flags of go build and returns its path.
func buildCommand(tb testing.TB, flags ...string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "sessapi")
	if output, err := build(path, flags...); err != nil {
		tb.Fatalf("%v\n%s", err, output)
	}
	return path
}

// patience is how long a test waits for what takes a moment on an idle machine.
const patience = time.Minute

// waitDelay lets Wait return although a child still holds the output open.
const waitDelay = 10 * time.Second

// need is the path of a program that the test runs beside the service. Without
// it the test fails where everything has to be there, and is skipped elsewhere.
func need(tb testing.TB, program string) string {
	tb.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		tb.Fatalf("%s is not installed", program)
	}
	tb.Skipf("%s is not installed; make test installs it on Debian as root", program)
	return ""
}

// needRoot skips a test that needs root on Linux, as [need] does.
func needRoot(tb testing.TB, why string) {
	tb.Helper()
	if runtime.GOOS == "linux" && os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		tb.Fatalf("needs root on Linux: %s", why)
	}
	tb.Skipf("needs root on Linux: %s", why)
}

// output is what a process prints, read while it runs.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// await waits until the process has printed what the pattern matches, and
// returns its groups.
func (o *output) await(tb testing.TB, pattern string) []string {
	tb.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if match := re.FindStringSubmatch(o.String()); match != nil {
			return match
		}
	}
	tb.Fatalf("no %q in:\n%s", pattern, redact(o.String()))
	return nil
}

// redact leaves out the lines of what openssl prints that hold secrets, so that
// no failing test shows them.
func redact(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "Master-Key") && !strings.Contains(line, "PSK") && !strings.Contains(line, " - ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// process is a program that runs beside the test.
type process struct {
	*exec.Cmd
	out  *output // standard output and error
	done chan struct{}
	err  error // of Wait, when done is closed
}

// start runs a program until the test ends.
func start(tb testing.TB, name string, args ...string) *process {
	tb.Helper()
	return startCommand(tb, exec.Command(name, args...))
}

func startCommand(tb testing.TB, cmd *exec.Cmd) *process {
	tb.Helper()
	p := &process{Cmd: cmd, out: &output{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.WaitDelay = waitDelay
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() { p.err = cmd.Wait(); close(p.done) }()
	tb.Cleanup(func() { p.stop(tb, syscall.SIGTERM) })
	return p
}

// stop signals the process and waits until it is gone.
func (p *process) stop(tb testing.TB, signal syscall.Signal) {
	tb.Helper()
	_ = p.Process.Signal(signal) // it may be gone
	p.wait(tb)
}

// wait waits for the process to exit. After patience it kills it and fails the test.
func (p *process) wait(tb testing.TB) {
	tb.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		tb.Errorf("%s does not end:\n%s", p.Path, redact(p.out.String()))
		_ = p.Process.Kill()
		<-p.done
	}
}

// run runs a program to its end and returns its standard output.
func run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = waitDelay
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, redact(string(stdout)), stderr.Bytes())
	}
	return string(stdout)
}

// service is the command, serving.
type service struct {
	*process
	addr string // of the main listener
	url  string // of a proxy before it that holds every exchange against the contract
}

// serve runs the command on a free port.
func serve(tb testing.TB, args ...string) *service {
	tb.Helper()
	return serveWith(tb, sessapiPath, args...)
}

// serveWith is serve with another version of the command.
func serveWith(tb testing.TB, command string, args ...string) *service {
	tb.Helper()
	p := start(tb, command, append([]string{"serve", "--listen=127.0.0.1:0"}, args...)...)
	addr := p.out.await(tb, `"name":"main","address":"([^"]+)"`)[1]
	p.out.await(tb, `"msg":"serving"`)
	target := &url.URL{Scheme: "http", Host: addr}
	proxy := httputil.NewSingleHostReverseProxy(target)
	checked := httptest.NewServer(contract.Load(tb).Check(tb, proxy))
	tb.Cleanup(checked.Close)
	return &service{process: p, addr: addr, url: checked.URL}
}

// get fetches a path from the service.
func (s *service) get(tb testing.TB, path, accept string) (status int, body []byte) {
	tb.Helper()
	return s.do(tb, http.MethodGet, path, nil, "Accept", accept)
}

// do makes a request; headers are pairs of name and value.
func (s *service) do(tb testing.TB, method, path string, body []byte, headers ...string) (status int, answer []byte) {
	tb.Helper()
	request, err := http.NewRequestWithContext(tb.Context(), method, s.url+path, bytes.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		tb.Fatal(err)
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return response.StatusCode, answer
}

// awaitListening waits until something accepts connections at addr.
func awaitListening(tb testing.TB, addr string) {
	tb.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("nothing listens at %s: %v", addr, err)
		}
	}
}

// awaitOK waits until a GET is answered 200, and returns the body.
func awaitOK(tb testing.TB, client *http.Client, url string) (body []byte) {
	tb.Helper()
	redistest.Await(tb, url, func() error {
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if body, err = io.ReadAll(response.Body); err == nil && response.StatusCode != http.StatusOK {
			return fmt.Errorf("%d %s", response.StatusCode, body)
		}
		return err
	})
	return body
}

// freePort is a TCP port of the loopback that was free a moment ago, for
// programs that cannot say which one they took.
func freePort(tb testing.TB) string {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	return port
}

// shortDir is a folder for sockets and for servers with a user of their own: the path of
// TempDir is too long for a socket, and closed to other users.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "sessapi-e2e-") //nolint:usetesting // for the reason above
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// certificate makes a self-signed certificate for localhost and more names, and
// its key, as files.
func certificate(tb testing.TB, subject string, names ...string) (cert, key string) {
	tb.Helper()
	dir := tb.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	run(tb, need(tb, "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-days", "2", "-subj", subject, "-addext", "subjectAltName="+strings.Join(append(names, "DNS:localhost", "IP:127.0.0.1"), ","), "-keyout", key, "-out", cert)
	return cert, key
}
