package app

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/state"
)

// Check returns why a service would not start with the settings, as far as that can
// be told without locking, changing or connecting to anything.
func Check(c config.Config) error {
	discard := slog.New(slog.DiscardHandler)
	life, err := lifecycle(c)
	if err != nil {
		return err
	}
	if c.TicketKeyFile != "" {
		if _, err := keys.OpenFile(c.TicketKeyFile, keys.NewRing(time.Now, life), discard, nil); err != nil {
			return fmt.Errorf("--ticket-key-file: %w", err)
		}
	}
	sealKeys, err := readSealKeys(c, discard)
	if err != nil {
		return err
	}
	if c.Redis != "" {
		node, err := newNode(c, sealKeys, discard)
		if err != nil {
			return err
		}
		node.Close()
	}
	if c.StateFile != "" {
		err = errors.Join(writable(filepath.Dir(c.StateFile)), state.Check(c.StateFile, sealKeys))
		if c.Cache {
			err = errors.Join(err, state.CheckSessions(c.StateFile, sealKeys))
		}
		if err != nil {
			return fmt.Errorf("--state-file: %w", err)
		}
	}
	if c.AuditLog != "" && c.AuditLog != audit.Stderr {
		err := writable(c.AuditLog)
		if errors.Is(err, fs.ErrNotExist) {
			err = writable(filepath.Dir(c.AuditLog))
		} else if info, statErr := os.Stat(c.AuditLog); statErr == nil && info.IsDir() {
			err = fmt.Errorf("%s is a directory", c.AuditLog)
		}
		if err != nil {
			return fmt.Errorf("--audit-log: %w", err)
		}
	}
	if c.TLSCert != "" {
		if _, err := loadTLS(c, discard, nil); err != nil {
			return err
		}
	}
	if c.Policy != "" {
		if _, err := auth.OpenFile(c.Policy, discard, nil); err != nil {
			return fmt.Errorf("--policy: %w", err)
		}
	}
	return nil
}

// writable returns why this process may not write the file, or add files to the
// directory, without doing so.
func writable(path string) error {
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("%s cannot be written: %w", path, err)
	}
	return nil
}
