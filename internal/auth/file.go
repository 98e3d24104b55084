package auth

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/sessapi/sessapi/internal/files"
)

// File is a policy that is kept as a file is. While the file is missing or
// broken, the policy from before holds. All methods are safe for concurrent use.
type File struct {
	path   string // absolute
	log    *slog.Logger
	record func(identities int) error // nil without one
	policy atomic.Pointer[Policy]

	checking sync.Mutex        // held while the file is read; guards what follows
	seen     [sha256.Size]byte // hash of the policy that holds
	reported string            // the failure that goes on and has been logged; empty without one

	failures atomic.Uint64
	failing  atomic.Bool
}

// OpenFile reads the policy of the file. A relative path is one of the working
// directory as it is now. [File.Watch] and [File.Reload] follow the file from
// then on.
//
// record, if it is not nil, is called with the number of its identities before a
// policy holds. When it fails, the policy is not taken.
func OpenFile(path string, log *slog.Logger, record func(identities int) error) (*File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, log: log, record: record}
	if err := f.take(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Policy is the policy that holds.
func (f *File) Policy() *Policy { return f.policy.Load() }

// Failures is how often the file was found, or with Reload found again, to be
// no policy.
func (f *File) Failures() uint64 { return f.failures.Load() }

// Failing reports whether the file cannot be taken now, so that an earlier
// policy holds.
func (f *File) Failing() bool { return f.failing.Load() }

// Reload reads the file now. What comes of it is logged.
func (f *File) Reload() {
	f.checking.Lock()
	defer f.checking.Unlock()
	f.reported = "" // who asks again is told again
	before := f.seen
	if f.check(); f.seen == before && f.reported == "" {
		f.log.Info("policy unchanged", slog.String("path", f.path))
	}
}

// Watch takes the policy of the file whenever its content changes, until ctx
// ends. What comes of it is logged.
func (f *File) Watch(ctx context.Context) {
	files.Watch(ctx, f.log, "policy", f.checkNow, f.path)
}

// checkNow checks the file. It returns false when its policy cannot be taken now.
func (f *File) checkNow() (taken bool) {
	f.checking.Lock()
	defer f.checking.Unlock()
	f.check()
	return !f.Failing()
}

// check takes the policy of the file and says why when it cannot. A failure that
// goes on is counted and logged once.
func (f *File) check() {
	err := f.take()
	f.failing.Store(err != nil)
	if err == nil {
		f.reported = ""
		return
	}
	if err.Error() == f.reported {
		return
	}
	f.reported = err.Error()
	f.failures.Add(1)
	f.log.Error("the policy cannot be taken; the one from before holds",
		slog.String("path", f.path), slog.String("error", f.reported))
}

// take makes the content of the file the policy that holds, unless it does.
func (f *File) take() error {
	data, mode, err := files.Read(f.path, MaxPolicyBytes)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	if f.policy.Load() != nil && sum == f.seen {
		return nil
	}
	policy, err := Parse(data)
	if err != nil {
		return err
	}
	if f.record != nil {
		if err := f.record(policy.Identities()); err != nil {
			return fmt.Errorf("cannot be recorded: %w", err)
		}
	}
	f.policy.Store(policy)
	f.seen = sum
	f.log.Info("policy taken", slog.String("path", f.path), slog.Int("identities", policy.Identities()))
	if mode.Perm()&0o022 != 0 {
		f.log.Warn("the policy can be written by others than its owner, who can give themselves every role; chmod go-w",
			slog.String("path", f.path), slog.String("mode", mode.Perm().String()))
	}
	return nil
}
