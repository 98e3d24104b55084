package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/files"
)

// fileHolder is a server that reads its keys from files, by itself or at a reload.
//
// An empty file beside the keys marks a pending reload. It exists from before the keys
// change until the reload has succeeded. So no reload is forgotten when the agent is
// killed, and none happens without need.
type fileHolder struct {
	paths      []string
	attributes files.Attributes
	test       []string
	reload     *Reload // nil for none
	run        runner
	spacing    time.Duration // least time between two reloads
	reloaded   time.Time
	// rewrite makes the next Apply write all files, even unchanged ones: Traffic Server
	// ignores a file whose modification time it knows.
	rewrite bool
}

// Holds reports whether the files have the wanted content, and no reload is due.
func (h *fileHolder) Holds(_ context.Context, w *wanted) (bool, error) {
	for i, path := range h.paths {
		if !files.Is(path, w.files[i], h.attributes) {
			return false, nil
		}
	}
	if h.reload == nil {
		return true, nil
	}
	_, err := os.Lstat(h.duePath())
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// Apply writes the files that differ, and reloads the server.
func (h *fileHolder) Apply(ctx context.Context, w *wanted) error {
	if err := h.write(w); err != nil || h.reload == nil {
		return err
	}
	if err := h.reloadServer(ctx, h.reload); err != nil {
		return err
	}
	return files.OS{}.Remove(h.duePath())
}

// reloadServer reloads the server if the test passes. Two reloads are at least spacing
// apart.
func (h *fileHolder) reloadServer(ctx context.Context, reload *Reload) error {
	if !sleep(ctx, h.spacing-time.Since(h.reloaded)) {
		return ctx.Err()
	}
	if len(h.test) > 0 {
		if err := h.run(ctx, h.test); err != nil {
			return fmt.Errorf("test failed; the server keeps the keys it has: %w", err)
		}
	}
	h.reloaded = time.Now()
	if err := reload.do(ctx, h.run); err != nil {
		return fmt.Errorf("reload failed: %w", err)
	}
	return nil
}

// prepare writes the files if there are none. The server cannot be running then, so it
// needs no reload. prepare reports whether there were none.
func (h *fileHolder) prepare(w *wanted) (bool, error) {
	for _, path := range h.paths {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
	}
	if err := h.write(w); err != nil {
		return true, err
	}
	return true, files.OS{}.Remove(h.duePath())
}

// write writes the files that differ, the encrypting key last: a server that reads them
// meanwhile encrypts with the key that it had before.
func (h *fileHolder) write(w *wanted) error {
	noted := h.reload == nil
	for i, path := range slices.Backward(h.paths) {
		if !h.rewrite && files.Is(path, w.files[i], h.attributes) {
			continue
		}
		if !noted {
			if err := files.Replace(h.duePath(), nil); err != nil {
				return err
			}
			noted = true
		}
		if err := files.ReplaceAs(path, w.files[i], h.attributes); err != nil {
			return err
		}
	}
	h.rewrite = false
	return nil
}

// duePath returns the path of the file that marks a pending reload.
func (h *fileHolder) duePath() string {
	return filepath.Join(filepath.Dir(h.paths[0]), "."+filepath.Base(h.paths[0])+".reload-due")
}

// clean removes the temporary files of a process that was killed while it wrote.
func (h *fileHolder) clean() error {
	var errs []error
	for _, path := range append(slices.Clone(h.paths), h.duePath()) {
		if err := files.RemoveTemporary(path); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// do reloads the server.
func (r *Reload) do(ctx context.Context, run runner) error {
	if len(r.Command) > 0 {
		return run(ctx, r.Command)
	}
	data, _, err := files.Read(r.PIDFile, 32)
	if err != nil {
		return fmt.Errorf("%s: %w; does the server run?", r.PIDFile, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("%s holds no process ID", r.PIDFile)
	}
	if err := sendSignal(pid, r.signal); err != nil {
		return fmt.Errorf("signal process %d of %s: %w", pid, r.PIDFile, err)
	}
	return nil
}
