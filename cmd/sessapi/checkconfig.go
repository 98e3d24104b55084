//go:build unix

package main

import (
	"errors"
	"fmt"

	"github.com/sessapi/sessapi/internal/app"
	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/printable"
)

type checkConfigCommand struct {
	config.Config
}

// Run lists all problems of the settings and of the files that they name.
func (c checkConfigCommand) Run(env environment) error {
	failures, warnings := app.Check(env.ctx, c.Config)
	if warning := fewOpenFiles(c.MaxConnections); warning != nil {
		warnings = append(warnings, warning)
	}
	for _, warning := range warnings {
		fmt.Fprintf(env.stderr, "sessapi: warning: %s\n", printable.Text(warning.Error()))
	}
	if err := errors.Join(append([]error{c.Problems()}, failures...)...); err != nil {
		return err
	}
	_, err := fmt.Fprintln(env.stdout, "The settings are good.")
	return err
}
