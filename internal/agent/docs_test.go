package agent

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every target in the documents is valid.
func TestDocumentedTargets(t *testing.T) {
	inPod(t)
	pages, err := filepath.Glob("../../docs/servers/*.md")
	if err != nil {
		t.Fatal(err)
	}
	target := regexp.MustCompile(`(?m)^- (\{kind: ([\w-]+).*\})$`)
	owner := regexp.MustCompile(`owner: "?[\w:]+"?, `) // of a package that is not installed here
	shown := map[string]bool{}
	for _, page := range append(pages, "../../docs/agent.md", "../../docs/kubernetes.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range target.FindAllStringSubmatch(string(text), -1) {
			config := "service: {addresses: [unix:/s]}\nname: host\ntargets:\n  - " + owner.ReplaceAllString(match[1], "") + "\n"
			_, err := parseConfig([]byte(config), "/")
			shown[filepath.Base(page)+" "+match[2]] = true
			if err != nil && !strings.Contains(err.Error(), "built without "+match[2]) {
				t.Errorf("%s: %s: %v", page, match[1], err)
			}
		}
		if strings.Contains(string(text), "Its target:") && !strings.Contains(string(text), "- {kind: ") {
			t.Errorf("%s shows no target", page)
		}
	}
	for name := range kinds {
		if !shown["agent.md "+name] {
			t.Errorf("agent.md shows no target of kind %s", name)
		}
	}
}
