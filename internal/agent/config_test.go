package agent

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// complete is the configuration that the contract shows.
const complete = `service:
  addresses: [https://keys-1.example:8440, https://keys-2.example:8440]   # the first that answers
  token_file: token
name: edge-7
listen: 127.0.0.1:8441
targets:
  - {name: web, kind: nginx, file: "/run/sessapi/web.{key}.key", keys: 4, test: [nginx, -t], reload: [nginx, -s, reload], probe: "127.0.0.1:443"}
  - {kind: haproxy, file: /run/sessapi/tls.keys, socket: /run/haproxy/admin.sock}
  - {kind: ats, file: /etc/trafficserver/ticket.key, reload: [traffic_ctl, config, reload]}
  - {kind: httpd, file: /run/sessapi/httpd.key, test: [apachectl, configtest], reload: [apachectl, graceful]}
  - {kind: h2o, file: /run/sessapi/h2o.yaml}
  - {kind: envoy, file: /run/sessapi/envoy.yaml}
  - {kind: lighttpd, file: /run/sessapi/lighttpd.stek}
  - {kind: nghttpx, file: "/run/sessapi/nghttpx.{key}.key", keys: 3, reload: {signal: HUP, pid_file: nghttpx.pid}}
  - {kind: dnsdist, file: /run/sessapi/dnsdist.keys, reload: [dnsdist, -e, "getTLSContext(0):loadTicketsKeys('/run/sessapi/dnsdist.keys')"]}
  - {kind: kubernetes, namespace: edge, secret: tls-session-ticket-keys, entries: {"tls.sessionticket.key": {format: openssl, key: 0}, "tls.sessionticket.key.1": {format: openssl, key: 1}}}
  - {kind: file, format: openssl, file: "/run/x.{key}", keys: 2, mode: "0640", owner: "0:0", reload: [/usr/local/bin/hook], timeout: 5s}
`

// inPod makes the test run as in a pod.
func inPod(t *testing.T) {
	t.Helper()
	t.Setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
}

func TestParseConfig(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	inPod(t)
	c, err := parseConfig([]byte(complete), dir)
	if err != nil {
		t.Fatal(err)
	}
	last := c.Targets[len(c.Targets)-1]
	if c.Service.TokenFile != filepath.Join(dir, "token") || c.Targets[7].Reload.PIDFile != filepath.Join(dir, "nghttpx.pid") ||
		c.Targets[1].Name != "haproxy" || c.Targets[0].Timeout != Duration(30*time.Second) || last.Timeout != Duration(5*time.Second) ||
		last.attributes.Mode != fs.FileMode(0o640) || last.attributes.UID != 0 ||
		strings.Join(last.paths(), " ") != "/run/x.0 /run/x.1" {
		t.Errorf("%+v", c)
	}
}

