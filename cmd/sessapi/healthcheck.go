//go:build unix

package main

import (
	"fmt"

	"github.com/sessapi/sessapi/internal/app"
	"github.com/sessapi/sessapi/internal/config"
)

type healthcheckCommand struct {
	config.Config
}

// Validate implements kong's check of the flags.
func (c healthcheckCommand) Validate() error { return c.Problems() }

// Run queries the service with the same settings.
func (c healthcheckCommand) Run(env environment) error {
	if err := app.Healthcheck(env.ctx, c.Config); err != nil {
		return err
	}
	_, err := fmt.Fprintln(env.stdout, "ready")
	return err
}
