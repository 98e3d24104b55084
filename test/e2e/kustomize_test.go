package e2e_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

// The files and commands of deploy/kustomize work together, in folders of the test: a node
// with TLS, a policy, Redis and a state file, and nginx with an agent that takes its keys.
func TestKustomize(t *testing.T) {
	t.Parallel()
	need(t, "nginx")
	const deploy = "../../deploy/kustomize/"
	dir := t.TempDir()
	redis := redistest.Start(t, "--requirepass", "correct-horse")
	servicePort, nginxPort, agentPort := freePort(t), freePort(t), freePort(t)
	replacer := strings.NewReplacer(
		"/etc/sessapi/", dir+"/", "/etc/nginx/", dir+"/", "/var/lib/sessapi/", dir+"/state/", "/run/sessapi/", dir+"/run/",
		"redis://redis:6379", redis.URL(), "0.0.0.0:8440", "127.0.0.1:"+servicePort, "sessapi:8440", "127.0.0.1:"+servicePort,
		"listen 8443", "listen 127.0.0.1:"+nginxPort, "127.0.0.1:8443", "127.0.0.1:"+nginxPort, "0.0.0.0:8441", "127.0.0.1:"+agentPort,
	)
	write := func(name string, content []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for file, name := range map[string]string{
		"sessapi/sessapi.yaml": "config/sessapi.yaml", "nginx/nginx.conf": "sessapi/nginx.conf", "nginx/agent.yaml": "agent/agent.yaml",
	} {
		write(name, []byte(replacer.Replace(string(readFile(t, deploy+file)))))
	}
	cert, key := certificate(t, "/CN=sessapi", "DNS:sessapi")
	write("tls/tls.crt", readFile(t, cert))
	write("tls/tls.key", readFile(t, key))
	write("credentials/ca.crt", readFile(t, cert))
	made := strings.Split(strings.TrimSpace(run(t, sessapiPath, "token", "new", "--expires", "1d")), "\n")
	token, line := made[0], made[len(made)-1]
	write("credentials/token", []byte(token))
	write("secrets/policy.yaml", fmt.Appendf(nil, "identities:\n  - name: agent\n    roles: [key-consume]\n    tokens:\n      %s\n", line))
	write("secrets/redis-auth", []byte("correct-horse"))
	write("secrets/seal.key", readFile(t, newSealKey(t)))
	for _, folder := range []string{"state", "run"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}

	// args are the arguments, or the command, of a container.
	args := func(file, container string) []string {
		t.Helper()
		type containers []struct {
			Name          string
			Command, Args []string
		}
		var manifest struct {
			Spec struct {
				Template struct {
					Spec struct {
						InitContainers containers `yaml:"initContainers"`
						Containers     containers
					}
				}
			}
		}
		if err := yaml.Unmarshal(readFile(t, deploy+file), &manifest); err != nil {
			t.Fatal(err)
		}
		for _, c := range append(manifest.Spec.Template.Spec.InitContainers, manifest.Spec.Template.Spec.Containers...) {
			if c.Name == container {
				args := append(c.Command, c.Args...)
				for i := range args {
					args[i] = replacer.Replace(args[i])
				}
				return args
			}
		}
		t.Fatalf("%s has no container %s", file, container)
		return nil
	}
	service := start(t, sessapiPath, args("sessapi/statefulset.yaml", "sessapi")...)
	service.out.await(t, `"msg":"serving"`)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: patience}
	defer client.CloseIdleConnections()
	awaitOK(t, client, "https://127.0.0.1:"+servicePort+"/readyz")
	run(t, sessapiPath, args("nginx/patch-agent.yaml", "ticket-keys")...)
	nginx := args("nginx/nginx.yaml", "nginx")
	start(t, nginx[0], nginx[1:]...)
	awaitListening(t, "127.0.0.1:"+nginxPort)
	start(t, sessapiPath, args("nginx/patch-agent.yaml", "agent")...)
	awaitOK(t, client, "http://127.0.0.1:"+agentPort+"/readyz")
	const unchanged = `sessapi_agent_target_changes_total{kind="nginx",target="nginx"} 0`
	if metrics := awaitOK(t, client, "http://127.0.0.1:"+agentPort+"/metrics"); !strings.Contains(string(metrics), unchanged) {
		t.Errorf("the agent changes keys that nginx has:\n%s", metrics)
	}
}
