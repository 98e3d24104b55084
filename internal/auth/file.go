package auth

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"

	"github.com/sessapi/sessapi/internal/files"
)

// File is a policy that follows a file. While the file is missing or broken, the previous
// policy stays active. All methods are safe for concurrent use.
type File struct {
	*files.Followed
	path   string // absolute
	log    *slog.Logger
	record func(identities int) error // nil without one

	taken  [sha256.Size]byte // hash of the active policy; for take alone
	policy atomic.Pointer[Policy]
}

// OpenFile reads the policy in the file. A relative path is resolved against the
// current working directory now. [files.Followed] then follows the file.
//
// If record is not nil, it is called with the number of identities before a policy
// becomes active. If it fails, the previous policy stays active.
func OpenFile(path string, log *slog.Logger, record func(identities int) error) (*File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, log: log, record: record}
	if f.Followed, err = files.Follow(log.With(slog.String("path", path)), "policy", f.take); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Policy returns the active policy.
func (f *File) Policy() *Policy { return f.policy.Load() }

// take makes the policy in the file active if its content has changed.
func (f *File) take() (changed bool, err error) {
	data, mode, err := files.Read(f.path, MaxPolicyBytes)
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256(data)
	if sum == f.taken {
		return false, nil
	}
	policy, err := Parse(data)
	if err != nil {
		return false, err
	}
	if f.record != nil {
		if err := f.record(policy.Identities()); err != nil {
			return false, fmt.Errorf("cannot be recorded: %w", err)
		}
	}
	f.policy.Store(policy)
	f.taken = sum
	f.log.Info("policy loaded", slog.String("path", f.path), slog.Int("identities", policy.Identities()))
	files.WarnLoose(f.log, "policy", f.path, mode, files.Trusted)
	return true, nil
}
