package main

import (
	"errors"
	"io"
	"log/slog"
	"os"

	"golang.org/x/term"

	"github.com/sessapi/sessapi/internal/app"
	"github.com/sessapi/sessapi/internal/config"
)

type serveCommand struct {
	config.Config
}

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
	warnOfOpenFiles(log, c.MaxConnections)
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

// newLogger logs to w. auto is text for a terminal and JSON for everything
// else.
func newLogger(w io.Writer, level, format string) *slog.Logger {
	var options slog.HandlerOptions
	var threshold slog.Level
	if err := threshold.UnmarshalText([]byte(level)); err != nil {
		panic(err) // the settings allow only levels
	}
	options.Level = threshold
	options.ReplaceAttr = logAttr
	file, isFile := w.(*os.File)
	if format == "text" || format == "auto" && isFile && term.IsTerminal(int(file.Fd())) {
		return slog.New(slog.NewTextHandler(w, &options))
	}
	return slog.New(slog.NewJSONHandler(w, &options))
}