// Each mistake is reported with its line and the most likely intention.
func TestParseConfigErrors(t *testing.T) {
	target := func(t string) string {
		return "service: {addresses: [\"http://127.0.0.1:1\"]}\nname: a\ntargets:\n  - " + t + "\n"
	}
	for _, test := range []struct{ config, want string }{
		{"", "service: addresses: there are none"},
		{"a: b\n---\na: b\n", "line 3: a second document begins"},
		{"targets:\n", "line 1: targets: has no value"},
		{"listn: a\n", `line 1: unknown key "listn"; did you mean listen?`},
		{"name: [a]\n", "line 1: "},
		{"{}\n", "service: addresses: there are none"},
		{"{}\n", "targets: there are none"},
		{"name: a b\n", `name: "a b" must be`},
		{"service: {addresses: [keys]}\n", "http://HOST:PORT"},
		{"service: {addresses: [http://h:1]}\n", "line 1: has text with a colon in a list; put it in quotes"},
		{"service: {addresses: h}\n", "line 1: addresses: must be a list in brackets"},
		{"service: {addresses: [\"http://h:1\"], token_file: t}\n", "a token is sent only over https://"},
		{"service: {addresses: [\"https://h:1\"], token_file: /no-such-file}\n", "service: token_file: open /no-such-file: "},
		{strings.Repeat("#", 5000) + "\n", "line 1: is longer than"},
		{target("{kind: nginx, file: /f, relod: [a]}"), `line 4: unknown key "relod"; did you mean reload?`},
		{target("{kind: ngnix, file: /f}"), "nginx; did you mean nginx?"},
		{target("{kind: iis, file: /f}"), `line 4: kind: "iis" must be one of ats, dnsdist,`},
		{target("{file: /f}"), `kind: "" must be one of`},
		{target("{kind: h2o}"), "file: there is none"},
		{target("{kind: nginx, file: /f}"), "reload: there is none"},
		{target("{kind: haproxy, file: /f}"), "neither a socket nor a reload"},
		{target("{kind: h2o, file: /f, socket: /s}"), "socket: does not go with kind h2o"},
		{target("{kind: h2o, file: \"/f.{key}\", keys: 2}"), "reads all keys from one file"},
		{target("{kind: httpd, file: \"/f.{key}\", keys: 2, reload: [a]}"), "holds one key"},
		{target("{kind: nginx, file: \"/f.{key}\", reload: [a]}"), "keys: goes with {key} in file"},
		{target("{kind: nginx, file: /f, keys: 2, reload: [a]}"), "keys: goes with {key} in file"},
		{target("{kind: nginx, file: \"/f.{key}\", keys: 65, reload: [a]}"), "must be 1 to 64"},
		{target("{kind: h2o, file: /f, mode: 0644}"), "line 4: mode: "},
		{target("{kind: h2o, file: /f, mode: 0660}"), "mode: 0660 is for the socket of kind envoy-sds"},
		{target("{kind: h2o, file: /f, owner: no-such-user}"), "owner: "},
		{target("{kind: h2o, file: /f, test: [a]}"), "test: goes with reload"},
		{target("{kind: h2o, file: /f, reload: a}"), "line 4: reload: must be a list in brackets"},
		{target("{kind: h2o, file: /f, reload: []}"), "reload: must be a command as a list"},
		{target("{kind: h2o, file: /f, reload: {signal: KILL, pid_file: /p}}"), `signal: "KILL" must be HUP, USR1 or USR2`},
		{target("{kind: h2o, file: /f, reload: {signl: HUP}}"), `unknown key "signl"; did you mean signal?`},
		{target("{kind: h2o, file: /f, probe: here}"), `probe: "here" must be HOST:PORT`},
		{target("{kind: nginx, file: \"/f.{key}\", keys: four, reload: [a]}"), "line 4: keys: must be a number"},
		{target("{kind: h2o, file: /f, test: a, reload: [a]}"), "line 4: test: must be a list in brackets"},
		{target("{kind: h2o, file: /f, timeout: 30}"), "line 4: timeout: must be a number with a unit"},
		{target("{kind: h2o, file: /f, timeout: soon}"), "line 4: timeout: must be a number with a unit"},
		{target("{kind: h2o, file: /f, timeout: [1s]}"), "line 4: timeout: must be a number with a unit"},
		{target("{kind: h2o, file: /f, timeout: 1h}"), "timeout: must be from 1s"},
		{target("{kind: h2o, file: /f, format: ats}"), "format: does not go with kind h2o"},
		{target("{kind: file, file: /f, format: atz}"), `format: unknown format "atz"`},
		{target("{kind: file, file: /f, format: go, probe: \"a:1\"}"), "tickets of Go servers"},
		{target("{kind: h2o, file: /f}\n  - {kind: h2o, file: /g}"), `two are called "h2o"`},
		{target("{kind: h2o, file: /f}\n  - {kind: ats, file: /f, reload: [a]}"), "h2o and ats write the same file /f"},
		{target("{kind: h2o, file: /f, name: a/b}"), `name: "a/b" must be`},
	} {
		if _, err := parseConfig([]byte(test.config), "/"); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.200q: %v, want %q", test.config, err, test.want)
		}
	}
	// All mistakes at once.
	_, err := parseConfig([]byte("name: a b\n"), "/")
	if err == nil || strings.Count(err.Error(), "\n") < 2 {
		t.Errorf("%v", err)
	}
}

func TestLoadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if _, err := LoadConfig(path); err == nil || !strings.HasPrefix(err.Error(), path+": ") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(path, []byte("service: {addresses: [unix:/s]}\ntargets: [{kind: h2o, file: keys.yaml}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(path)
	if err != nil || c.Targets[0].File != filepath.Join(filepath.Dir(path), "keys.yaml") || c.Name == "" {
		t.Errorf("%+v %v", c, err)
	}
	t.Chdir(filepath.Dir(path))
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, relative := range []string{"agent.yaml", "./agent.yaml"} {
		if c, err := LoadConfig(relative); err != nil || c.Targets[0].File != filepath.Join(dir, "keys.yaml") {
			t.Errorf("%s: %+v %v", relative, c, err)
		}
	}
}
