package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/logtest"
)

// A change that is not the agent's is in the log, and the agent's own are not taken for one.
func TestTargetTellsOfChangesByOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	config := &Target{Kind: "h2o", File: path}
	if err := config.check(); err != nil {
		t.Fatal(err)
	}
	var log logtest.Buffer
	target := newTarget(config, reach{run: runFor, ask: askSocket}, slog.New(slog.NewTextHandler(&log, nil)), func() {})
	for i, change := range []func() error{
		nil, // the first keys
		nil, // a rotation
		func() error { return os.WriteFile(path, []byte("foreign"), 0o600) },
		func() error { return os.Remove(path) },
		func() error { return os.Chmod(path, 0o640) },
	} {
		set := keys.Generate(256, 3)
		w := target.wants(uint64(i+1), set)
		set.Wipe()
		tell := func() int {
			before := strings.Count(log.String(), "something else changed")
			target.step(t.Context(), w)
			if status := target.Status(); status.State != Current || status.Generation != w.generation {
				t.Errorf("%d: %+v", i, status)
			}
			return strings.Count(log.String(), "something else changed") - before
		}
		if n := tell(); n != 0 {
			t.Errorf("%d: new keys: told %d times", i, n)
		}
		want := 0
		if change != nil {
			want = 1
			if err := change(); err != nil {
				t.Fatal(err)
			}
		}
		for ; want >= 0; want-- {
			if n := tell(); n != want {
				t.Errorf("%d: told %d times, want %d", i, n, want)
			}
		}
		w.wipe()
	}
}
