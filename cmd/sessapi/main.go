// Command sessapi keeps TLS sessions and session ticket keys for a fleet of TLS
// servers. `sessapi --help` lists its commands.
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
	// The first signal stops the service gracefully, a second one at once.
	context.AfterFunc(ctx, stop)
	code := run(os.Args[1:], environment{ctx: ctx, reload: reload, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr})
	os.Exit(code)
}

// environment is what the process provides to a command.
type environment struct {
	ctx            context.Context // ends when the process is told to stop
	reload         <-chan os.Signal
	stdin          io.Reader
	stdout, stderr io.Writer
}

// input is standard input. A read ends when the process is told to stop: a signal alone
// does not interrupt a read that waits for typed text.
type input struct{ environment }

func (in input) Read(p []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	buf, done := make([]byte, len(p)), make(chan result, 1) // not p: an abandoned read continues
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

// commandLine is the grammar of the command line: one field per subcommand.
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

// newParser returns the parser of the command line.
func newParser(line *commandLine, env environment, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(line, append(append(config.Options(),
		kong.Name("sessapi"),
		kong.Description("Keeps TLS sessions and session ticket keys for a fleet of TLS servers."),
		kong.Vars{
			"version":          versionLine(),
			"formats":          formatNames(func(keys.Format) bool { return true }),
			"readable_formats": formatNames(keys.Format.Readable),
		},
		kong.Writers(env.stdout, env.stderr),
	), options...)...)
}

// run executes a command and returns its exit code. An error is one line.
func run(args []string, env environment) int {
	if len(args) == 0 || args[0] == "help" {
		args = append(args[min(1, len(args)):], "--help")
	}
	var exited *int // set by --help and --version
	var line commandLine
	parser, err := newParser(&line, env, kong.Exit(func(code int) { exited = &code }))
	if err != nil {
		panic(err) // the grammar is wrong
	}
	command, err := parser.Parse(args)
	if exited != nil {
		return *exited
	}
	if problems, ok := errors.AsType[config.Problems](err); ok { // without the command name
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
	// All other commands may see secrets, too. They have no such setting, because its
	// environment variable would apply to all of them.
	if !line.dumpable(command.Command()) {
		if err := preventDumps(); err != nil {
			return complain(env, exitFailure, fmt.Errorf("cannot lock out debuggers and core dumps: %w; serve --dumpable allows them", err))
		}
	}
	err = command.Run(env)
	if _, wrong := errors.AsType[config.Problems](err); wrong { // found by check-config
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

// nameCommands adds the possible subcommands to a command line error if a subcommand is
// missing.
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

// usageError is wrong usage that is found only when the command runs.
type usageError struct{ error }

// checkGiven rejects a flag with an empty value, most often from an unset shell
// variable: secrets would go to standard output, or no policy would apply.
func checkGiven(command *kong.Context) error {
	for _, element := range command.Path {
		if flag := element.Flag; flag != nil && !element.Resolved && flag.Target.Kind() == reflect.String && flag.Target.Len() == 0 {
			return fmt.Errorf("--%s: has no value", flag.Name)
		}
	}
	return nil
}

// complain writes an error, one line each if there are several. It writes only
// printable characters to the terminal, because the text may come from a service.
func complain(env environment, code int, err error) int {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(env.stderr, "sessapi: %s\n", printable.Text(line))
	}
	return code
}
