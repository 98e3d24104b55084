//go:build unix

package main

import "syscall"

// serviceCommands run the service on this machine.
type serviceCommands struct {
	Serve       serveCommand       `cmd:"" help:"Run the service."`
	CheckConfig checkConfigCommand `cmd:"" help:"Check the settings and the files that they name, without serving. Show all errors and warnings."`
	Healthcheck healthcheckCommand `cmd:"" help:"Ask the service that runs with these settings whether it is ready."`
	Agent       agentCommand       `cmd:"" help:"Keep the ticket keys of the TLS servers on this host in step with the service."`
}

// dumpable reports whether the command permits debuggers and core dumps.
func (c *serviceCommands) dumpable(command string) bool {
	return command == "serve" && c.Serve.Dumpable
}

// restrictFiles makes new files accessible only to their owner.
func restrictFiles() { syscall.Umask(0o077) }
