package agent

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
)

func TestObjectConfigErrors(t *testing.T) {
	inPod(t)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ target, want string }{
		{"namespace: edge, layout: cilium", "secret: give either secret or, for ingress-nginx, configmap"},
		{"namespace: edge, secret: keys, configmap: keys, layout: cilium", "secret: give either secret or"},
		{"namespace: edge, secret: Keys, layout: cilium", `secret: "Keys" is not a valid name in Kubernetes`},
		{"namespace: edge, secret: a/b, layout: cilium", `secret: "a/b" is not a valid name in Kubernetes`},
		{"namespace: a.b, secret: keys, layout: cilium", `namespace: "a.b" is no name of a namespace`},
		{"secret: keys, layout: cilium", `namespace: "" is no name of a namespace`},
		{"namespace: edge, secret: keys", "layout: give one of cilium, envoy, ingress-nginx, nghttpx-ingress, or entries"},
		{"namespace: edge, secret: keys, layout: cilium, entries: {a: {format: ats}}", "layout: give one of"},
		{"namespace: edge, secret: keys, layout: ciliun", "did you mean cilium?"},
		{"namespace: edge, secret: keys, layout: ingress-nginx", "secret: ingress-nginx reads its configmap"},
		{"namespace: edge, configmap: keys, layout: cilium", "configmap: goes with layout ingress-nginx only"},
		{"namespace: edge, configmap: keys, entries: {a: {format: ats}}", "configmap: goes with layout ingress-nginx only"},
		{"namespace: edge, secret: keys, entries: {a/b: {format: ats}}", `entries: "a/b" must be 1 to 253 letters`},
		{"namespace: edge, secret: keys, entries: {a: {format: atz}}", `entries: a: unknown format "atz"`},
		{"namespace: edge, secret: keys, entries: {a: {format: ats, key: 0}}", "entries: a: key: does not go with ats"},
		{"namespace: edge, secret: keys, entries: {a: {format: nginx}}", "entries: a: key: give the number of the key: nginx holds one"},
		{"namespace: edge, secret: keys, entries: {a: {format: nginx, key: 64}}", "entries: a: key: must be 0 to 63"},
		{"namespace: edge, secret: keys, entries: {a: {fromat: ats}}", `unknown key "fromat"; did you mean format?`},
		{"namespace: edge, secret: keys, layout: cilium, context: a", "context: goes with kubeconfig"},
		{"namespace: edge, secret: keys, layout: cilium, kubeconfig: /none", "kubeconfig: /none: no such file"},
		{"namespace: edge, secret: keys, layout: cilium, kubeconfig: " + kubeconfig, "has no current-context"},
		{"namespace: edge, secret: keys, layout: cilium, file: /f", "file: does not go with kind kubernetes"},
		{"namespace: edge, secret: keys, layout: cilium, keys: 4", "keys: does not go with kind kubernetes"},
		{"namespace: edge, secret: keys, layout: cilium, reload: [a]", "reload: does not go with kind kubernetes"},
		{"namespace: edge, secret: keys, layout: cilium, probe: \"a:1\"", "probe: does not go with kind kubernetes"},
		{"namespace: edge, secret: keys, layout: cilium, timeout: 1h", "timeout: must be from 1s"},
		{"namespace: edge, secret: keys, layout: cilium}\n  - {kind: kubernetes, name: b, namespace: edge, secret: keys, layout: envoy", "kubernetes and b write the same Secret edge/keys of https://192.0.2.1:443"},
	} {
		_, err := parseConfig([]byte("service: {addresses: [unix:/s]}\nname: a\ntargets:\n  - {kind: kubernetes, "+test.target+"}\n"), "/")
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.target, err, test.want)
		}
	}
	for _, key := range []string{"secret: a", "namespace: a", "layout: cilium", "kubeconfig: a", "entries: {a: {format: ats}}"} {
		_, err := parseConfig([]byte("service: {addresses: [unix:/s]}\nname: a\ntargets:\n  - {kind: h2o, file: /f, "+key+"}\n"), "/")
		if err == nil || !strings.Contains(err.Error(), "does not go with kind h2o") {
			t.Errorf("%s: %v", key, err)
		}
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, err := parseConfig([]byte("service: {addresses: [unix:/s]}\nname: a\ntargets:\n  - {kind: kubernetes, namespace: edge, secret: keys, layout: cilium}\n"), "/")
	if want := "kubeconfig: there is none, and the agent is not in a pod"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// Each layout has the entries that the software reads, in its order.
func TestLayouts(t *testing.T) {
	set := keys.Generate(256, 12)
	defer set.Wipe()
	short := keys.Set{Keys: set.Keys[:1]}
	record := func(f keys.Format, i int) []byte {
		t.Helper()
		key, err := f.AppendKey(nil, set, i)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	contents := func(name string, set keys.Set) map[string][]byte {
		m := map[string][]byte{}
		for _, e := range layouts[name].entries(set) {
			m[e.Name] = e.Content
		}
		return m
	}
	cilium := map[string][]byte{"tls.sessionticket.key": record(keys.Envoy, 0)}
	for i, n := range "123456789" {
		cilium["tls.sessionticket.key."+string(n)] = record(keys.Envoy, i+1)
	}
	first := keys.ATS.Append(nil, short)
	for _, test := range []struct {
		layout string
		set    keys.Set
		want   map[string][]byte
	}{
		{"cilium", set, cilium},
		{"cilium", short, map[string][]byte{"tls.sessionticket.key": record(keys.Envoy, 0)}},
		{"envoy", set, map[string][]byte{"ticket-keys.yaml": envoySecret(set, 0)}},
		{"ingress-nginx", set, map[string][]byte{"ssl-session-ticket-key": record(keys.NGINX, 0)}},
		{"nghttpx-ingress", set, map[string][]byte{"nghttpx-tls-ticket-key": keys.ATS.Append(nil, set)}},
		{"nghttpx-ingress", short, map[string][]byte{"nghttpx-tls-ticket-key": append(bytes.Clone(first), first...)}},
	} {
		if got := contents(test.layout, test.set); !maps.EqualFunc(got, test.want, bytes.Equal) {
			t.Errorf("%s of %d keys: %q, want %q", test.layout, setSize(test.set), slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(test.want)))
		}
	}
}

// fakeObjects is an API server with one Secret. The tests with a real one are in test/e2e.
type fakeObjects struct {
	gets, patches []string // versions and bodies
	conflicts     int      // answers to the next patches
	throttle      bool
}

func (f *fakeObjects) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	version := strconv.Itoa(len(f.gets) + 1)
	switch {
	case f.throttle:
		f.gets = append(f.gets, "")
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
	case r.Method == http.MethodGet:
		f.gets = append(f.gets, version)
		fmt.Fprintf(w, `{"metadata": {"resourceVersion": %q}}`, version)
	default:
		body, _ := io.ReadAll(r.Body) // a short one is not what the test expects
		f.patches = append(f.patches, string(body))
		if f.conflicts > 0 {
			f.conflicts--
			w.WriteHeader(http.StatusConflict)
		}
	}
}

