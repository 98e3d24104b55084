package e2e_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// composed is what the test reads of a service in deploy/compose.yaml.
type composed struct {
	Entrypoint  []string
	Command     []string
	Environment map[string]string
	NetworkMode string `yaml:"network_mode"`
	Volumes     []struct{ Type, Source, Target string }
}

// demonstration runs the services of deploy/compose.yaml without containers: the commands
// and files of each, in which the folders, names and ports are those of the test.
type demonstration struct {
	services map[string]composed
	dir      string
	ports    map[string]string // of the test, for each HOST:PORT
}

// replacer replaces what differs without the container of the service, and makes the
// folders and files that the container would have.
func (d *demonstration) replacer(t *testing.T, name string) *strings.Replacer {
	t.Helper()
	var replace []string
	for address, port := range d.ports {
		replace = append(replace, address, "127.0.0.1:"+port)
	}
	host := strings.TrimPrefix(d.services[name].NetworkMode, "service:")
	if host == "" {
		host = name
	}
	for _, own := range []string{"8443", "8441"} {
		if port, ok := d.ports[host+":"+own]; ok {
			replace = append(replace, "listen "+own, "listen 127.0.0.1:"+port, "0.0.0.0:"+own, "127.0.0.1:"+port, "127.0.0.1:"+own, "127.0.0.1:"+port)
		}
	}
	files := make(map[string]string) // the file of deploy/ for each path
	for _, volume := range d.services[name].Volumes {
		path := filepath.Join(d.dir, volume.Source)
		folder := path
		if volume.Type == "bind" {
			folder = filepath.Join(d.dir, name)
			path = filepath.Join(folder, filepath.Base(volume.Target))
			files[path] = filepath.Join("../../deploy", volume.Source)
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		replace = append(replace, volume.Target, path)
	}
	r := strings.NewReplacer(replace...)
	for path, file := range files {
		if err := os.WriteFile(path, []byte(r.Replace(string(readFile(t, file)))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// command is the command of a service. It begins with image, if the entrypoint is that of
// the image.
func (d *demonstration) command(t *testing.T, name string, image ...string) *exec.Cmd {
	t.Helper()
	s, r := d.services[name], d.replacer(t, name)
	args := slices.Concat(image, s.Entrypoint, s.Command)
	for i := range args {
		args[i] = r.Replace(args[i])
	}
	command := exec.Command(args[0], args[1:]...)
	command.Env = os.Environ()
	for key, value := range s.Environment {
		command.Env = append(command.Env, key+"="+r.Replace(value))
	}
	return command
}

// The demonstration of deploy/compose.yaml shows what it is for: two nginx with keys of
// the service resume each other's sessions, and Prometheus sees everything.
func TestDemonstration(t *testing.T) {
	needRoot(t, "it gives files to the users of containers")
	for _, program := range []string{"nginx", "openssl", "prometheus", "redis-server"} {
		need(t, program)
	}
	t.Parallel()
	var file struct{ Services map[string]composed }
	if err := yaml.Unmarshal(readFile(t, "../../deploy/compose.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	d := &demonstration{services: file.Services, dir: t.TempDir(), ports: make(map[string]string)}
	for _, address := range []string{"redis:6379", "sessapi:8440", "nginx-1:8443", "nginx-1:8441", "nginx-2:8443", "nginx-2:8441", "prometheus:9090"} {
		d.ports[address] = freePort(t)
	}

	if out, err := d.command(t, "setup").CombinedOutput(); err != nil {
		t.Fatalf("setup: %v\n%s", err, out)
	}
	again, err := d.command(t, "setup").CombinedOutput()
	if err != nil || len(again) > 0 {
		t.Errorf("setup, once more: %v\n%s", err, again)
	}
	redis := d.command(t, "redis")
	redis.Args = append(redis.Args, "--port", d.ports["redis:6379"], "--bind", "127.0.0.1", "--dir", t.TempDir())
	startCommand(t, redis)
	awaitListening(t, "127.0.0.1:"+d.ports["redis:6379"])
	sessapi := d.command(t, "sessapi", sessapiPath, "serve")
	sessapi.Env = append(sessapi.Env, "SESSAPI_LISTEN=127.0.0.1:"+d.ports["sessapi:8440"])
	startCommand(t, sessapi)
	for _, i := range []string{"1", "2"} {
		startCommand(t, d.command(t, "nginx-"+i))
		startCommand(t, d.command(t, "agent-"+i, sessapiPath))
	}
	for _, i := range []string{"1", "2"} {
		awaitOK(t, http.DefaultClient, "http://127.0.0.1:"+d.ports["nginx-"+i+":8441"]+"/readyz")
	}
	out, err := d.command(t, "doctor", sessapiPath).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Every node resumes the sessions of every node.") {
		t.Errorf("doctor: %v\n%s", err, out)
	}

	address := "http://127.0.0.1:" + d.ports["prometheus:9090"]
	prometheus := &prometheusServer{startCommand(t, d.command(t, "prometheus", "prometheus", "--config.file=/etc/prometheus/prometheus.yml",
		"--web.listen-address=prometheus:9090", "--storage.tsdb.path="+t.TempDir())), address}
	prometheus.out.await(t, "Server is ready to receive web requests")
	prometheus.await(t, "the demonstration", map[string]string{
		"all targets": "sum(up) == 3",
		"the rules":   `ALERTS{alertname="SessapiInsecureListen"}`,
	})
}
