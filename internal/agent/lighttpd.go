package agent

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/keys"
)

// lighttpd has one file with one key. It rereads the file every 64 seconds and on a
// reload. Until a reload it keeps decrypting with up to three earlier keys of the file.
var lighttpd = kind{
	format: keys.Lighttpd,
	single: true,
	settle: 80 * time.Second,
	holder: func(t *Target, h *fileHolder, _ asker, _ func()) holder {
		if t.Reload == nil {
			return h
		}
		return &lighttpdHolder{h}
	},
}

const (
	// lighttpdName is the offset of the key's name in the file.
	lighttpdName = 12
	// lighttpdKeys is the maximum number of keys in lighttpd.
	lighttpdKeys = 4
)

// lighttpdHolder reloads lighttpd only when it may have a key that is not in the set, such
// as a revoked one: a reload ends the tickets of all earlier keys. A file beside the keys
// lists the names of those that lighttpd may have read since the last reload.
type lighttpdHolder struct{ *fileHolder }

// Holds reports whether the file has the wanted key, and lighttpd no key that is not in
// the set.
func (h *lighttpdHolder) Holds(ctx context.Context, w *wanted) (bool, error) {
	holds, err := h.fileHolder.Holds(ctx, w)
	if err != nil || !holds {
		return false, err
	}
	given, err := h.given()
	return err == nil && subset(given, w.names), err
}

// Apply writes the file, and reloads lighttpd when that is needed.
func (h *lighttpdHolder) Apply(ctx context.Context, w *wanted) error {
	given, err := h.given()
	if err != nil {
		return err
	}
	current := w.current.String()
	if !slices.Contains(given, current) {
		given = append(given, current)
	}
	if err := h.give(given[max(0, len(given)-lighttpdKeys):]); err != nil {
		return err
	}
	if subset(given, w.names) {
		quiet := *h.fileHolder
		quiet.reload = nil
		if err := quiet.Apply(ctx, w); err != nil {
			return err
		}
		return files.OS{}.Remove(h.duePath())
	}
	if err := h.fileHolder.Apply(ctx, w); err != nil {
		return err
	}
	return h.give([]string{current})
}

// given returns the names of the keys that lighttpd may have.
func (h *lighttpdHolder) given() ([]string, error) {
	text, _, err := files.ReadText(h.givenPath(), lighttpdKeys*(2*keys.NameSize+1))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	given := strings.Fields(string(text))
	content, _, err := files.Read(h.paths[0], 1<<10)
	defer clear(content)
	if err == nil && len(content) >= lighttpdName+keys.NameSize {
		if name := keys.Name(content[lighttpdName : lighttpdName+keys.NameSize]).String(); !slices.Contains(given, name) {
			given = append(given, name)
		}
	}
	return given, nil
}

func (h *lighttpdHolder) give(names []string) error {
	text := []byte(strings.Join(names, "\n") + "\n")
	if has, _, err := files.Read(h.givenPath(), len(text)); err == nil && bytes.Equal(has, text) {
		return nil
	}
	return files.Replace(h.givenPath(), text)
}

func (h *lighttpdHolder) givenPath() string {
	return filepath.Join(filepath.Dir(h.paths[0]), "."+filepath.Base(h.paths[0])+".given")
}

// subset reports whether all names are in the set.
func subset(names []string, set map[string]bool) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !set[name] })
}
