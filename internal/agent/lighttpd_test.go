package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/keys"
)

// lighttpd is reloaded exactly when it has a key that is not in the set, even one from
// an earlier agent.
func TestLighttpdReloads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stek")
	set := keys.Generate(256, 6)
	defer set.Wipe()
	all := append(set.Keys, *set.Next)
	reloads := 0
	var reloadErr error
	target := Target{Kind: "lighttpd", File: path, Reload: &Reload{Command: words{"reload"}}}
	if err := target.check(); err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		set     []int // the first encrypts
		foreign int   // a key that somebody else wrote into the file before; -1 for none
		err     error
		reloads int
	}{
		{[]int{0, 1}, -1, nil, 0},
		{[]int{1, 2, 0}, -1, nil, 0},
		{[]int{2, 3, 1, 0}, -1, nil, 0},
		{[]int{2, 3, 1}, -1, nil, 1}, // 0 was revoked
		{[]int{2, 3}, -1, nil, 0},    // lighttpd no longer has 1
		{[]int{3, 4}, -1, errObstacle, 1},
		{[]int{3, 4}, -1, nil, 1}, // until it succeeds
		{[]int{3, 4}, -1, nil, 0},
		{[]int{3, 4}, 5, nil, 1},
	} {
		// A new holder each time: its memory is in files.
		h := lighttpd.holder(&target, &fileHolder{
			paths: target.paths(), attributes: target.attributes, reload: target.Reload,
			run: func(context.Context, []string) error { reloads++; return reloadErr },
		}, nil, nil)
		reloads, reloadErr = 0, step.err
		if step.foreign >= 0 {
			if err := os.WriteFile(path, keys.Lighttpd.Append(nil, keys.Set{Keys: all[step.foreign : step.foreign+1]}), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var next keys.Set
		for _, k := range step.set {
			next.Keys = append(next.Keys, all[k])
		}
		w := target.wants(1, next)
		holds, err := h.Holds(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		if !holds {
			if err := h.Apply(t.Context(), w); (err != nil) != (step.err != nil) {
				t.Errorf("step %d: %v", i, err)
			}
			if holds, err = h.Holds(t.Context(), w); holds != (step.err == nil) || err != nil {
				t.Errorf("step %d: holds %v (%v)", i, holds, err)
			}
		}
		if reloads != step.reloads {
			t.Errorf("step %d: %d reloads, want %d", i, reloads, step.reloads)
		}
		if !files.Is(path, w.files[0], target.attributes) {
			t.Errorf("step %d: the file is another", i)
		}
	}
}

// dnsdist keeps the last keys that it read, so its file has exactly that many.
func TestDNSDistKeys(t *testing.T) {
	set := keys.Generate(256, 4)
	defer set.Wipe()
	for _, n := range []int{1, 3, 4, 5, 9} {
		content := dnsdistKeys(set, n)
		if len(content) != n*dnsdistRecord {
			t.Fatalf("%d bytes for %d keys", len(content), n)
		}
		if last := keys.Name(content[len(content)-dnsdistRecord:][:keys.NameSize]); last != set.Keys[0].Name() {
			t.Errorf("of %d keys the last one does not encrypt", n)
		}
		for i := range n {
			want := keys.DNSDist.Append(nil, set)
			from := max(0, len(want)-(n-i)*dnsdistRecord)
			if string(content[i*dnsdistRecord:(i+1)*dnsdistRecord]) != string(want[from:from+dnsdistRecord]) {
				t.Errorf("key %d of %d is another", i, n)
			}
		}
	}
}
