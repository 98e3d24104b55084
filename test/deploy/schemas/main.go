// Command schemas writes the schemas that the manifests of deploy/ are checked against.
// It takes them from modules of Kubernetes, the Prometheus Operator and Compose, and
// leaves out descriptions, and types that no manifest uses.
package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

const (
	kubernetes = "k8s.io/kubernetes@v1.34.4"
	operator   = "github.com/prometheus-operator/prometheus-operator@v0.80.1"
	compose    = "github.com/compose-spec/compose-go/v2@v2.16.2"
)

// kinds are what manifests may hold: the type of each API version and kind, and the file
// of the OpenAPI document of Kubernetes that has it.
var kinds = map[string][2]string{
	"v1/ConfigMap":                       {"io.k8s.api.core.v1.ConfigMap", "api__v1"},
	"v1/Service":                         {"io.k8s.api.core.v1.Service", "api__v1"},
	"apps/v1/Deployment":                 {"io.k8s.api.apps.v1.Deployment", "apis__apps__v1"},
	"apps/v1/StatefulSet":                {"io.k8s.api.apps.v1.StatefulSet", "apis__apps__v1"},
	"networking.k8s.io/v1/NetworkPolicy": {"io.k8s.api.networking.v1.NetworkPolicy", "apis__networking.k8s.io__v1"},
	"policy/v1/PodDisruptionBudget":      {"io.k8s.api.policy.v1.PodDisruptionBudget", "apis__policy__v1"},
}

func main() {
	if err := run("testdata"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir string) error {
	defs := make(map[string]any)
	from, err := module(kubernetes)
	if err != nil {
		return err
	}
	types := make(map[string]any)
	for _, kind := range kinds {
		var document struct {
			Components struct {
				Schemas map[string]any `json:"schemas"`
			} `json:"components"`
		}
		if err := read(json.Unmarshal, &document, from, "api/openapi-spec/v3", kind[1]+"_openapi.json"); err != nil {
			return err
		}
		maps.Copy(types, document.Components.Schemas)
	}
	for name, kind := range kinds {
		add(defs, types, kind[0])
		defs[name] = map[string]any{"$ref": "#/$defs/" + kind[0]}
	}

	if from, err = module(operator); err != nil {
		return err
	}
	var definition struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema map[string]any `yaml:"openAPIV3Schema"`
				} `yaml:"schema"`
			} `yaml:"versions"`
		} `yaml:"spec"`
	}
	if err := read(yaml.Unmarshal, &definition, from, "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"); err != nil {
		return err
	}
	monitor := definition.Spec.Versions[0].Schema.OpenAPIV3Schema
	monitor["properties"].(map[string]any)["metadata"] = map[string]any{"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
	defs["monitoring.coreos.com/v1/ServiceMonitor"] = strict(monitor)

	if err := write(filepath.Join(dir, "kubernetes.schema.json"), map[string]any{
		"$comment": "From " + kubernetes + " and " + operator, "$defs": defs,
	}); err != nil {
		return err
	}

	if from, err = module(compose); err != nil {
		return err
	}
	var schema map[string]any
	if err := read(json.Unmarshal, &schema, from, "schema/compose-spec.json"); err != nil {
		return err
	}
	schema["$comment"] = "From " + compose
	return write(filepath.Join(dir, "compose.schema.json"), bare(schema))
}

// module returns the folder of a module, which it downloads.
func module(version string) (string, error) {
	out, err := exec.Command("go", "mod", "download", "-json", version).Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", version, err, out)
	}
	var m struct{ Dir string }
	return m.Dir, json.Unmarshal(out, &m)
}

func read(unmarshal func([]byte, any) error, into any, path ...string) error {
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		return err
	}
	return unmarshal(data, into)
}

func write(path string, schema any) error {
	data, err := json.MarshalIndent(schema, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// add adds a type, and all that it refers to.
func add(defs, types map[string]any, name string) {
	if _, ok := defs[name]; ok {
		return
	}
	defs[name] = strict(types[name])
	text, _ := json.Marshal(defs[name]) // was read as JSON
	const ref = `"#/$defs/`
	for _, part := range strings.Split(string(text), ref)[1:] {
		add(defs, types, part[:strings.Index(part, `"`)])
	}
}

// bare returns the schema without descriptions.
func bare(schema any) any { return walk(schema, func(map[string]any) {}) }

// strict returns the schema as JSON Schema, in which a field that the type does not have
// is an error.
func strict(schema any) any {
	return walk(schema, func(m map[string]any) {
		if ref, ok := m["$ref"].(string); ok {
			m["$ref"] = strings.Replace(ref, "#/components/schemas/", "#/$defs/", 1)
		}
		if _, ok := m["properties"].(map[string]any); ok && m["additionalProperties"] == nil {
			m["additionalProperties"] = false
		}
		if m["x-kubernetes-int-or-string"] == true {
			delete(m, "anyOf")
			m["type"] = []string{"integer", "string"}
		}
		for _, key := range slices.Collect(maps.Keys(m)) {
			if key == "default" || key == "format" || strings.HasPrefix(key, "x-kubernetes-") {
				delete(m, key)
			}
		}
	})
}

// walk returns a copy of the schema in which change was applied to each schema.
func walk(schema any, change func(map[string]any)) any {
	m, ok := schema.(map[string]any)
	if !ok {
		if list, ok := schema.([]any); ok {
			list = slices.Clone(list)
			for i := range list {
				list[i] = walk(list[i], change)
			}
			return list
		}
		return schema
	}
	m = maps.Clone(m)
	delete(m, "description")
	for key, value := range m {
		switch named, ok := value.(map[string]any); {
		case ok && slices.Contains([]string{"properties", "patternProperties", "$defs", "definitions"}, key):
			named = maps.Clone(named)
			for name, value := range named {
				named[name] = walk(value, change)
			}
			m[key] = named
		case key != "enum" && key != "default" && key != "required":
			m[key] = walk(value, change)
		}
	}
	change(m)
	return m
}
