package app

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memoryLimit returns how much memory the process may use, in bytes, and what sets the
// limit; 0 if unknown. root contains the kernel's file systems.
func memoryLimit(root string) (most uint64, of string) {
	lower := func(path, name string) {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64) // "max" is no limit
		if err == nil && n > 0 && (most == 0 || n < most) {
			most, of = n, name
		}
	}
	if file, err := os.Open(filepath.Join(root, "proc/meminfo")); err == nil {
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == "MemTotal:" {
				if kib, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
					most, of = kib<<10, "the machine"
				}
			}
		}
	}
	const name = "the control group"
	groups, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return most, of
	}
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		base, limit := "sys/fs/cgroup", "memory.max" // version 2
		switch fields[1] {
		case "":
		case "memory":
			base, limit = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for dir := filepath.Clean("/" + fields[2]); ; dir = filepath.Dir(dir) { // limits of parents apply, too
			lower(filepath.Join(base, dir, limit), name)
			if dir == "/" {
				break
			}
		}
	}
	return most, of
}
