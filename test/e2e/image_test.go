package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

// maxImage is the limit of the files in the image, in bytes. docs/design/size.md says why
// the binary alone is 29.3 MB.
const maxImage = 30e6

// The image serves as it is: as a user of its own, on a root that is read only, without
// any capability and in a network of its own. SIGTERM ends it well.
func TestImage(t *testing.T) {
	needRoot(t, "it runs a container")
	runc, buildah := need(t, "runc"), need(t, "buildah")
	dir := t.TempDir()
	storage := filepath.Join(dir, "storage.conf")
	if err := os.WriteFile(storage, fmt.Appendf(nil, "[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n",
		filepath.Join(dir, "graph"), filepath.Join(dir, "run")), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONTAINERS_STORAGE_CONF", storage)
	build := exec.Command("make", "-C", "../..", "image", "ENGINE=buildah")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make image: %v\n%s", err, output)
	}
	const image = "localhost/sessapi:latest"
	var info struct {
		Docker struct {
			Config struct {
				User            string
				Env             []string
				Entrypoint, Cmd []string
				Healthcheck     struct{ Test []string }
				Labels          map[string]string
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(run(t, buildah, "inspect", "--type", "image", image)), &info); err != nil {
		t.Fatal(err)
	}
	config := info.Docker.Config
	if config.Labels["org.opencontainers.image.revision"] == "" {
		t.Errorf("the labels are %v", config.Labels)
	}
	var uid, gid int
	if _, err := fmt.Sscanf(config.User, "%d:%d", &uid, &gid); err != nil || uid == 0 || gid == 0 {
		t.Errorf("the user is %q", config.User)
	}
	container := strings.TrimSpace(run(t, buildah, "from", "--pull-never", image))
	root := strings.TrimSpace(run(t, buildah, "mount", container))
	t.Cleanup(func() { _ = exec.Command(buildah, "rm", container).Run() })
	var size int64
	files, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		info, err := file.Info()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, file.Name())
		size += info.Size()
		if mode := info.Mode().Perm(); file.Name() == "sessapi" && mode != 0o711 {
			t.Errorf("the binary has mode %o", mode)
		}
	}
	if !slices.Equal(names, []string{"LICENSE", "THIRD_PARTY_NOTICES", "sessapi"}) {
		t.Errorf("the image has %v", names)
	}
	if t.Logf("the image has %d bytes", size); size > maxImage {
		t.Errorf("the image has %d bytes, more than %.0f", size, maxImage)
	}

	bundle, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2",
		"process": map[string]any{
			"user": map[string]int{"uid": uid, "gid": gid}, "cwd": "/", "noNewPrivileges": true,
			"args": slices.Concat(config.Entrypoint, config.Cmd), "env": append(config.Env, "SESSAPI_INSECURE_LISTEN=true"),
		},
		"root":   map[string]any{"path": root, "readonly": true},
		"mounts": []map[string]string{{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux":  map[string]any{"namespaces": []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "ipc"}}},
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), bundle, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("sessapi-test-%d", os.Getpid())
	state := "--root=" + filepath.Join(dir, "runc")
	p := start(t, runc, state, "run", "--bundle", dir, name)
	t.Cleanup(func() { _ = exec.Command(runc, state, "delete", "--force", name).Run() })
	inside := func(stdin string, args ...string) (string, error) {
		command := exec.Command(runc, append([]string{state, "exec", name}, args...)...)
		command.Stdin = strings.NewReader(stdin)
		out, err := command.CombinedOutput()
		return string(out), err
	}
	p.out.await(t, `"msg":"serving"`)
	if test := config.Healthcheck.Test; len(test) < 2 || test[0] != "CMD" {
		t.Fatalf("the health check is %v", test)
	}
	redistest.Await(t, "the health check", func() error {
		if out, err := inside("", config.Healthcheck.Test[1:]...); err != nil {
			return errors.New(out)
		}
		return nil
	})
	for _, step := range []struct {
		stdin string
		args  []string
		want  string
	}{
		{"a session", []string{"put", "0a0b"}, "stored\n"},
		{"", []string{"get", "0a0b", "--format=raw"}, "a session"},
	} {
		if out, err := inside(step.stdin, append([]string{"/sessapi", "sessions"}, step.args...)...); err != nil || out != step.want {
			t.Errorf("sessions %v: %v %q", step.args, err, out)
		}
	}
	if out, err := inside("", "/sessapi", "seal-key", "new", "--out", "/seal.key"); err == nil || !strings.Contains(out, "read-only file system") {
		t.Errorf("the root can be written: %v %q", err, out)
	}
	var started struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(run(t, runc, state, "state", name)), &started); err != nil {
		t.Fatal(err)
	}
	if status := readFile(t, fmt.Sprintf("/proc/%d/status", started.PID)); !bytes.Contains(status, []byte("CapEff:\t0000000000000000\n")) {
		t.Error("it has capabilities")
	}

	if out, err := exec.Command(runc, state, "kill", name, "TERM").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	p.out.await(t, `"msg":"stopped"`)
	p.wait(t)
	if p.err != nil {
		t.Errorf("%v:\n%s", p.err, p.out)
	}
}
