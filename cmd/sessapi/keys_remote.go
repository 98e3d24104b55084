package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/keys"
)

// server is the address of a service.
type server string

// UnmarshalText checks the address.
func (s *server) UnmarshalText(text []byte) error {
	*s = server(text)
	_, err := client.New(string(text))
	return err
}

// remote is the flag of the commands that speak to a service.
type remote struct {
	Server    server `default:"http://127.0.0.1:8440" help:"Address of the service: http://HOST:PORT, https://HOST:PORT or unix:PATH."`
	CA        string `name:"ca" placeholder:"FILE" help:"Certificates that sign the service's, as PEM, instead of the system's."`
	Cert      string `placeholder:"FILE" help:"Certificate of this client, as PEM."`
	KeyFile   string `placeholder:"FILE" help:"Key of the certificate, as PEM."`
	TokenFile string `placeholder:"FILE" help:"File with a bearer token."`
}

// client is one of the service.
func (r remote) client(options ...client.Option) (*client.Client, error) {
	if (r.Cert == "") != (r.KeyFile == "") {
		return nil, errors.New("--cert and --key-file go together")
	}
	if r.CA != "" || r.Cert != "" || r.KeyFile != "" {
		c := &tls.Config{MinVersion: tls.VersionTLS12}
		if r.CA != "" {
			certs, err := files.ReadCertificates(r.CA)
			if err != nil {
				return nil, fmt.Errorf("--ca: %s: %w", r.CA, err)
			}
			c.RootCAs = files.Pool(certs)
		}
		if r.Cert != "" || r.KeyFile != "" {
			pair, err := files.ReadKeyPair(r.Cert, r.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("--cert and --key-file: %w", err)
			}
			c.Certificates = []tls.Certificate{pair}
		}
		options = append(options, client.WithTLSConfig(c))
	}
	if r.TokenFile != "" {
		options = append(options, client.WithTokenFile(r.TokenFile))
	}
	return client.New(string(r.Server), options...)
}

// update makes an update of the keys of the service and writes what is active
// then.
func (r remote) update(env environment, do func(*client.Client) (*client.TicketKeys, error)) error {
	c, err := r.client()
	if err != nil {
		return err
	}
	d, err := do(c)
	if err != nil {
		return r.explain(err)
	}
	if _, err := fmt.Fprintf(env.stdout, "generation %d\n", d.Generation); err != nil {
		return err
	}
	return keyTable(env.stdout, d.Keys)
}

