package main

import (
	"fmt"
	"log/slog"

	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/seal"
)

type checkConfigCommand struct {
	config.Config
}

// Run checks what a setting by itself does not show.
func (c checkConfigCommand) Run(env environment) error {
	ring, err := newRing(c.Config, nil)
	if err != nil {
		return err
	}
	if c.TicketKeyFile != "" {
		if _, err := keys.OpenFile(c.TicketKeyFile, ring, slog.New(slog.DiscardHandler), nil); err != nil {
			return fmt.Errorf("--ticket-key-file: %w", err)
		}
	}
	if c.SealKeyFile != "" {
		if _, _, err := seal.ReadKeys(c.SealKeyFile); err != nil {
			return fmt.Errorf("--seal-key-file: %w", err)
		}
	}
	if c.TLSCert != "" {
		if _, err := newTransport(c.Config, slog.New(slog.DiscardHandler), nil); err != nil {
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
