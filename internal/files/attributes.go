package files

import (
	"crypto/subtle"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
)

// Attributes are the permissions and the owner of a file. A UID or GID of -1 is that of
// the process.
type Attributes struct {
	Mode     fs.FileMode
	UID, GID int
}

// ParseMode reads the permissions of a file with secrets.
func ParseMode(text string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(text, 8, 9)
	if err != nil || n&0o400 == 0 || n&^0o640 != 0 {
		return 0, fmt.Errorf("%q must be octal, from 0400 to 0640: readable by the owner, at most readable by the group, and closed to others", text)
	}
	return fs.FileMode(n), nil
}

// ParseOwner looks up USER, USER:GROUP or :GROUP, by name or number; -1 is that of the
// process.
func ParseOwner(text string) (uid, gid int, err error) {
	uid, gid = -1, -1
	name, group, _ := strings.Cut(text, ":")
	if name != "" {
		if uid, err = lookUp(name, func() (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		}); err != nil {
			return 0, 0, err
		}
	}
	if group != "" {
		if gid, err = lookUp(group, func() (string, error) {
			g, err := user.LookupGroup(group)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		}); err != nil {
			return 0, 0, err
		}
	}
	return uid, gid, nil
}

// lookUp returns the number that text is or, if it is none, that its name has.
func lookUp(text string, number func() (string, error)) (int, error) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return int(n), nil
	}
	found, err := number()
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(found)
}

// Is reports whether a regular file at path can be read and has this content and these
// attributes. A UID or GID of -1 is any.
func Is(path string, data []byte, a Attributes) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || !has(info, a) {
		return false
	}
	content, _, err := Read(path, len(data))
	defer clear(content)
	return err == nil && subtle.ConstantTimeCompare(content, data) == 1
}