// explain says of an error that is not the service's what to look at.
func (r remote) explain(err error) error {
	if _, ok := errors.AsType[*client.Error](err); ok {
		return err
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w; --ca says who signs it", err)
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok { // of a file here
		return err
	}
	return fmt.Errorf("%w; is --server=%s the service, and does it run?", err, r.Server)
}

type pushCommand struct {
	remote
	File    string         `arg:"" optional:"" default:"-" placeholder:"FILE" help:"File to read; - is standard input."`
	Format  readableFormat `required:"" env:"-" placeholder:"FORMAT" help:"Format of the file: ${readable_formats}."`
	IfMatch *uint64        `env:"-" placeholder:"GENERATION" help:"Push only while the keys of the service are of this generation."`
}

// Run pushes the file.
func (c pushCommand) Run(env environment) error {
	data, err := readInput(env, c.File)
	if err != nil {
		return err
	}
	defer clear(data)
	var options []client.UpdateOption
	if c.IfMatch != nil {
		options = append(options, client.IfGeneration(*c.IfMatch))
	}
	return c.update(env, func(service *client.Client) (*client.TicketKeys, error) {
		return service.Push(env.ctx, c.Format.String(), data, options...)
	})
}

type rotateCommand struct {
	remote
}

// Run rotates by one step.
func (c rotateCommand) Run(env environment) error {
	return c.update(env, func(service *client.Client) (*client.TicketKeys, error) { return service.Rotate(env.ctx) })
}

// keyName is an argument that names a key.
type keyName struct{ keys.Name }

// UnmarshalText reads a name.
func (n *keyName) UnmarshalText(text []byte) (err error) {
	if n.Name, err = keys.ParseName(string(text)); err != nil {
		return errors.New("must be the name of a key, 32 hex digits")
	}
	return nil
}

type revokeCommand struct {
	remote
	Name keyName `arg:"" help:"Name of the key: 32 hex digits."`
}

// Run revokes the key.
func (c revokeCommand) Run(env environment) error {
	return c.update(env, func(service *client.Client) (*client.TicketKeys, error) {
		return service.Revoke(env.ctx, c.Name.String())
	})
}

// selection is the flags of the commands that fetch keys.
type selection struct {
	Format format `required:"" env:"-" placeholder:"FORMAT" help:"Format to fetch: ${formats}."`
	Key    *int   `env:"-" placeholder:"I" help:"Which key to fetch for a server that reads one key a file, 0 if not given: the one that encrypts."`
}

// Validate implements kong's check of the flags.
func (s selection) Validate() error { return checkKeyFlag(s.Format.Format, s.Key) }

// check refuses what is no keys, so that no file of keys is replaced by it.
func (s selection) check(data []byte) error {
	if !s.Format.Readable() { // of which the client knows the media type
		return nil
	}
	set, err := s.Format.Parse(data)
	set.Wipe()
	if err != nil {
		return fmt.Errorf("what the service sends is no keys as %s: %w", s.Format, err)
	}
	return nil
}

type pullCommand struct {
	remote
	selection
	Out string `env:"-" placeholder:"FILE" help:"File to write, of mode 0600, instead of standard output."`
}

// Run fetches the keys.
func (c pullCommand) Run(env environment) error {
	service, err := c.client()
	if err != nil {
		return err
	}
	data, err := service.Format(env.ctx, c.Format.String(), c.Key)
	if err != nil {
		return c.explain(err)
	}
	defer clear(data)
	if err := c.check(data); err != nil {
		return err
	}
	if c.Out != "" && c.Out != "-" {
		return files.Replace(c.Out, data)
	}
	_, err = env.stdout.Write(data)
	return err
}

type watchCommand struct {
	remote
	selection
	Out   string `required:"" env:"-" placeholder:"FILE" help:"File to write, of mode 0600. With --files, {key} in it is the number of the key."`
	Files int    `env:"-" placeholder:"N" help:"Write N files, for a server that reads one key a file: of the key that encrypts and of those after it. When the set has fewer, the first key is written again."`
	Exec  string `env:"-" placeholder:"COMMAND" help:"Shell command to run whenever the keys were written, such as the reload of a server. It may take a minute."`
}

const keyPlaceholder = "{key}"

// Validate implements kong's check of the flags.
func (c watchCommand) Validate() error {
	switch several := strings.Contains(c.Out, keyPlaceholder); {
	case c.Out == "-":
		return errors.New("--out must be a file")
	case several != (c.Files != 0):
		return errors.New("--files=N and --out with {key} in it go together")
	case several && (c.Files < 1 || c.Files > keys.MaxKeys):
		return fmt.Errorf("--files must be 1 to %d", keys.MaxKeys)
	case several && c.Key != nil:
		return errors.New("--files writes several keys: leave out --key")
	case several && !c.Format.OneKey():
		return fmt.Errorf("%s reads all keys from one file: leave out --files", c.Format)
	}
	return c.selection.Validate()
}

const (
	// execTimeout bounds the command: while it runs, no newer keys are written.
	execTimeout = time.Minute
	// execGrace is how long a command that has to end, for that or because the
	// watch does, may take to.
	execGrace = time.Second
)

// Run writes the files at once and after each change, until the process is to
// stop.
func (c watchCommand) Run(env environment) error {
	log := newLogger(env.stderr, "info", "auto")
	service, err := c.client(client.WithLogger(log))
	if err != nil {
		return err
	}
	for _, path := range c.paths() {
		if err := files.RemoveTemporary(path); err != nil {
			return err
		}
	}
	take := func(contents [][]byte) error {
		for _, data := range contents {
			if err := c.check(data); err != nil {
				return err
			}
		}
		if err := c.write(contents); err != nil {
			return err
		}
		log.Info("ticket keys written", slog.String("path", c.Out))
		if c.Exec == "" {
			return nil
		}
		if err := c.runCommand(env); err != nil {
			return fmt.Errorf("the keys are written, and the command failed: %w", err) // both are tried again
		}
		return nil
	}
	if c.Files > 0 {
		_ = service.WatchFiles(env.ctx, c.Format.String(), c.Files, take) // ends when it is to
		return nil
	}
	_ = service.Watch(env.ctx, c.Format.String(), c.Key, func(data []byte) error { return take([][]byte{data}) })
	return nil
}

// paths are the files that are written, in the order of their keys.
func (c watchCommand) paths() []string {
	if c.Files == 0 {
		return []string{c.Out}
	}
	paths := make([]string, c.Files)
	for i := range paths {
		paths[i] = strings.ReplaceAll(c.Out, keyPlaceholder, strconv.Itoa(i))
	}
	return paths
}

// write replaces the file, or each of the files. The key that encrypts comes
// last: a server that reads them meanwhile knows at least all that it is told to
// encrypt with.
func (c watchCommand) write(contents [][]byte) error {
	for i, path := range slices.Backward(c.paths()) {
		data := contents[0] // a server would not start without the file, and an old one may hold a key that was revoked
		if i < len(contents) {
			data = contents[i]
		}
		if err := files.Replace(path, data); err != nil {
			return err
		}
	}
	return nil
}

func (c watchCommand) runCommand(env environment) error {
	ctx, cancel := context.WithTimeout(env.ctx, execTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, "sh", "-c", c.Exec) //nolint:gosec // it is the operator's own
	command.Stdout, command.Stderr = env.stdout, env.stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to reach what the shell started
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGTERM) }
	command.WaitDelay = execGrace
	return command.Run()
}
