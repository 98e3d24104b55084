package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An address that an agent cannot listen on is an error of its configuration.
func TestCheckAgentListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	for listen, want := range map[string]string{
		"127.0.0.1:8441":  "",
		"unix:/run/s":     "",
		"80":              `listen: "80" must be HOST:PORT or unix:PATH`,
		"127.0.0.1:99999": "must be HOST:PORT",
		"unix:":           "needs a path",
	} {
		text := "service: {addresses: [unix:/s]}\nlisten: \"" + listen + "\"\ntargets: [{kind: h2o, file: keys.yaml}]\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := CheckAgent(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", listen, err)
		}
	}
}
