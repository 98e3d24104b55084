package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/kubernetes"
)

var kubeAPIServer = flag.String("kube-apiserver", "", "path of the API server of Kubernetes; without it, its tests are skipped")

// cluster is a real API server with its etcd. Nothing else of a cluster runs.
type cluster struct {
	dir   string
	url   string
	args  []string
	api   *process
	admin string // kubeconfig
}

const adminToken = "admin-token"

func openCluster(t *testing.T) *cluster {
	t.Helper()
	if *kubeAPIServer == "" {
		t.Skip("make test-kubernetes runs it: it needs a kube-apiserver")
	}
	dir := t.TempDir()
	etcdPort, peerPort, port := freePort(t), freePort(t), freePort(t)
	start(t, need(t, "etcd"), "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:"+etcdPort, "--advertise-client-urls=http://127.0.0.1:"+etcdPort,
		"--listen-peer-urls=http://127.0.0.1:"+peerPort, "--initial-advertise-peer-urls=http://127.0.0.1:"+peerPort, "--initial-cluster=default=http://127.0.0.1:"+peerPort)
	awaitListening(t, "127.0.0.1:"+etcdPort)
	signing := filepath.Join(dir, "service-account.key")
	run(t, need(t, "openssl"), "genrsa", "-out", signing, "2048")
	c := &cluster{dir: dir, url: "https://127.0.0.1:" + port, admin: filepath.Join(dir, "admin.kubeconfig")}
	c.write(t, "tokens.csv", adminToken+`,admin,admin,"system:masters"`+"\n")
	c.args = []string{
		"--etcd-servers=http://127.0.0.1:" + etcdPort, "--cert-dir=" + filepath.Join(dir, "certs"), "--secure-port=" + port, "--bind-address=127.0.0.1",
		"--service-account-key-file=" + signing, "--service-account-signing-key-file=" + signing, "--service-account-issuer=https://kubernetes.default.svc",
		"--authorization-mode=RBAC", "--token-auth-file=" + filepath.Join(dir, "tokens.csv"), "--service-cluster-ip-range=192.0.2.0/24", "--endpoint-reconciler-type=none",
	}
	c.start(t)
	c.kubeconfig(t, c.admin, c.url, "token: "+adminToken)
	return c
}

// start starts the API server and waits until it is ready.
func (c *cluster) start(t *testing.T) {
	t.Helper()
	c.api = start(t, *kubeAPIServer, c.args...)
	asking := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // it only asks whether the server is up
	defer asking.CloseIdleConnections()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		request, err := newRequest(t, c.url+"/readyz")
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+adminToken)
		response, err := asking.Do(request)
		if err != nil {
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return
		}
	}
	t.Fatalf("the API server is not ready:\n%s", c.api.out)
}

func newRequest(t *testing.T, address string) (*http.Request, error) {
	return http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
}

func (c *cluster) write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

func (c *cluster) caFile() string { return filepath.Join(c.dir, "certs", "apiserver.crt") }

// kubeconfig writes a kubeconfig for a user with these credentials.
func (c *cluster) kubeconfig(t *testing.T, path, server, user string) {
	t.Helper()
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: test, user: {%s}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`, server, c.caFile(), user)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// kubectl runs kubectl as the administrator.
func (c *cluster) kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, need(t, "kubectl"), append([]string{"--kubeconfig=" + c.admin, "--cache-dir=" + filepath.Join(c.dir, "cache")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out) + stderr.String()
}

// tenant is a namespace with a service account for an agent.
type tenant struct {
	*cluster
	site       *edgeSite
	namespace  string
	token      string // file
	kubeconfig string // file
	agent      *process
}

// rights are those that the manifest of the agent gives.
var rights = []string{"get", "patch", "create"}

func (c *cluster) tenant(t *testing.T, site *edgeSite, namespace string, verbs ...string) *tenant {
	t.Helper()
	n := &tenant{cluster: c, site: site, namespace: namespace, token: filepath.Join(c.dir, namespace+".token"), kubeconfig: filepath.Join(c.dir, namespace+".kubeconfig")}
	c.kubectl(t, "", "create", "namespace", namespace)
	n.grant(t, verbs...)
	c.kubectl(t, "", "-n", namespace, "create", "serviceaccount", "agent")
	n.newToken(t)
	c.kubeconfig(t, n.kubeconfig, c.url, fmt.Sprintf("tokenFile: %q", n.token))
	return n
}

// grant gives the agent verbs on the objects of the tests, and no others.
func (n *tenant) grant(t *testing.T, verbs ...string) {
	t.Helper()
	n.kubectl(t, fmt.Sprintf(`apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: agent, namespace: %[1]s}
