//go:build !unix

package main

import (
	"errors"
	"runtime"
)

// serviceCommands are the commands that need Unix file locks, signals and sockets.
type serviceCommands struct {
	Serve       unixCommand `cmd:"" help:"Run the service; on Unix only."`
	CheckConfig unixCommand `cmd:"" help:"Check the settings of the service; on Unix only."`
	Healthcheck unixCommand `cmd:"" help:"Ask the service of this machine whether it is ready; on Unix only."`
	Agent       unixCommand `cmd:"" help:"Keep the ticket keys of the TLS servers on this host in step with the service; on Unix only."`
}

type unixCommand struct {
	Args []string `arg:"" optional:"" passthrough:"" hidden:""`
}

// Run reports that this system does not have the command.
func (unixCommand) Run(environment) error {
	return errors.New("the service runs on Linux and other Unix systems, not on " + runtime.GOOS + "; the commands that speak to one work here")
}

func (*serviceCommands) dumpable(string) bool { return false }

// restrictFiles does nothing: new files inherit their directory's permissions here.
func restrictFiles() {}
