package main

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
	"github.com/sessapi/sessapi/internal/seal"
	"github.com/sessapi/sessapi/internal/state"
)

type checkConfigCommand struct {
	config.Config
}

// Run checks what a setting by itself does not show.
func (c checkConfigCommand) Run(env environment) error {
	ring, err := newRing(c.Config, time.Now, nil)
	if err != nil {
		return err
	}
	if c.TicketKeyFile != "" {
		if _, err := keys.OpenFile(c.TicketKeyFile, ring, slog.New(slog.DiscardHandler), nil); err != nil {
			return fmt.Errorf("--ticket-key-file: %w", err)
		}
	}
	var sealKeys *seal.Keys
	if c.SealKeyFile != "" {
		if sealKeys, err = readSealKeys(c.Config, slog.New(slog.DiscardHandler)); err != nil {
			return err
		}
	}
	if c.Redis != "" {
		node, err := newNode(c.Config, sealKeys, slog.New(slog.DiscardHandler))
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
		if _, err := openTLS(c.Config, slog.New(slog.DiscardHandler), nil); err != nil {
			return err
		}
	}
	if c.Policy != "" {
		if _, err := auth.OpenFile(c.Policy, slog.New(slog.DiscardHandler), nil); err != nil {
			return fmt.Errorf("--policy: %w", err)
		}
	}
	_, err = fmt.Fprintln(env.stdout, "The settings are good.")
	return err
}

// writable returns why this process may not write the file, or add files to the
// directory, without doing so.
func writable(path string) error {
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("%s cannot be written: %w", path, err)
	}
	return nil
}
