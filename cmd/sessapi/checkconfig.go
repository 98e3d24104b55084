package main

import (
	"fmt"

	"github.com/sessapi/sessapi/internal/app"
	"github.com/sessapi/sessapi/internal/config"
)

type checkConfigCommand struct {
	config.Config
}

// Run checks what a setting by itself does not show.
func (c checkConfigCommand) Run(env environment) error {
	if err := app.Check(c.Config); err != nil {
		return err
	}
	warnOfOpenFiles(newLogger(env.stderr, c.LogLevel, c.LogFormat), c.MaxConnections)
	_, err := fmt.Fprintln(env.stdout, "The settings are good.")
	return err
}
