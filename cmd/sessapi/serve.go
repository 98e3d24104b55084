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

// Run serves until the process is to stop.
func (c serveCommand) Run(env environment) error {
	log := newLogger(env.stderr, c.LogLevel, c.LogFormat)
	if c.Dumpable {
		log.Warn("debuggers and core dumps can read the secrets of this process: --dumpable")
	}
	if !c.Dumpable && exposed() {
		log.Warn("other processes of this user could have read the secrets of this one while it started",
			"advice", "run it as a user of its own, as DynamicUser= of systemd does, from a binary of root with mode 0711")
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
