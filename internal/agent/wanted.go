package agent

import (
	"errors"

	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/kubernetes"
)

// wanted is the keys that a target must hold. It belongs to the target, which wipes it.
type wanted struct {
	generation uint64
	current    keys.Name          // the key that encrypts
	names      map[string]bool    // of all keys of the set
	files      [][]byte           // the contents, in the order of the paths
	entries    []kubernetes.Entry // of an object of Kubernetes, in place of files
	err        error              // why the target cannot hold the keys; then there are no files
}

// wants renders the set as the target reads it.
func (t *Target) wants(generation uint64, set keys.Set) *wanted {
	w := &wanted{generation: generation, current: set.Keys[0].Name(), names: map[string]bool{}}
	for _, k := range set.Keys {
		w.names[k.Name().String()] = true
	}
	if set.Next != nil {
		w.names[set.Next.Name().String()] = true
	}
	if t.layout != nil {
		w.entries = t.layout.entries(set)
		return w
	}
	if t.oneFile() {
		w.files = [][]byte{t.content(set)}
		return w
	}
	for i := range t.paths() {
		content, err := t.format.AppendKey(nil, set, t.FirstKey+i)
		if errors.Is(err, keys.ErrNoSuchKey) && i > 0 {
			// A server does not start without the file, and an old one may hold a key
			// that was revoked.
			content, err = t.format.AppendKey(nil, set, t.FirstKey)
		}
		if err != nil {
			w.wipe()
			w.err = err
			return w
		}
		w.files = append(w.files, content)
	}
	return w
}

// content renders the file that holds all keys.
func (t *Target) content(set keys.Set) []byte {
	if t.kind.render != nil {
		return t.kind.render(set, t.Keys)
	}
	return t.format.Append(nil, set)
}

func (w *wanted) wipe() {
	if w == nil {
		return
	}
	for _, content := range w.files {
		clear(content)
	}
	for _, e := range w.entries {
		clear(e.Content)
	}
}
