//go:build unix

package main

import (
	"errors"
	"fmt"

	"github.com/sessapi/sessapi/internal/app"
)

type agentCommand struct {
	Config    string `required:"" env:"-" placeholder:"FILE" help:"YAML file that says where the service is and which servers there are. SIGHUP reloads it."`
	Check     bool   `env:"-" help:"Check the file and exit."`
	Once      bool   `env:"-" help:"Bring the servers up to date once and exit. For a unit that runs before them."`
	LogLevel  string `default:"info" enum:"debug,info,warn,error" help:"Least severe level to log: ${enum}."`
	LogFormat string `default:"auto" enum:"auto,text,json" help:"Log format: ${enum}. auto is text on a terminal, else json."`
}

// Validate implements kong's check of the flags.
func (c agentCommand) Validate() error {
	if c.Check && c.Once {
		return errors.New("--check and --once do not go together")
	}
	return nil
}

// Run keeps the servers in sync until the process is told to stop.
func (c agentCommand) Run(env environment) error {
	log := newLogger(env.stderr, c.LogLevel, c.LogFormat)
	switch {
	case c.Check:
		if err := app.CheckAgent(c.Config); err != nil {
			return err
		}
		_, err := fmt.Fprintf(env.stdout, "%s is valid\n", c.Config)
		return err
	case c.Once:
		return app.RunAgentOnce(env.ctx, c.Config, log)
	}
	return app.RunAgent(env.ctx, c.Config, version(), env.reload, log)
}
