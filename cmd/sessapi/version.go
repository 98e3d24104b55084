package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

type versionCommand struct{}

func (versionCommand) Run(env environment) error {
	_, err := fmt.Fprintln(env.stdout, versionLine())
	return err
}

func versionLine() string {
	return fmt.Sprintf("sessapi %s (%s, %s/%s)", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// version returns the module version that the build recorded: a tag, a pseudo-version
// with the commit, or "(devel)" for a build outside a repository.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