rules: [{apiGroups: [""], resources: [secrets, configmaps], resourceNames: [keys], verbs: [%[2]s]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: agent, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: agent}
subjects: [{kind: ServiceAccount, name: agent, namespace: %[1]s}]
`, n.namespace, strings.Join(verbs, ", ")), "apply", "-f", "-")
}

func (n *tenant) newToken(t *testing.T) {
	t.Helper()
	n.write(t, filepath.Base(n.token), n.kubectl(t, "", "-n", n.namespace, "create", "token", "agent"))
}

// configure writes the configuration of an agent whose target has the name of the
// namespace, and returns its path.
func (n *tenant) configure(t *testing.T, target string) string {
	t.Helper()
	return n.write(t, n.namespace+".yaml", fmt.Sprintf("service: {addresses: [\"http://127.0.0.1:%s\"]}\nname: host\ntargets:\n  - {name: %s, kind: kubernetes, %s}\n",
		n.site.port, n.namespace, target))
}

// run starts an agent with the kubeconfig.
func (n *tenant) run(t *testing.T, target string) *process {
	t.Helper()
	config := n.configure(t, fmt.Sprintf("kubeconfig: %q, namespace: %s, %s", n.kubeconfig, n.namespace, target))
	n.agent = start(t, sessapiPath, "agent", "--config="+config)
	return n.agent
}

// current waits until the agent has reported the keys as current, and returns them.
func (n *tenant) current(t *testing.T) *client.TicketKeys {
	t.Helper()
	d, err := n.site.client.TicketKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n.site.awaitCurrent(t, n.namespace, d.Generation)
	return d
}

// kubernetesObject is what the tests see of an object.
type kubernetesObject struct {
	Metadata struct {
		ResourceVersion string
		Annotations     map[string]string
	}
	Data map[string]string
}

func (n *tenant) get(t *testing.T, kind string) kubernetesObject {
	t.Helper()
	var o kubernetesObject
	if err := json.Unmarshal([]byte(n.kubectl(t, "", "-n", n.namespace, "get", kind, "keys", "-o", "json")), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// names returns the names of the entries.
func (o *kubernetesObject) names() string {
	var names []string
	for name := range o.Data {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// check compares an entry with the keys of the service in a format.
func (n *tenant) check(t *testing.T, o kubernetesObject, entry, format string, key *int) {
	t.Helper()
	want, err := n.site.client.Format(t.Context(), format, key)
	if err != nil {
		t.Fatal(err)
	}
	if o.Data[entry] != base64.StdEncoding.EncodeToString(want) {
		t.Errorf("%s does not have the keys as %s", entry, format)
	}
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not happen: %s", what)
		}
	}
}

const cilium = "secret: keys, layout: cilium"

// The agent with a real API server. The tests run one after another: the keys of the
// service rotate, and the API server stops.
func TestKubernetes(t *testing.T) {
	c := openCluster(t)
	site := openSite(t, nil)
	place := func(t *testing.T, verbs ...string) *tenant {
		t.Helper()
		_, name, _ := strings.Cut(t.Name(), "/")
		return c.tenant(t, site, strings.ReplaceAll(name, "_", "-"), verbs...)
	}

	t.Run("new secret and rotation", func(t *testing.T) {
		n := place(t, rights...)
		n.run(t, cilium)
		d := n.current(t)
		for range 2 {
			o := n.get(t, "secret")
			if want := "tls.sessionticket.key tls.sessionticket.key.1 tls.sessionticket.key.2"; !strings.HasPrefix(o.names(), want) || len(o.Data) != len(d.Keys) {
				t.Errorf("entries %s for %d keys", o.names(), len(d.Keys))
			}
			n.check(t, o, "tls.sessionticket.key", "envoy", new(0))
			for i := 1; i < len(d.Keys); i++ {
				n.check(t, o, "tls.sessionticket.key."+strconv.Itoa(i), "envoy", new(i))
			}
			if got := o.Metadata.Annotations["sessapi/generation"]; got != strconv.FormatUint(d.Generation, 10) {
				t.Errorf("generation %s, want %d", got, d.Generation)
			}
			d = site.rotate(t)
			site.awaitCurrent(t, n.namespace, d.Generation)
		}
		// Nothing is written without a difference.
		before := n.get(t, "secret").Metadata.ResourceVersion
		n.agent.stop(t, syscall.SIGTERM)
		if out, err := exec.Command(sessapiPath, "agent", "--config="+filepath.Join(c.dir, n.namespace+".yaml"), "--once").CombinedOutput(); err != nil {
			t.Errorf("--once: %v\n%s", err, out)
		}
		if after := n.get(t, "secret").Metadata.ResourceVersion; after != before {
			t.Errorf("resourceVersion %s, then %s", before, after)
		}
		// A revoked key is gone, with its entry.
		oldest := d.Keys[len(d.Keys)-1].Name
		if d, err := site.client.Revoke(t.Context(), oldest); err != nil || len(d.Keys) == 0 {
			t.Fatal(err)
		}
		n.run(t, cilium)
		d = n.current(t)
		if o := n.get(t, "secret"); len(o.Data) != len(d.Keys) {
			t.Errorf("entries %s for %d keys", o.names(), len(d.Keys))
		}
		if log := n.agent.out.String(); strings.Contains(log, "target failed") {
			t.Errorf("the agent failed:\n%s", log)
		}
	})

	t.Run("entries of others", func(t *testing.T) {
		n := place(t, "get", "patch") // it is there
		n.kubectl(t, "", "-n", n.namespace, "create", "secret", "generic", "keys", "--from-literal=mine=stays", "--from-literal=old.key=from-a-job")
		n.run(t, `secret: keys, entries: {old.key: {format: nginx, key: 0}, all: {format: haproxy}, "60": {format: nginx, key: 60}}`)
		n.current(t)
		o := n.get(t, "secret")
		n.check(t, o, "old.key", "nginx", new(0))
		n.check(t, o, "60", "nginx", new(0))
		n.check(t, o, "all", "haproxy", nil)
		if o.names() != "60 all mine old.key" || o.Data["mine"] != base64.StdEncoding.EncodeToString([]byte("stays")) {
			t.Errorf("entries %s", o.names())
		}
		// Changes by hand are undone, and those of other entries stay.
		for _, patch := range []string{`{"data": {"all": "QUFB", "mine": "QUFB"}}`, `{"data": {"all": null}}`} {
			n.kubectl(t, "", "-n", n.namespace, "patch", "secret", "keys", "-p", patch)
			eventually(t, "the entry is put back", func() bool { o = n.get(t, "secret"); return o.Data["all"] != "" && o.Data["all"] != "QUFB" })
			n.check(t, o, "all", "haproxy", nil)
		}
		if o.Data["mine"] != "QUFB" {
			t.Error("the entry of another is changed")
		}
		n.agent.out.await(t, "something else changed the keys")
		// An entry that is no longer a target's is removed.
		n.agent.stop(t, syscall.SIGTERM)
		n.run(t, `secret: keys, entries: {old.key: {format: nginx, key: 0}}`)
		n.current(t)
		eventually(t, "only one entry is left", func() bool { o = n.get(t, "secret"); return o.names() == "mine old.key" })
	})

	t.Run("entry that another applies", func(t *testing.T) {
		n := place(t, rights...)
		n.kubectl(t, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": %q}, "data": {"tls.sessionticket.key": "QUFB"}}`, n.namespace),
			"apply", "--server-side", "--field-manager=argocd", "-f", "-")
		n.run(t, cilium)
		site.awaitFailed(t, n.namespace, `Secret `+n.namespace+`/keys: the field manager "argocd" applies the entry tls.sessionticket.key, too: remove the entry from what it applies`)
		if o := n.get(t, "secret"); o.names() != "tls.sessionticket.key" || o.Data["tls.sessionticket.key"] != "QUFB" {
			t.Errorf("entries %s", o.names())
		}
		n.kubectl(t, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": %q}}`, n.namespace),
			"apply", "--server-side", "--field-manager=argocd", "-f", "-")
		n.current(t)
	})

	t.Run("forbidden", func(t *testing.T) {
		n := place(t, "get")
		n.run(t, cilium)
		for _, step := range []struct {
			verbs []string
			lacks string
		}{
			{[]string{"get"}, "patch"},
			{[]string{"get", "patch"}, "create"},
			{[]string{"patch"}, "get"},
		} {
			n.grant(t, step.verbs...)
			site.awaitFailed(t, n.namespace, fmt.Sprintf(`does not allow it (403): secrets "keys" is forbidden: User "system:serviceaccount:%s:agent" cannot %s resource "secrets"`, n.namespace, step.lacks))
		}
		n.grant(t, rights...)
		n.current(t)
	})

	t.Run("missing namespace", func(t *testing.T) {
		n := place(t, rights...)
		start(t, sessapiPath, "agent", "--config="+n.configure(t, fmt.Sprintf("kubeconfig: %q, namespace: none, %s", c.admin, cilium)))
		site.awaitFailed(t, n.namespace, `the API server answers 404: namespaces "none" not found`)
		n.kubectl(t, "", "create", "namespace", "none")
		n.current(t)
	})

	t.Run("credentials", func(t *testing.T) {
		n := place(t, rights...)
		n.run(t, cilium)
		n.current(t)
		// The API server no longer accepts the token, as if it had expired.
		n.kubectl(t, "", "-n", n.namespace, "delete", "serviceaccount", "agent")
		site.awaitFailed(t, n.namespace, "does not accept the credentials (401)")
		n.kubectl(t, "", "-n", n.namespace, "create", "serviceaccount", "agent")
		n.newToken(t)
		n.current(t)
		if err := os.Remove(n.token); err != nil {
			t.Fatal(err)
		}
		site.awaitFailed(t, n.namespace, n.token+": no such file")
		n.newToken(t)
		n.current(t)
		// The certificate of another.
		ca := readFile(t, c.caFile())
		stranger, _ := certificate(t, "/CN=other")
		n.agent.stop(t, syscall.SIGTERM)
		own := n.write(t, "own-ca.pem", string(ca))
		n.write(t, filepath.Base(n.kubeconfig), strings.ReplaceAll(string(readFile(t, n.kubeconfig)), c.caFile(), own))
		n.write(t, "own-ca.pem", string(readFile(t, stranger)))
		n.run(t, cilium)
		site.awaitFailed(t, n.namespace, "certificate signed by unknown authority")
		n.write(t, "own-ca.pem", string(ca))
		n.current(t)
	})

	t.Run("throttled", func(t *testing.T) {
		n := place(t, rights...)
		proxy, busy := throttle(t, c)
		c.kubeconfig(t, n.kubeconfig, proxy.URL, fmt.Sprintf("tokenFile: %q", n.token))
		config := string(readFile(t, n.kubeconfig))
		ca := n.write(t, "proxy-ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw})))
		n.write(t, filepath.Base(n.kubeconfig), strings.ReplaceAll(config, c.caFile(), ca))
		n.run(t, cilium)
		site.awaitFailed(t, n.namespace, "the API server is busy (429): too many requests")
		n.current(t)
		if gap := time.Duration(busy.Load()); gap < 3*time.Second {
			t.Errorf("asked again after %v, Retry-After is 3 s", gap)
		}
	})

	t.Run("two agents", func(t *testing.T) {
		n := place(t, rights...)
		first := n.run(t, cilium)
		second := n.run(t, cilium)
		var versions []string
		for range 3 {
			d := site.rotate(t)
			site.awaitCurrent(t, n.namespace, d.Generation)
			for _, agent := range []*process{first, second} {
				agent.out.await(t, fmt.Sprintf(`"target is current".*"generation":%d`, d.Generation))
			}
			o := n.get(t, "secret")
			n.check(t, o, "tls.sessionticket.key", "envoy", new(0))
			versions = append(versions, o.Metadata.ResourceVersion)
		}
		// A write that depends on an earlier version of the object changes nothing.
		config, err := kubernetes.Kubeconfig(n.kubeconfig, "")
		if err != nil {
			t.Fatal(err)
		}
		object := kubernetes.Reference{Kind: kubernetes.Secret, Namespace: n.namespace, Name: "keys"}
		err = kubernetes.New(config, time.Minute).Apply(t.Context(), object, "sessapi-agent", versions[0], nil, nil)
		if e, ok := errors.AsType[*kubernetes.Error](err); !ok || !e.Conflict() {
			t.Errorf("applied to an earlier version: %v", err)
		}
		for _, agent := range []*process{first, second} {
			if out := agent.out.String(); strings.Contains(out, "something else") {
				t.Errorf("the agents disturb each other at %s:\n%s", versions, out)
			}
		}
	})

	t.Run("agent behind another", func(t *testing.T) {
		n := place(t, rights...)
		n.run(t, cilium)
		n.current(t)
		later := n.get(t, "secret").Metadata.Annotations["sessapi/generation"] + "0"
		n.kubectl(t, "", "-n", n.namespace, "patch", "secret", "keys", "-p", fmt.Sprintf(`{"metadata": {"annotations": {"sessapi/generation": %q}}, "data": {"tls.sessionticket.key": "QUFB"}}`, later))
		site.awaitFailed(t, n.namespace, "another agent wrote keys of generation "+later)
		if o := n.get(t, "secret"); o.Data["tls.sessionticket.key"] != "QUFB" {
			t.Error("older keys are put back")
		}
	})

	t.Run("layouts", func(t *testing.T) {
		for _, layout := range []struct{ settings, kind, entry, format string }{
			{"configmap: keys, layout: ingress-nginx", "configmap", "ssl-session-ticket-key", "nginx"},
			{"secret: keys, layout: nghttpx-ingress", "secret", "nghttpx-tls-ticket-key", "ats"},
			{"secret: keys, layout: envoy", "secret", "ticket-keys.yaml", ""},
		} {
			t.Run(layout.entry, func(t *testing.T) {
				n := c.tenant(t, site, strings.ReplaceAll(layout.entry, ".", "-"), rights...)
				n.run(t, layout.settings)
				n.current(t)
				o := n.get(t, layout.kind)
				if o.names() != layout.entry {
					t.Errorf("entries %s", o.names())
				}
				switch layout.format {
				case "nginx":
					n.check(t, o, layout.entry, "nginx", new(0))
				case "ats":
					n.check(t, o, layout.entry, "ats", nil)
					at, err := time.Parse(time.RFC3339, o.Metadata.Annotations["ingress.zlab.co.jp/tls-ticket-key-update-timestamp"])
					if err != nil || time.Until(at) < 100*365*24*time.Hour {
						t.Errorf("annotations %q", o.Metadata.Annotations)
					}
				default:
					text, err := base64.StdEncoding.DecodeString(o.Data[layout.entry])
					if err != nil || !strings.Contains(string(text), "session_ticket_keys:") {
						t.Error("no SDS resource")
					}
				}
			})
		}
	})

	t.Run("in a pod", func(t *testing.T) {
		needRoot(t, "it mounts")
		n := place(t, rights...)
		pod := filepath.Join(t.TempDir(), "run")
		account := filepath.Join(pod, "secrets/kubernetes.io/serviceaccount")
		if err := os.MkdirAll(account, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"ca.crt": readFile(t, c.caFile()), "token": []byte("expired"), "namespace": []byte(n.namespace)} {
			if err := os.WriteFile(filepath.Join(account, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		config := n.configure(t, cilium)
		// /var/run is a link to /run.
		cmd := exec.Command(need(t, "unshare"), "--mount", "sh", "-c", `mount --bind "$1" /run && exec "$2" agent --config="$3"`, "sh", pod, sessapiPath, config)
		host, _ := url.Parse(c.url)
		cmd.Env = append(os.Environ(), "KUBERNETES_SERVICE_HOST="+host.Hostname(), "KUBERNETES_SERVICE_PORT="+host.Port())
		startCommand(t, cmd)
		site.awaitFailed(t, n.namespace, "does not accept the credentials (401)")
		if err := os.WriteFile(filepath.Join(account, "token"), readFile(t, n.token), 0o600); err != nil {
			t.Fatal(err)
		}
		n.current(t)
	})

	t.Run("deployed", func(t *testing.T) {
		c.kubectl(t, "", "create", "namespace", "cilium-secrets")
		c.kubectl(t, "", "create", "namespace", "sessapi")
		c.kubectl(t, "", "label", "namespace", "sessapi", "pod-security.kubernetes.io/warn=restricted")
		const manifest = "../../deploy/kubernetes/agent.yaml"
		for _, args := range [][]string{{"--dry-run=server"}, nil} {
			out := c.kubectl(t, "", append([]string{"apply", "-f", manifest}, args...)...)
			if strings.Contains(out, "Warning") || !strings.Contains(out, "deployment.apps/sessapi-agent created") {
				t.Errorf("kubectl says:\n%s", out)
			}
		}
		// The agent as the manifest has it, with this service and the account's token.
		config := c.kubectl(t, "", "-n", "sessapi", "get", "configmap", "sessapi-agent", "-o", `jsonpath={.data.agent\.yaml}`)
		n := &tenant{cluster: c, site: site, namespace: "kubernetes", kubeconfig: filepath.Join(c.dir, "deployed.kubeconfig")}
		c.kubeconfig(t, n.kubeconfig, c.url, fmt.Sprintf("token: %q", strings.TrimSpace(c.kubectl(t, "", "-n", "sessapi", "create", "token", "sessapi-agent"))))
		var changed strings.Builder
		for line := range strings.Lines(config) {
			switch key, _, _ := strings.Cut(strings.TrimSpace(line), ":"); key {
			case "addresses":
				line = fmt.Sprintf("  addresses: [\"http://127.0.0.1:%s\"]\n", site.port)
			case "ca", "token_file":
				line = ""
			case "name":
				line = "name: host\n"
			case "listen":
				line = "listen: 127.0.0.1:0\n"
			case "- {kind":
				line = strings.Replace(line, "{", fmt.Sprintf("{kubeconfig: %q, ", n.kubeconfig), 1)
			}
			changed.WriteString(line)
		}
		start(t, sessapiPath, "agent", "--config="+n.write(t, "deployed.yaml", changed.String()))
		n.current(t)
		if names := c.kubectl(t, "", "-n", "cilium-secrets", "get", "secrets", "-o", "name"); names != "secret/tls-session-ticket-keys\n" {
			t.Errorf("secrets %q", names)
		}
	})

	t.Run("kustomizations", func(t *testing.T) {
		c.kubectl(t, "", "create", "namespace", "kustomized")
		c.kubectl(t, "", "label", "namespace", "kustomized", "pod-security.kubernetes.io/warn=restricted")
		files, err := filepath.Glob("../../deploy/kustomize/*/kustomization.yaml")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			manifest := c.kubectl(t, "", "kustomize", filepath.Dir(file))
			if strings.Contains(manifest, "monitoring.coreos.com/") { // which an operator adds to the API server
				continue
			}
			if out := c.kubectl(t, manifest, "-n", "kustomized", "apply", "--dry-run=server", "-f", "-"); strings.Contains(out, "Warning") {
				t.Errorf("kubectl says of %s:\n%s", file, out)
			}
		}
	})

	t.Run("away and back", func(t *testing.T) {
		n := place(t, rights...)
		n.run(t, cilium)
		n.current(t)
		c.api.stop(t, syscall.SIGKILL)
		site.awaitFailed(t, n.namespace, "API server "+c.url+": dial tcp")
		d := site.rotate(t)
		c.start(t)
		site.awaitCurrent(t, n.namespace, d.Generation)
		n.check(t, n.get(t, "secret"), "tls.sessionticket.key", "envoy", new(0))
		n.agent.stop(t, syscall.SIGTERM)
		leaks(t, n)
	})
}

// leaks fails if the log of the agent has a key or the token.
func leaks(t *testing.T, n *tenant) {
	t.Helper()
	log := n.agent.out.String()
	secrets := []string{strings.TrimSpace(string(readFile(t, n.token)))}
	for _, value := range n.get(t, "secret").Data {
		secrets = append(secrets, value)
	}
	for _, secret := range secrets {
		if strings.Contains(log, secret) {
			t.Error("the log of the agent has a secret")
		}
	}
}

// throttle is a proxy before the API server that refuses the first requests that change
// something, as an API server with too many requests does. The duration is the time until
// the agent asked again.
func throttle(t *testing.T, c *cluster) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	target, err := url.Parse(c.url)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // the tests of certificates are others
	forward.ModifyResponse = func(r *http.Response) error {
		body, err := io.ReadAll(r.Body)
		if err == nil && r.Request.Method == http.MethodPatch && bytes.Contains(body, []byte(`"data":{`)) {
			t.Error("the answer to a change has the keys")
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		return err
	}
	var refused time.Time
	gap := &atomic.Int64{}
	proxy := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPatch && refused.IsZero():
			refused = time.Now()
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "too many requests, please try again later", "reason": "TooManyRequests", "code": 429}`))
			return
		case !refused.IsZero() && gap.Load() == 0:
			gap.Store(int64(time.Since(refused)))
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	return proxy, gap
}
