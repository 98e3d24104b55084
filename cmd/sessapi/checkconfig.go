package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/keys"
)

type checkConfigCommand struct {
	config.Config
}

// Run has only the ticket-key file left to check: the settings themselves were
// checked when they were read.
func (c checkConfigCommand) Run(env environment) error {
	if c.TicketKeyFile != "" {
		if _, err := keys.OpenFile(c.TicketKeyFile, keys.NewRing(time.Now), slog.New(slog.DiscardHandler)); err != nil {
			return fmt.Errorf("--ticket-key-file: %w", err)
		}
	}
	_, err := fmt.Fprintln(env.stdout, "The settings are good.")
	return err
}
