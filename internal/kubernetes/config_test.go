package kubernetes

import (
	"encoding/base64"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// complete is a kubeconfig as kubectl writes it.
const complete = `apiVersion: v1
kind: Config
preferences: {}
clusters:
- cluster:
    certificate-authority: ca.pem
    server: https://192.0.2.1:6443/
    extensions: [{name: of.a.tool, extension: {a: true}}]
  name: home
- {name: other, cluster: {server: "https://192.0.2.2", tls-server-name: kubernetes, certificate-authority-data: CA}}
users:
- name: agent
  user:
    token: inline
    tokenFile: token
- name: admin
  user: {client-certificate: c.pem, client-key: k.pem}
contexts:
- context: {cluster: home, user: agent, namespace: edge}
  name: edge
- {name: admin, context: {cluster: other, user: admin}}
current-context: edge
`

func TestParseKubeconfig(t *testing.T) {
	kubeconfig := strings.Replace(complete, "data: CA", "data: "+base64.StdEncoding.EncodeToString([]byte("pem")), 1)
	c, err := parseKubeconfig([]byte(kubeconfig), "/dir", "")
	if err != nil || c.Server != "https://192.0.2.1:6443" || c.Namespace != "edge" || c.ca.path != "/dir/ca.pem" || c.token.path != "/dir/token" || c.cert.given() {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = parseKubeconfig([]byte(kubeconfig), "/dir", "admin")
	if err != nil || c.Server != "https://192.0.2.2" || c.Namespace != "default" || string(c.ca.data) != "pem" || c.serverName != "kubernetes" ||
		c.cert.path != "/dir/c.pem" || c.key.path != "/dir/k.pem" || c.token.given() {
		t.Errorf("%+v, %v", c, err)
	}
	for _, test := range []struct{ old, replacement, want string }{
		{complete, "", "has no current-context"},
		{complete, "secret", "is no kubeconfig"},
		{complete, "a: [\n", "line 1: is no kubeconfig"},
		{complete, "\ncurrent-context: {secret: value}\n", "line 2: is no kubeconfig"},
		{"current-context: edge", "current-context: egde", `has no context "egde"`},
		{"cluster: home", "cluster: hone", `has no cluster "hone"`},
		{"user: agent", "user: agnet", `has no user "agnet"`},
		{"https://192.0.2.1:6443/", "http://192.0.2.1", `cluster "home": server: must be https://HOST:PORT`},
		{"https://192.0.2.1:6443/", "https://user:secret@192.0.2.1", "server: must be https://HOST:PORT"},
		{"certificate-authority: ca.pem", "insecure-skip-tls-verify: true", "would give the keys to anyone: set certificate-authority"},
		{"certificate-authority: ca.pem", "proxy-url: http://192.0.2.3", "proxy-url is not supported"},
		{"certificate-authority: ca.pem", "certificate-authority-data: secret!", "certificate-authority-data is not base64"},
		{"tokenFile: token", "exec: {command: aws}", `user "agent": exec plugins are not supported: use the token of a service account`},
		{"tokenFile: token", "auth-provider: {name: gcp}", "auth-provider is not supported: use"},
		{"tokenFile: token", "username: secret", "username and password are not supported: use"},
		{"tokenFile: token", "as: admin", "impersonation (as) is not supported: use"},
		{"tokenFile: token", "client-key: k.pem", "client-certificate and client-key go together"},
		{"    token: inline\n    tokenFile: token", "    {}", "has no credentials: use"},
	} {
		_, err := parseKubeconfig([]byte(strings.Replace(complete, test.old, test.replacement, 1)), "/", "")
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q", test.replacement, err, test.want)
		}
	}
	if _, err := parseKubeconfig([]byte(complete), "/", "edeg"); err == nil || err.Error() != `has no context "edeg"` {
		t.Errorf("%v", err)
	}
}

// All files that a kubeconfig names must be there and valid.
func TestKubeconfigFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kubeconfig")
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	if _, err := Kubeconfig(path, ""); err == nil || !strings.HasPrefix(err.Error(), path+": ") {
		t.Errorf("%v", err)
	}
	for _, step := range []struct{ name, content, want string }{
		{"kubeconfig", complete, "ca.pem: no such file"},
		{"ca.pem", "nothing", "ca.pem: contains no certificate"},
		{"ca.pem", ca, "token: no such file"},
		{"token", "two words", "token: must hold a token and nothing else"},
		{"token", "", "token: must hold a token and nothing else"},
		{"token", "one\n", ""},
	} {
		if err := os.WriteFile(filepath.Join(dir, step.name), []byte(step.content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Kubeconfig(path, "")
		if step.want == "" && err != nil || step.want != "" && (err == nil || !strings.Contains(err.Error(), filepath.Join(dir, step.want))) {
			t.Errorf("%s: %v, want %q", step.name, err, step.want)
		}
	}
}

func TestInCluster(t *testing.T) {
	dir := t.TempDir()
	env := map[string]string{}
	getenv := func(name string) string { return env[name] }
	if _, err := inCluster(dir, getenv); err == nil || !strings.Contains(err.Error(), "KUBERNETES_SERVICE_HOST") {
		t.Errorf("%v", err)
	}
	env["KUBERNETES_SERVICE_HOST"], env["KUBERNETES_SERVICE_PORT"] = "2001:db8::1", "443"
	if c, err := inCluster(dir, getenv); err != nil || c.Server != "https://[2001:db8::1]:443" || c.Namespace != "" {
		t.Errorf("%+v, %v", c, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "namespace"), []byte("edge\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := inCluster(dir, getenv)
	if err != nil || c.Namespace != "edge" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := c.bearer(); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "token")) {
		t.Errorf("%v", err)
	}
}

func FuzzParseKubeconfig(f *testing.F) {
	f.Add([]byte(complete), "")
	f.Add([]byte(complete), "admin")
	f.Fuzz(func(t *testing.T, data []byte, context string) {
		c, err := parseKubeconfig(data, "/", context)
		if err == nil && (!strings.HasPrefix(c.Server, "https://") || c.Namespace == "" || !c.token.given() && !c.cert.given()) {
			t.Errorf("%+v", c)
		}
	})
}
