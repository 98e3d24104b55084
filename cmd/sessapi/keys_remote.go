package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/agent"
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

// remote is the flags of commands that call a service.
type remote struct {
	Server    server `default:"http://127.0.0.1:8440" help:"Address of the service: http://HOST:PORT, https://HOST:PORT or unix:PATH."`
	CA        string `name:"ca" placeholder:"FILE" help:"CA certificates for the service, PEM. The default is the CA certificates of the system."`
	Cert      string `placeholder:"FILE" help:"Client certificate, PEM."`
	KeyFile   string `placeholder:"FILE" help:"Private key of --cert, PEM."`
	TokenFile string `placeholder:"FILE" help:"File with a bearer token."`
}

// client returns a client of the service.
func (r remote) client() (*client.Client, error) {
	var options []client.Option
	if (r.Cert == "") != (r.KeyFile == "") {
		return nil, usageError{errors.New("--cert and --key-file go together")}
	}
	config, err := files.ClientTLS(r.CA, r.Cert, r.KeyFile)
	if err != nil {
		return nil, err
	}
	if config != nil {
		options = append(options, client.WithTLSConfig(config))
	}
	if r.TokenFile != "" {
		options = append(options, client.WithTokenFile(r.TokenFile))
	}
	c, err := client.New(string(r.Server), options...)
	if _, ofFile := errors.AsType[*fs.PathError](err); err != nil && !ofFile {
		return nil, usageError{err}
	}
	return c, err
}

// update updates the service's keys and writes the set that is active then.
func (r remote) update(env environment, do func(*client.Client) (*client.TicketKeys, error)) error {
	c, err := r.client()
	if err != nil {
		return err
	}
	d, err := do(c)
	if err != nil {
		return r.explain(err)
	}
	return writeSet(env, d)
}

