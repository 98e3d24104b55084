// Command sessapi keeps TLS sessions and session ticket keys for a fleet of
// TLS servers. `sessapi --help` lists what it can do.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/printable"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	restrictFiles()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	// The first signal stops the service in good order, a second one at once.
	context.AfterFunc(ctx, stop)
	code := run(os.Args[1:], environment{ctx: ctx, reload: reload, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr})
	os.Exit(code)
}

// environment is what a command gets from the process it runs in.
type environment struct {
	ctx            context.Context // ends when the process is to stop
	reload         <-chan os.Signal
	stdin          io.Reader
	stdout, stderr io.Writer
}

// input is standard input. A read of it ends when the process is to stop: a signal alone
// does not end one that waits for somebody to type.
type input struct{ environment }

func (in input) Read(p []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	buf, done := make([]byte, len(p)), make(chan result, 1) // not p, for an abandoned read goes on
	go func() {
		n, err := in.stdin.Read(buf)
		done <- result{n, err}
	}()
	select {
	case <-in.ctx.Done():
		return 0, context.Cause(in.ctx)
	case r := <-done:
		defer clear(buf)
		return copy(p, buf[:r.n]), r.err
	}
}

// isTerminal reports whether a standard stream is a terminal.
func isTerminal(stream any) bool {
	file, isFile := stream.(*os.File)
	return isFile && term.IsTerminal(int(file.Fd()))
}

// commandLine is the grammar of the command line: one member a subcommand.
type commandLine struct {
	serviceCommands
	Doctor   doctorCommand    `cmd:"" help:"Test which TLS servers resume each other's sessions, and explain why not."`
	Keys     keysCommand      `cmd:"" help:"Manage ticket keys, in files and in the service."`
	Sessions sessionsCommand  `cmd:"" help:"Manage the sessions of the service."`
	SealKey  sealKeyCommand   `cmd:"" name:"seal-key" help:"Make keys for --seal-key-file."`
	Token    tokenCommand     `cmd:"" help:"Make tokens for --policy."`
	Version  versionCommand   `cmd:"" help:"Print the version."`
	Print    kong.VersionFlag `name:"version" env:"-" help:"Print the version."`
}

// run is the whole command, and returns its exit code. An error is one line.
func run(args []string, env environment) int {
	if len(args) == 0 || args[0] == "help" {
		args = append(args[min(1, len(args)):], "--help")
	}
	var exited *int // set by --help and --version
	var line commandLine
	parser, err := kong.New(&line, append(config.Options(),
		kong.Name("sessapi"),
		kong.Description("Keeps TLS sessions and session ticket keys for a fleet of TLS servers."),
		kong.Vars{
			"version":          versionLine(),
			"formats":          formatNames(func(keys.Format) bool { return true }),
			"readable_formats": formatNames(keys.Format.Readable),
		},
		kong.Writers(env.stdout, env.stderr),
		kong.Exit(func(code int) { exited = &code }),
	)...)
	if err != nil {
		panic(err) // the grammar is wrong
	}
	command, err := parser.Parse(args)
	if exited != nil {
		return *exited
	}
	if problems, ok := errors.AsType[config.Problems](err); ok { // without the name of the command
		err = problems
	}
	switch parsing, ok := errors.AsType[*kong.ParseError](err); {
	case err == nil:
		err = checkGiven(command)
	case ok:
		err = nameCommands(parsing, args)
	}
	if err != nil {
		return complain(env, exitUsage, err)
	}
	// Every other command may see secrets too, and knows no such setting, which the
	// environment would make for all.
	if !line.dumpable(command.Command()) {
		if err := preventDumps(); err != nil {
			return complain(env, exitFailure, fmt.Errorf("cannot lock out debuggers and core dumps: %w; serve --dumpable allows them", err))
		}
	}
	err = command.Run(env)
	if _, wrong := errors.AsType[config.Problems](err); wrong { // that check-config found
		return complain(env, exitUsage, err)
	}
	if _, wrong := errors.AsType[usageError](err); wrong {
		return complain(env, exitUsage, err)
	}
	if err != nil {
		return complain(env, exitFailure, err)
	}
	return exitOK
}

// nameCommands adds to an error of the command line the commands that it may go on with,
// if it lacks one.
func nameCommands(err *kong.ParseError, args []string) error {
	group, last := err.Context.Model.Node, args[len(args)-1]
	if selected := err.Context.Selected(); selected != nil {
		group = selected
	}
	if group.Leaf() || strings.HasPrefix(last, "-") {
		return err
	}
	var names []string
	for _, command := range group.Children {
		names = append(names, command.Name)
	}
	if last == group.Name {
		return fmt.Errorf("%s needs a command: %s", group.Name, strings.Join(names, ", "))
	}
	return fmt.Errorf("%w; the commands are %s", err, strings.Join(names, ", "))
}

// usageError is wrong usage that shows only when the command runs.
type usageError struct{ error }

// checkGiven refuses a flag that is given without a value, most often from a variable
// of the shell that is not set: secrets would go to standard output, or no policy apply.
func checkGiven(command *kong.Context) error {
	for _, element := range command.Path {
		if flag := element.Flag; flag != nil && !element.Resolved && flag.Target.Kind() == reflect.String && flag.Target.Len() == 0 {
			return fmt.Errorf("--%s: has no value", flag.Name)
		}
	}
	return nil
}

// complain writes an error, one line for each of several. Only printable characters
// reach the terminal, because the text may come from a service.
func complain(env environment, code int, err error) int {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(env.stderr, "sessapi: %s\n", printable.Text(line))
	}
	return code
}
