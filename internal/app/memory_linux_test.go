package app

import (
	"os"
	"path/filepath"
	"testing"
)

// The limit is the minimum of the machine's memory and the limits of all control groups
// around the process.
func TestMemoryLimit(t *testing.T) {
	const meminfo = "MemTotal:        2048 kB\nMemFree:         1 kB\n"
	for name, test := range map[string]struct {
		files map[string]string
		want  uint64
		of    string
	}{
		"nothing known":   {nil, 0, ""},
		"the machine":     {map[string]string{"proc/meminfo": meminfo}, 2 << 20, "the machine"},
		"no limit":        {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 2 << 20, "the machine"},
		"version 2":       {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "1000\n"}, 1000, "the control group"},
		"a group around":  {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "900\n", "sys/fs/cgroup/a/b/memory.max": "1000\n"}, 900, "the control group"},
		"in a container":  {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "800\n"}, 800, "the control group"},
		"version 1":       {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "5:cpu:/x\n4:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "700\n"}, 700, "the control group"},
		"version 1, none": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 2 << 20, "the machine"},
	} {
		root := t.TempDir()
		for path, content := range test.files {
			path = filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, of := memoryLimit(root); got != test.want || of != test.of {
			t.Errorf("%s: %d of %q", name, got, of)
		}
	}
}