func newObjectTarget(t *testing.T) (*fakeObjects, *target) {
	t.Helper()
	f := &fakeObjects{}
	server := httptest.NewTLSServer(f)
	t.Cleanup(server.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, `{clusters: [{name: a, cluster: {server: %q, certificate-authority-data: %q}}],
		users: [{name: a, user: {token: a}}], contexts: [{name: a, context: {cluster: a, user: a, namespace: edge}}], current-context: a}`,
		server.URL, base64.StdEncoding.EncodeToString(ca)), 0o600); err != nil {
		t.Fatal(err)
	}
	config := &Target{Kind: "kubernetes", Kubeconfig: kubeconfig, Secret: "keys", Layout: "nghttpx-ingress"}
	if err := config.check(); err != nil {
		t.Fatal(err)
	}
	return f, newTarget(config, reach{run: runFor, ask: askSocket}, slog.New(slog.DiscardHandler), func() {})
}

// While others change the object, the agent tries again with the version that it read
// last, a few times.
func TestObjectConflicts(t *testing.T) {
	set := keys.Generate(256, 3)
	defer set.Wipe()
	for conflicts := range maxApplies + 1 {
		f, target := newObjectTarget(t)
		f.conflicts = conflicts
		w := target.wants(7, set)
		if holds, err := target.holder.Holds(t.Context(), w); holds || err != nil {
			t.Fatal(holds, err)
		}
		err := target.holder.Apply(t.Context(), w)
		if want := min(conflicts+1, maxApplies); len(f.patches) != want || (err != nil) != (conflicts == maxApplies) {
			t.Errorf("%d conflicts: %d patches, %v", conflicts, len(f.patches), err)
		}
		for i, patch := range f.patches {
			if !strings.Contains(patch, fmt.Sprintf(`"resourceVersion":"%d"`, i+1)) || !strings.Contains(patch, `"sessapi/generation":"7"`) {
				t.Errorf("%d conflicts: patch %d is of another version or generation", conflicts, i)
			}
		}
	}
}

// An API server that is busy gets no further request for as long as it says.
func TestObjectThrottled(t *testing.T) {
	set := keys.Generate(256, 3)
	defer set.Wipe()
	f, target := newObjectTarget(t)
	f.throttle = true
	pause := target.step(t.Context(), target.wants(7, set))
	if s := target.Status(); pause != time.Minute || len(f.gets) != 1 || s.State != Failed || !strings.HasPrefix(s.Detail, "Secret edge/keys: the API server is busy (429): ") {
		t.Errorf("the pause is %v after %d requests: %+v", pause, len(f.gets), s)
	}
}

// An entry of a key that the set does not have has the current key.
func TestEntries(t *testing.T) {
	one, nine := 0, 9
	target := &Target{Entries: map[string]Entry{"0": {"nginx", &one}, "9": {"nginx", &nine}, "all": {"haproxy", nil}}}
	if err := target.checkEntries(func(string, string, ...any) error { t.Error("not valid"); return nil }); err != nil {
		t.Fatal(err)
	}
	set := keys.Generate(256, 3)
	defer set.Wipe()
	current, err := keys.NGINX.AppendKey(nil, set, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]byte{current, current, keys.HAProxy.Append(nil, set)} {
		if got := target.layout.entries(set)[i]; !bytes.Equal(got.Content, want) {
			t.Errorf("entry %s has another content", got.Name)
		}
	}
}
