//go:build unix

package main

import (
	"errors"

	"github.com/sessapi/sessapi/internal/app"
	"github.com/sessapi/sessapi/internal/config"
)

type serveCommand struct {
	config.Config
}

// Validate implements kong's check of the flags.
func (c serveCommand) Validate() error { return c.Problems() }

// Run serves until the process is told to stop.
func (c serveCommand) Run(env environment) error {
	log := newLogger(env.stderr, c.LogLevel, c.LogFormat)
	if c.Dumpable {
		log.Warn("--dumpable: debuggers and core dumps can read the secrets of this process")
	}
	if !c.Dumpable && exposed() {
		log.Warn("another process of this user could have read the secrets of this process while it started",
			"advice", "run the service as a user of its own (systemd: DynamicUser=) and from a binary that is owned by root, with mode 0711")
	}
	if warning := fewOpenFiles(c.MaxConnections); warning != nil {
		log.Warn("too few open files", "error", warning.Error())
	}
	service, err := app.New(c.Config, version(), log)
	if err != nil {
		return err
	}
	service.Start(env.reload)
	select {
	case <-env.ctx.Done():
		log.Info("stopping")
	case err = <-service.Failed():
	}
	err = errors.Join(err, service.Stop())
	log.Info("stopped")
	return err
}