// explain adds advice to an error that is not an answer of the service.
func (r remote) explain(err error) error {
	if _, ok := errors.AsType[*client.Error](err); ok {
		return err
	}
	if errors.Is(err, client.ErrTLS) || errors.Is(err, client.ErrPlainHTTP) {
		return fmt.Errorf("--server=%s: %w", r.Server, err)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w; set --ca to the CA certificates of the service", err)
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok { // a local file
		return err
	}
	return fmt.Errorf("%w; check that the service runs, and that --server=%s is its address", err, r.Server)
}

type pushCommand struct {
	remote
	Files   []string       `arg:"" optional:"" name:"file" placeholder:"FILE" help:"Files to read; - is standard input, the default. For a format with one key in a file, name one file for each key. The first key encrypts."`
	Format  readableFormat `required:"" env:"-" placeholder:"FORMAT" help:"Format of the files: ${readable_formats}."`
	IfMatch *uint64        `env:"-" placeholder:"GENERATION" help:"Push only if the keys of the service have this generation."`
}

// Validate implements kong's check of the flags.
func (c pushCommand) Validate() error {
	if len(c.Files) > 1 && !c.Format.OneKey() {
		return fmt.Errorf("%s has all keys in one file: name one file", c.Format)
	}
	return nil
}

// Run pushes the files.
func (c pushCommand) Run(env environment) error {
	var options []client.UpdateOption
	if c.IfMatch != nil {
		options = append(options, client.IfGeneration(*c.IfMatch))
	}
	if len(c.Files) > 1 {
		return c.pushFiles(env, options)
	}
	data, err := readInput(env, append(c.Files, "-")[0], maxKeyFile)
	if err != nil {
		return err
	}
	defer clear(data)
	return c.push(env, data, options)
}

func (c pushCommand) push(env environment, data []byte, options []client.UpdateOption) error {
	return c.explainConflict(c.update(env, func(service *client.Client) (*client.TicketKeys, error) {
		return service.Push(env.ctx, c.Format.String(), data, options...)
	}))
}

// explainConflict explains an --if-match that does not hold.
func (c pushCommand) explainConflict(err error) error {
	if refused, ok := errors.AsType[*client.Error](err); ok && c.IfMatch != nil && refused.Status == http.StatusPreconditionFailed {
		return fmt.Errorf("the keys of the service are of another generation than %d: somebody has changed them; sessapi keys list shows them", *c.IfMatch)
	}
	return err
}

// pushFiles pushes files with one key each. It sends their concatenated bytes, or JSON
// if the bytes do not show the size of each key.
func (c pushCommand) pushFiles(env environment, options []client.UpdateOption) error {
	var set keys.Set
	defer func() { set.Wipe() }()
	data := make([]byte, 0, maxKeyFile) // growing it would leave copies of secrets behind
	defer func() { clear(data) }()
	for _, path := range c.Files {
		file, err := readInput(env, path, maxKeyFile)
		if err != nil {
			return err
		}
		one, err := c.Format.Parse(file)
		if len(data)+len(file) <= cap(data) {
			data = append(data, file...)
		}
		clear(file)
		set.Keys = append(set.Keys, one.Keys...)
		switch {
		case err != nil:
			return fmt.Errorf("%s as %s: %w", path, c.Format, err)
		case len(one.Keys) > 1:
			return fmt.Errorf("%s has %d keys, a file for %s has one", path, len(one.Keys), c.Format)
		}
	}
	together, err := c.Format.Parse(data)
	defer together.Wipe()
	if err == nil && len(together.Keys) == len(set.Keys) {
		return c.push(env, data, options)
	}
	upload := client.TicketKeyUpload{}
	for _, k := range set.Keys {
		upload.Keys = append(upload.Keys, client.TicketKeyMaterial{
			Name: k.Name().String(), HMACSecret: k.AppendHMACSecret(nil), AESKey: k.AppendAESKey(nil),
		})
	}
	defer func() {
		for _, k := range upload.Keys {
			clear(k.HMACSecret)
			clear(k.AESKey)
		}
	}()
	return c.explainConflict(c.update(env, func(service *client.Client) (*client.TicketKeys, error) {
		return service.PushKeys(env.ctx, upload, options...)
	}))
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

// selection is the common flags of commands that fetch keys.
type selection struct {
	Format format     `required:"" env:"-" placeholder:"FORMAT" help:"Format to fetch: ${formats}."`
	Key    *int       `env:"-" placeholder:"I" help:"Number of the key, for a format with one key in a file. The default is 0, the key that encrypts."`
	Files  int        `env:"-" placeholder:"N" help:"Write N files, for a format with one key in a file. The first file has the key that encrypts. If the set has fewer keys, the remaining files get the first key."`
	Mode   *fileMode  `env:"-" placeholder:"MODE" help:"Mode of the files, in octal. The default is 0600."`
	Owner  *fileOwner `env:"-" placeholder:"USER[:GROUP]" help:"Owner of the files, by name or number. The default is the user of this command."`
}

// fileMode is a flag for the mode of a file with secrets.
type fileMode fs.FileMode

// UnmarshalText reads octal digits.
func (m *fileMode) UnmarshalText(text []byte) error {
	mode, err := files.ParseMode(string(text))
	*m = fileMode(mode)
	return err
}

// fileOwner is a flag for the owner of a file.
type fileOwner struct {
	text     string
	uid, gid int
}

// UnmarshalText looks up the user and the group.
func (o *fileOwner) UnmarshalText(text []byte) (err error) {
	o.text = string(text)
	o.uid, o.gid, err = files.ParseOwner(string(text))
	return err
}

// check returns an error if the flags conflict. out is the output file; "" is standard
// output.
func (s selection) check(out string) error {
	switch several := strings.Contains(out, agent.KeyPlaceholder); {
	case several != (s.Files != 0):
		return errors.New("--files=N and --out with {key} in it go together")
	case several && (s.Files < 1 || s.Files > keys.MaxKeys):
		return fmt.Errorf("--files must be 1 to %d", keys.MaxKeys)
	case several && s.Key != nil:
		return errors.New("--files writes several keys: leave out --key")
	case several && !s.Format.OneKey():
		return fmt.Errorf("%s reads all keys from one file: leave out --files", s.Format)
	case out == "" && (s.Mode != nil || s.Owner != nil):
		return errors.New("--mode and --owner need --out")
	}
	return checkKeyFlag(s.Format.Format, s.Key)
}

// fetch returns the content of each file. The caller must wipe it.
func (s selection) fetch(ctx context.Context, service *client.Client) (contents [][]byte, err error) {
	if s.Files > 0 {
		return service.Files(ctx, s.Format.String(), s.Files)
	}
	data, err := service.Format(ctx, s.Format.String(), s.Key)
	return [][]byte{data}, err
}

func wipe(contents [][]byte) {
	for _, data := range contents {
		clear(data)
	}
}

// checkKeys rejects contents that are not keys before they replace a key file.
func (s selection) checkKeys(contents [][]byte) error {
	if !s.Format.Readable() { // the client knows the media type of these
		return nil
	}
	for _, data := range contents {
		set, err := s.Format.Parse(data)
		set.Wipe()
		if err != nil {
			return fmt.Errorf("the service did not send valid keys for %s: %w", s.Format, err)
		}
	}
	return nil
}

// paths returns the files for out, in the order of their keys.
func (s selection) paths(out string) []string {
	if s.Files == 0 {
		return []string{out}
	}
	paths := make([]string, s.Files)
	for i := range paths {
		paths[i] = strings.ReplaceAll(out, agent.KeyPlaceholder, strconv.Itoa(i))
	}
	return paths
}

// write replaces the files that differ from the contents. It writes the encrypting key
// last: a server that reads the files meanwhile can decrypt everything that it
// encrypts.
func (s selection) write(out string, contents [][]byte) error {
	a := files.Attributes{Mode: 0o600, UID: -1, GID: -1}
	if s.Mode != nil {
		a.Mode = fs.FileMode(*s.Mode)
	}
	if s.Owner != nil {
		a.UID, a.GID = s.Owner.uid, s.Owner.gid
	}
	for i, path := range slices.Backward(s.paths(out)) {
		data := contents[0] // a server does not start without the file, and an old file may hold a revoked key
		if i < len(contents) {
			data = contents[i]
		}
		if files.Is(path, data, a) {
			continue
		}
		if err := files.ReplaceAs(path, data, a); err != nil {
			return err
		}
	}
	return nil
}

type pullCommand struct {
	remote
	selection
	Out string `env:"-" placeholder:"FILE" help:"File to write. The default is standard output. With --files, {key} stands for the number of the key."`
}

// Validate implements kong's check of the flags.
func (c pullCommand) Validate() error { return c.check(strings.TrimPrefix(c.Out, "-")) }

// Run fetches the keys.
func (c pullCommand) Run(env environment) error {
	service, err := c.client()
	if err != nil {
		return err
	}
	contents, err := c.fetch(env.ctx, service)
	defer wipe(contents)
	if err != nil {
		return c.explain(err)
	}
	if err := c.checkKeys(contents); err != nil {
		return err
	}
	switch c.Out {
	case "":
		return writeSecret(env, c.Format.Format, contents[0])
	case "-":
		_, err := env.stdout.Write(contents[0])
		return err
	}
	return c.write(c.Out, contents)
}

type watchCommand struct {
	remote
	selection
	Out  string `required:"" env:"-" placeholder:"FILE" help:"File to write. With --files, {key} stands for the number of the key."`
	Exec string `env:"-" placeholder:"COMMAND" help:"Shell command to run after a file has changed, such as the reload of a server. It may take up to a minute. If it fails, it is retried until it succeeds."`
	Once bool   `env:"-" help:"Write the files, run the command if it is due, and exit; with 1 if either fails."`
}

// Validate implements kong's check of the flags.
func (c watchCommand) Validate() error {
	if c.Out == "-" {
		return errors.New("--out must be a file")
	}
	return c.check(c.Out)
}

// execTimeout limits the command: while it runs, no newer keys are written.
const execTimeout = time.Minute

// Run keeps the files in sync, like an agent with this one target, until the process is
// told to stop.
func (c watchCommand) Run(env environment) error {
	target := agent.Target{
		Name: "watch", Kind: "file", Format: c.Format.String(), File: c.Out, Keys: c.Files,
		Timeout: agent.Duration(execTimeout), Script: true,
	}
	if c.Owner != nil {
		target.Owner = c.Owner.text
	}
	if c.Mode != nil {
		target.Mode = agent.Mode(*c.Mode)
	}
	if c.Key != nil {
		target.FirstKey = *c.Key
	}
	if c.Exec != "" {
		target.Reload = &agent.Reload{Command: []string{"sh", "-c", c.Exec}}
	}
	config := agent.Config{
		Service: agent.Service{
			Addresses: []string{string(c.Server)}, CA: c.CA, TokenFile: c.TokenFile, Certificate: c.Cert, Key: c.KeyFile,
		},
		Targets: []agent.Target{target},
		Silent:  true,
	}
	if err := config.Check(); err != nil {
		return err
	}
	a, err := agent.New(&config, 0, newLogger(env.stderr, "info", "auto"))
	if err != nil {
		return err
	}
	if !c.Once {
		a.Run(env.ctx)
		return nil
	}
	err = a.Once(env.ctx)
	if _, ok := errors.AsType[*agent.TargetError](err); err == nil || ok {
		return err
	}
	return c.explain(err)
}
