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

// versionLine returns the version, with the commit and its date if the binary was built in
// a repository.
func versionLine() string {
	commit := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		setting := make(map[string]string)
		for _, s := range info.Settings {
			setting[s.Key] = s.Value
		}
		if revision := setting["vcs.revision"]; revision != "" {
			commit = fmt.Sprintf(", commit %.12s, %s", revision, setting["vcs.time"])
		}
	}
	return fmt.Sprintf("sessapi %s (%s, %s/%s%s)", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, commit)
}

// version returns the module version that the build recorded: a tag, a pseudo-version
// with the commit, or "(devel)" for a build outside a repository.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
