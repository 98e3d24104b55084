package deploy_test

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The changelog has the form of Keep a Changelog. Its newest version is that of the
// contract and of the images, and has release notes.
func TestRelease(t *testing.T) {
	var versions, texts []string
	title := regexp.MustCompile(`^\[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$`)
	changelog := string(read(t, "../../CHANGELOG.md"))
	for i, section := range strings.Split(changelog, "\n## ")[1:] {
		heading, text, _ := strings.Cut(section, "\n")
		version := title.FindStringSubmatch(heading)
		switch {
		case i == 0:
			if heading != "[Unreleased]" {
				t.Errorf("the first section is %q", heading)
			}
			version = []string{"", "Unreleased"}
		case version == nil:
			t.Fatalf("the title %q is no version with its date", heading)
		default:
			versions, texts = append(versions, version[1]), append(texts, text)
		}
		if !strings.Contains(changelog, "\n["+version[1]+"]: https://") {
			t.Errorf("%s has no link", version[1])
		}
		for line := range strings.Lines(text) {
			kind, ok := strings.CutPrefix(strings.TrimSpace(line), "### ")
			if ok && !slices.Contains([]string{"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}, kind) {
				t.Errorf("%s has changes of the kind %q", version[1], kind)
			}
		}
	}
	if len(versions) == 0 {
		t.Fatal("the changelog has no version")
	}
	notes, err := exec.Command("../../tools/release-notes.sh", versions[0]).Output()
	if want, _, _ := strings.Cut(texts[0], "\n["); err != nil || strings.TrimSpace(string(notes)) != strings.TrimSpace(want) {
		t.Errorf("release-notes.sh %s: %v\n%s", versions[0], err, notes)
	}
	if exec.Command("../../tools/release-notes.sh", versions[0]+"0").Run() == nil {
		t.Errorf("release-notes.sh has notes of %s0", versions[0])
	}
	if got := at(decode(t, read(t, "../../openapi.yaml"))[0], "info", "version"); got != versions[0] {
		t.Errorf("openapi.yaml has version %v, the changelog %s", got, versions[0])
	}
	for _, folder := range []string{"sessapi", "nginx"} {
		for _, image := range list(at(decode(t, read(t, deploy+"kustomize/"+folder+"/kustomization.yaml"))[0], "images")) {
			if got := at(image, "newTag"); got != versions[0] {
				t.Errorf("the image of kustomize/%s is %v, the changelog has %s", folder, got, versions[0])
			}
		}
	}
	if image := "image: ghcr.io/sessapi/sessapi:" + versions[0] + "\n"; !strings.Contains(string(read(t, deploy+"kubernetes/agent.yaml")), image) {
		t.Errorf("kubernetes/agent.yaml has no %s", image)
	}
}
