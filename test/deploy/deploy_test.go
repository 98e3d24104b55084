// Package deploy_test checks the manifests of deploy/ against the schemas of Compose and
// Kubernetes.
package deploy_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:generate go run ./schemas

const deploy = "../../deploy/"

// decode returns the documents of a YAML stream.
func decode(t *testing.T, data []byte) (documents []any) {
	t.Helper()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document any
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return documents
		}
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, document)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func compile(t *testing.T, schema string) *jsonschema.Schema {
	t.Helper()
	compiled, err := jsonschema.NewCompiler().Compile("testdata/" + schema)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// at returns what is in nested mappings under the keys, nil where one is missing.
func at(value any, keys ...string) any {
	for _, key := range keys {
		m, _ := value.(map[string]any)
		value = m[key]
	}
	return value
}

func list(value any) []any {
	items, _ := value.([]any)
	return items
}

func TestCompose(t *testing.T) {
	file := decode(t, read(t, deploy+"compose.yaml"))[0]
	schema := compile(t, "compose.schema.json")
	if err := schema.Validate(file); err != nil {
		t.Error(err)
	}
	services, _ := at(file, "services").(map[string]any)
	for name, service := range services {
		for _, volume := range list(at(service, "volumes")) {
			source, _ := at(volume, "source").(string)
			switch at(volume, "type") {
			case "bind":
				if _, err := os.Stat(filepath.Join(deploy, source)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case "volume":
				if volumes, _ := at(file, "volumes").(map[string]any); !slices.Contains(keys(volumes), source) {
					t.Errorf("%s: there is no volume %s", name, source)
				}
			}
		}
	}
	for name, service := range services {
		shared, _ := at(service, "pid").(string)
		if server, ok := strings.CutPrefix(shared, "service:"); ok && at(services[server], "init") != true {
			t.Errorf("%s is process 1 of its container, which %s cannot signal", server, name)
		}
	}
	services["sessapi"].(map[string]any)["imagee"] = "sessapi"
	if schema.Validate(file) == nil {
		t.Error("the schema takes a key that does not exist")
	}
}

func keys(m map[string]any) (keys []string) {
	for key := range m {
		keys = append(keys, key)
	}
	return keys
}

// validate checks a manifest against the schema of its kind.
func validate(t *testing.T, manifest any) error {
	t.Helper()
	version, _ := at(manifest, "apiVersion").(string)
	kind, _ := at(manifest, "kind").(string)
	return compile(t, "kubernetes.schema.json#/$defs/"+strings.ReplaceAll(version+"/"+kind, "/", "~1")).Validate(manifest)
}

// kustomize returns the manifests of a folder.
func kustomize(t *testing.T, folder string) []any {
	t.Helper()
	modfile, err := filepath.Abs("../../tools/kustomize/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command("go", "tool", "-modfile="+modfile, "kustomize", "build", folder)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("kustomize build %s: %v\n%s", folder, err, &stderr)
	}
	return decode(t, out)
}

func TestKustomize(t *testing.T) {
	for folder, kinds := range map[string][]string{
		"sessapi":    {"ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Service", "StatefulSet"},
		"nginx":      {"ConfigMap", "ConfigMap", "Deployment", "Service"},
		"monitoring": {"ServiceMonitor"},
	} {
		t.Run(folder, func(t *testing.T) {
			var got []string
			for _, manifest := range kustomize(t, deploy+"kustomize/"+folder) {
				kind, _ := at(manifest, "kind").(string)
				got = append(got, kind)
				if err := validate(t, manifest); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				checkPod(t, at(manifest, "spec", "template", "spec"))
				manifest.(map[string]any)["spce"] = nil
				if validate(t, manifest) == nil {
					t.Errorf("the schema of a %s takes a field that does not exist", kind)
				}
			}
			if slices.Sort(got); !slices.Equal(got, kinds) {
				t.Errorf("it has %v", got)
			}
		})
	}
}

// checkPod holds a pod to the Pod Security Standard "restricted", and its mounts to its
// volumes.
func checkPod(t *testing.T, pod any) {
	t.Helper()
	if pod == nil {
		return
	}
	if at(pod, "securityContext", "runAsNonRoot") != true || at(pod, "securityContext", "seccompProfile", "type") != "RuntimeDefault" {
		t.Error("the pod is not restricted")
	}
	volumes := []any{"state"} // of volumeClaimTemplates
	for _, volume := range list(at(pod, "volumes")) {
		volumes = append(volumes, at(volume, "name"))
	}
	for _, container := range append(list(at(pod, "initContainers")), list(at(pod, "containers"))...) {
		name, security := at(container, "name"), at(container, "securityContext")
		if drop := list(at(security, "capabilities", "drop")); at(security, "allowPrivilegeEscalation") != false ||
			at(security, "readOnlyRootFilesystem") != true || !slices.Equal(drop, []any{"ALL"}) {
			t.Errorf("%v is not restricted", name)
		}
		for _, mount := range list(at(container, "volumeMounts")) {
			if !slices.Contains(volumes, at(mount, "name")) {
				t.Errorf("%v mounts %v, which is no volume", name, at(mount, "name"))
			}
		}
	}
}
