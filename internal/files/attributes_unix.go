//go:build unix

package files

import (
	"io/fs"
	"syscall"
)

// has reports whether a file has the mode, the owner and the group.
func has(info fs.FileInfo, a Attributes) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode() == a.Mode && (a.UID < 0 || stat.Uid == uint32(a.UID)) && (a.GID < 0 || stat.Gid == uint32(a.GID))
}
