package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sessapi/sessapi/internal/api"
)

const haproxyConfig = `global
	stats socket %[1]s/s mode 600 level admin
defaults
	mode http
	timeout connect 10s
	timeout client 10s
	timeout server 10s
frontend tls
	bind 127.0.0.1:%[2]s ssl crt %[1]s/cert.pem tls-ticket-keys %[1]s/ticket.keys
	http-request return status 200
`

// HAProxy holds just the keys of its file, whoever pushes them restarts, misses changes
// or pushes twice. A key that was revoked is dead at once, and the others go on.
func TestHAProxySocket(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	need(t, "socat")
	script, err := filepath.Abs("../../examples/haproxy/set-tls-keys.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	s := serve(t)
	i := &instance{server: &server{name: "HAProxy"}, service: s, port: freePort(t)}
	cert, key := certificate(t, "/CN=localhost")
	keyFile, runs := filepath.Join(dir, "ticket.keys"), filepath.Join(dir, "runs")
	for name, data := range map[string][]byte{
		"cert.pem":    append(readFile(t, cert), readFile(t, key)...),
		"haproxy.cfg": fmt.Appendf(nil, haproxyConfig, dir, i.port),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := fmt.Sprintf("%s %s %s/s && echo run >>%s", script, keyFile, dir, runs)
	push := func() {
		t.Helper()
		run(t, sessapiPath, "keys", "watch", "--once", "--server=http://"+s.addr, "--format=haproxy", "--out="+keyFile, "--exec="+command)
	}
	ran := func() int {
		data, _ := os.ReadFile(runs)
		return bytes.Count(data, []byte("\n"))
	}
	run(t, sessapiPath, "keys", "pull", "--server=http://"+s.addr, "--format=haproxy", "--out="+keyFile)
	start(t, need(t, "haproxy"), "-f", filepath.Join(dir, "haproxy.cfg"))
	awaitListening(t, "127.0.0.1:"+i.port)

	ticket := func(name, version string) string { return filepath.Join(dir, name+version) }
	versions := []string{"-tls1_2", "-tls1_3"}
	// resumes checks which of earlier tickets resume, and that new ones, which it keeps
	// under a name, are sealed with the current key.
	resumes := func(name string, old map[string]bool) {
		t.Helper()
		for _, version := range versions {
			if v := i.visit(t, version, "", ticket(name, version)); v.TicketName != i.currentName(t) {
				t.Errorf("%s: %s: a ticket of %s, the current key is %s", name, version, v.TicketName, i.currentName(t))
			}
			for earlier, want := range old {
				if v := i.visit(t, version, ticket(earlier, version), ""); v.Reused != want {
					t.Errorf("%s: %s: the ticket %q resumes: %t", name, version, earlier, v.Reused)
				}
			}
		}
	}
	change := func(method, path string) {
		t.Helper()
		if status, body := s.do(t, method, path, nil); status != http.StatusOK {
			t.Fatalf("%s %s: %d %s", method, path, status, body)
		}
	}

	resumes("first", nil)
	for range 3 {
		push() // as at each start of a watch
	}
	if ran() != 0 {
		t.Errorf("the command ran %d times for a file that was as it is to be", ran())
	}
	change(http.MethodPost, "/ticket-keys/rotate")
	push()
	for range 2 {
		if out, err := exec.Command(script, keyFile, filepath.Join(dir, "s")).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	resumes("second", map[string]bool{"first": true})
	if ran() != 1 {
		t.Errorf("the command ran %d times for a change", ran())
	}
	for range 3 { // changes that nobody pushes
		change(http.MethodPost, "/ticket-keys/rotate")
	}
	push()
	resumes("third", map[string]bool{"first": false, "second": false}) // three keys are all that HAProxy has
	change(http.MethodPost, "/ticket-keys/rotate")
	push()
	resumes("fourth", map[string]bool{"third": true})

	change(http.MethodDelete, "/ticket-keys/"+i.currentName(t))
	push()
	resumes("after the revoke", map[string]bool{"third": true, "fourth": false})

	// A set without a next key, and none of few keys, loses nothing either.
	set := decodeTicketKeys(t, s)
	for _, k := range set.Keys {
		if k.Role == api.Previous {
			change(http.MethodDelete, "/ticket-keys/"+k.Name)
		}
	}
	push()
	resumes("with few keys", map[string]bool{"third": false, "after the revoke": true})

	// Keys of another size are for a reload, and the script says so.
	small := run(t, sessapiPath, "keys", "generate", "--format=haproxy", "--bits=128")
	if err := os.WriteFile(keyFile, []byte(small), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(script, keyFile, filepath.Join(dir, "s")).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("need a reload")) {
		t.Errorf("keys of another size: %v: %s", err, out)
	}
}

func decodeTicketKeys(t *testing.T, s *service) (set api.TicketKeys) {
	t.Helper()
	if _, body := s.get(t, "/ticket-keys", "application/json"); json.Unmarshal(body, &set) != nil {
		t.Fatalf("no description: %s", body)
	}
	return set
}

// The metrics of an agent tell full handshakes of HAProxy from resumed ones.
func TestAgentTellsHandshakesOfHAProxy(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	dir := shortDir(t)
	s := serve(t)
	i := &instance{server: &server{name: "HAProxy"}, service: s, port: freePort(t)}
	cert, key := certificate(t, "/CN=localhost")
	for name, data := range map[string][]byte{
		"cert.pem":    append(readFile(t, cert), readFile(t, key)...),
		"haproxy.cfg": fmt.Appendf(nil, haproxyConfig, dir, i.port),
		"agent.yaml": fmt.Appendf(nil, "service: {addresses: [\"http://%s\"]}\nname: host\nlisten: 127.0.0.1:0\ntargets:\n  - {name: edge, kind: haproxy, file: %s/ticket.keys, socket: %[2]s/s}\n",
			s.addr, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, sessapiPath, "keys", "pull", "--server=http://"+s.addr, "--format=haproxy", "--out="+filepath.Join(dir, "ticket.keys"))
	agent := start(t, sessapiPath, "agent", "--config="+filepath.Join(dir, "agent.yaml"))
	url := "http://" + agent.out.await(t, `"name":"agent","address":"([^"]+)"`)[1]
	handshakes := func() string {
		t.Helper()
		response, err := http.Get(url + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%d %v", response.StatusCode, err)
		}
		return strings.Join(regexp.MustCompile(`(?m)^sessapi_agent_target_handshakes_total.*$`).FindAllString(string(body), -1), "\n")
	}
	if got := handshakes(); got != "" {
		t.Errorf("without HAProxy: %s", got)
	}
	start(t, need(t, "haproxy"), "-f", filepath.Join(dir, "haproxy.cfg"))
	awaitListening(t, "127.0.0.1:"+i.port)
	session := filepath.Join(dir, "session")
	i.visit(t, "-tls1_3", "", session)
	i.visit(t, "-tls1_2", "", session)
	for range 3 {
		if v := i.visit(t, "-tls1_2", session, ""); !v.Reused {
			t.Fatalf("%+v", v)
		}
	}
	const labels = `sessapi_agent_target_handshakes_total{frontend="tls",kind="haproxy",target="edge",type=`
	if got, want := handshakes(), labels+"\"full\"} 2\n"+labels+"\"resumed\"} 3"; got != want {
		t.Errorf("the metrics have\n%s\nnot\n%s", got, want)
	}
}
