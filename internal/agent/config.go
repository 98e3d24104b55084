package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/kubernetes"
	"github.com/sessapi/sessapi/internal/yamlfile"
)

const (
	maxConfig = 256 << 10 // bytes of a configuration file

	defaultTimeout = 30 * time.Second
	maxTimeout     = 10 * time.Minute
)

// Config is the configuration of an agent.
type Config struct {
	Service Service `yaml:"service"`
	// Name is the name of the agent. The service knows its targets as Name/Target.
	Name    string   `yaml:"name"`
	Listen  string   `yaml:"listen"` // HOST:PORT or unix:PATH for metrics and health; empty for neither
	Targets []Target `yaml:"targets"`
	Silent  bool     `yaml:"-"` // no reports to the service
}

// Service is the source of the ticket keys.
type Service struct {
	Addresses   words  `yaml:"addresses"`
	CA          string `yaml:"ca"`
	TokenFile   string `yaml:"token_file"`
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// Target is a server that gets the keys, or several servers that share the files.
type Target struct {
	Name    string   `yaml:"name"`
	Kind    string   `yaml:"kind"`
	Format  string   `yaml:"format"` // of kind file
	File    string   `yaml:"file"`   // contains {key} for several files, whose number is Keys
	Keys    int      `yaml:"keys"`
	Mode    Mode     `yaml:"mode"`
	Owner   string   `yaml:"owner"`
	Socket  string   `yaml:"socket"` // of the kinds haproxy and envoy-sds
	Test    words    `yaml:"test"`
	Reload  *Reload  `yaml:"reload"`
	Probe   string   `yaml:"probe"`
	Timeout Duration `yaml:"timeout"`

	// Of kind kubernetes.
	Kubeconfig string           `yaml:"kubeconfig"`
	Context    string           `yaml:"context"`
	Namespace  string           `yaml:"namespace"`
	Secret     string           `yaml:"secret"`
	ConfigMap  string           `yaml:"configmap"`
	Layout     string           `yaml:"layout"`
	Entries    map[string]Entry `yaml:"entries"`

	// FirstKey is the number of the key in the first file, from 0, in a format with one
	// key per file.
	FirstKey int `yaml:"-"`
	// Script makes Reload run after every write, even when no file existed before.
	Script bool `yaml:"-"`

	line       int // of the configuration; 0 for none
	kind       *kind
	format     keys.Format
	attributes files.Attributes
	cluster    *kubernetes.Config
	layout     *layout
}

// Reload makes a server reread its files: a command, or a signal to the process in a PID
// file.
type Reload struct {
	Command words
	Signal  string
	PIDFile string

	signal syscall.Signal
}

// UnmarshalYAML is part of the YAML library's NodeUnmarshaler.
func (r *Reload) UnmarshalYAML(node ast.Node) error {
	mapping, ok := node.(*ast.MappingNode)
	if !ok {
		return r.Command.UnmarshalYAML(node)
	}
	for _, pair := range mapping.Values {
		key, value := pair.Key.GetToken(), pair.Value.GetToken().Value
		switch key.Value {
		case "signal":
			r.Signal = value
		case "pid_file":
			r.PIDFile = value
		default:
			text := fmt.Sprintf("unknown key %q%s", key.Value, yamlfile.Suggest(key.Value, []string{"signal", "pid_file"}))
			return &yamlfile.Error{Line: key.Position.Line, Text: text}
		}
	}
	return nil
}

// words is a list of strings.
type words []string

// UnmarshalYAML is part of the YAML library's NodeUnmarshaler.
func (w *words) UnmarshalYAML(node ast.Node) error {
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		text := keyOf(node) + ": must be a list in brackets, such as [first, second]"
		return &yamlfile.Error{Line: node.GetToken().Position.Line, Text: text}
	}
	for _, item := range list.Values {
		scalar, ok := item.(ast.ScalarNode)
		if !ok { // such as http://host between braces
			return &yamlfile.Error{Line: item.GetToken().Position.Line, Text: "has text with a colon in a list; put it in quotes"}
		}
		*w = append(*w, scalar.GetToken().Value)
	}
	return nil
}

// keyOf is the key that a value belongs to.
func keyOf(node ast.Node) string {
	path := node.GetPath()
	return path[strings.LastIndexByte(path, '.')+1:]
}

// Duration is a time. The YAML library does not say where one stands that it cannot read.
type Duration time.Duration

// UnmarshalYAML is part of the YAML library's NodeUnmarshaler.
func (d *Duration) UnmarshalYAML(node ast.Node) error {
	parsed, err := time.ParseDuration(node.GetToken().Value)
	*d = Duration(parsed)
	if err != nil {
		text := keyOf(node) + ": must be a number with a unit, such as 30s"
		return &yamlfile.Error{Line: node.GetToken().Position.Line, Text: text}
	}
	return nil
}

// Mode is the permissions of a file. It is octal, where the YAML library would read a
// decimal number.
type Mode fs.FileMode

// groupSocket is the mode of a socket to which the group may connect. Connecting takes the
// permission to write.
const groupSocket = 0o660

// UnmarshalYAML is part of the YAML library's NodeUnmarshaler.
func (m *Mode) UnmarshalYAML(node ast.Node) error {
	text := node.GetToken().Value
	if n, err := strconv.ParseUint(text, 8, 9); err == nil && n == groupSocket {
		*m = groupSocket // which checkFiles rejects
		return nil
	}
	n, err := files.ParseMode(text)
	*m = Mode(n)
	if err != nil {
		return &yamlfile.Error{Line: node.GetToken().Position.Line, Text: "mode: " + err.Error()}
	}
	return nil
}

// LoadConfig reads and checks a configuration file. Its error names every mistake and
// its line.
func LoadConfig(path string) (*Config, error) {
	data, _, err := files.ReadText(path, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path)) // servers tell their paths in full
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c, err := parseConfig(data, dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// parseConfig reads a configuration. Relative paths in it start at dir.
func parseConfig(data []byte, dir string) (*Config, error) {
	file, err := yamlfile.Parse(data, maxConfig, token.OctetIntegerType)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	unknown, err := file.Decode(c)
	if err != nil {
		return nil, append(unknown, yamlfile.All(err)...)
	}
	if unknown != nil {
		return nil, unknown
	}
	for _, path := range []*string{&c.Service.CA, &c.Service.TokenFile, &c.Service.Certificate, &c.Service.Key} {
		*path = absolute(dir, *path)
	}
	for i := range c.Targets {
		t := &c.Targets[i]
		t.line = file.Line(fmt.Sprintf("$.targets[%d]", i))
		t.File, t.Socket, t.Kubeconfig = absolute(dir, t.File), absolute(dir, t.Socket), absolute(dir, t.Kubeconfig)
		if t.Reload != nil {
			t.Reload.PIDFile = absolute(dir, t.Reload.PIDFile)
		}
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	return c, nil
}

func absolute(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// namePattern is the service's pattern for each half of a consumer's name.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

// Check fills in the defaults. Its error names every mistake.
func (c *Config) Check() error {
	var errs []error
	if len(c.Service.Addresses) == 0 {
		errs = append(errs, errors.New("service: addresses: there are none; add the address of the service, such as https://keys.example:8440"))
	} else if _, err := c.Service.clients(); err != nil {
		errs = append(errs, fmt.Errorf("service: %w", err))
	}
	if c.Name == "" {
		c.Name, _ = os.Hostname()
	}
	if !namePattern.MatchString(c.Name) {
		errs = append(errs, fmt.Errorf("name: %q must be 1 to 64 letters, digits, dots, underscores, colons and dashes", c.Name))
	}
	if len(c.Targets) == 0 {
		errs = append(errs, errors.New("targets: there are none; add one for each server, such as {kind: nginx, file: …}"))
	}
	names, written := map[string]bool{}, map[string]string{}
	for i := range c.Targets {
		t := &c.Targets[i]
		if err := t.check(); err != nil {
			if t.line > 0 {
				err = fmt.Errorf("line %d: %w", t.line, err)
			}
			errs = append(errs, err)
			continue
		}
		if names[t.Name] {
			errs = append(errs, fmt.Errorf("targets: two are called %q; give each a name of its own", t.Name))
		}
		names[t.Name] = true
		for _, place := range t.places() {
			if other := written[place]; other != "" {
				errs = append(errs, fmt.Errorf("targets: %s and %s write the same %s", other, t.Name, place))
			}
			written[place] = t.Name
		}
	}
	return errors.Join(errs...)
}

// clients returns a client for each address of the service.
func (s *Service) clients() ([]*client.Client, error) {
	config, err := files.ClientTLS(s.CA, s.Certificate, s.Key)
	if err != nil {
		return nil, err
	}
	var options []client.Option
	if config != nil {
		options = append(options, client.WithTLSConfig(config))
	}
	if s.TokenFile != "" {
		options = append(options, client.WithTokenFile(s.TokenFile))
	}
	clients := make([]*client.Client, len(s.Addresses))
	for i, address := range s.Addresses {
		clients[i], err = client.New(address, options...)
		if file, ok := errors.AsType[*fs.PathError](err); ok {
			return nil, fmt.Errorf("token_file: %w", file)
		}
		if err != nil {
			return nil, fmt.Errorf("addresses: %q: %w", address, err)
		}
	}
	return clients, nil
}

// KeyPlaceholder stands for the number of the key in a path, for a server that reads
// one key per file.
const KeyPlaceholder = "{key}"

// oneFile reports whether the server reads all keys from one file.
func (t *Target) oneFile() bool { return !t.format.OneKey() || t.kind.render != nil }

// places says what the target writes.
func (t *Target) places() []string {
	switch {
	case t.cluster != nil:
		return []string{fmt.Sprintf("%s of %s", t.object(), t.cluster.Server)}
	case t.File == "":
		return []string{"file " + t.Socket}
	}
	places := t.paths()
	for i, path := range places {
		places[i] = "file " + path
	}
	return places
}

// paths returns the files of the target, in the order of their keys.
func (t *Target) paths() []string {
	if t.File == "" {
		return nil
	}
	if !strings.Contains(t.File, KeyPlaceholder) {
		return []string{t.File}
	}
	paths := make([]string, t.Keys)
	for i := range paths {
		paths[i] = strings.ReplaceAll(t.File, KeyPlaceholder, strconv.Itoa(i))
	}
	return paths
}

// check fills in the defaults and checks the target on its own.
func (t *Target) check() error {
	var ok bool
	if t.kind, ok = kinds[t.Kind]; !ok {
		names := kindNames()
		return fmt.Errorf("kind: %q must be one of %s%s", t.Kind, strings.Join(names, ", "), yamlfile.Suggest(t.Kind, names))
	}
	t.Name = cmp.Or(t.Name, t.Kind)
	if !namePattern.MatchString(t.Name) {
		return fmt.Errorf("name: %q must be 1 to 64 letters, digits, dots, underscores, colons and dashes", t.Name)
	}
	fail := func(key, format string, args ...any) error {
		return fmt.Errorf("target %s: %s: %s", t.Name, key, fmt.Sprintf(format, args...))
	}
	check := t.kind.check
	if check == nil {
		check = (*Target).checkFiles
	}
	if err := check(t, fail); err != nil {
		return err
	}
	t.Timeout = cmp.Or(t.Timeout, Duration(defaultTimeout))
	if t.Timeout < Duration(time.Second) || t.Timeout > Duration(maxTimeout) {
		return fail("timeout", "must be from 1s to %v", maxTimeout)
	}
	if t.Probe != "" {
		if _, _, err := net.SplitHostPort(t.Probe); err != nil {
			return fail("probe", "%q must be HOST:PORT", t.Probe)
		}
	}
	uid, gid, err := files.ParseOwner(t.Owner)
	if err != nil {
		return fail("owner", "%v", err)
	}
	t.attributes = files.Attributes{Mode: fs.FileMode(cmp.Or(t.Mode, 0o600)), UID: uid, GID: gid}
	return nil
}

// failure makes the error of a setting.
type failure func(key, format string, args ...any) error

// only checks that no settings are given but these and those of all kinds.
func (t *Target) only(fail failure, settings ...string) error {
	given := map[string]bool{
		"configmap": t.ConfigMap != "", "context": t.Context != "", "entries": len(t.Entries) > 0, "file": t.File != "",
		"format": t.Format != "", "keys": t.Keys != 0, "kubeconfig": t.Kubeconfig != "", "layout": t.Layout != "",
		"mode": t.Mode != 0, "namespace": t.Namespace != "", "owner": t.Owner != "", "probe": t.Probe != "",
		"reload": t.Reload != nil, "secret": t.Secret != "", "socket": t.Socket != "", "test": len(t.Test) > 0,
	}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		if given[key] && !slices.Contains(settings, key) {
			return fail(key, "does not go with kind %s", t.Kind)
		}
	}
	return nil
}

// checkFiles fills in the defaults and checks the settings of a target that has files.
func (t *Target) checkFiles(fail failure) error {
	settings := []string{"file", "keys", "mode", "owner", "probe", "reload", "test"}
	if t.kind.anyFormat {
		settings = append(settings, "format")
	}
	if t.kind.sockets {
		settings = append(settings, "socket")
	}
	if err := t.only(fail, settings...); err != nil {
		return err
	}
	t.format = t.kind.format
	if t.kind.anyFormat {
		var err error
		if t.format, err = keys.ParseFormat(t.Format); err != nil {
			return fail("format", "unknown format %q; see sessapi keys convert --help", t.Format)
		}
	}
	if t.kind.keys > 0 {
		t.Keys = cmp.Or(t.Keys, t.kind.keys)
	}
	switch several := strings.Contains(t.File, KeyPlaceholder); {
	case t.File == "":
		return fail("file", "there is none")
	case several && t.oneFile():
		return fail("file", "%s reads all keys from one file: leave out %s", t.Kind, KeyPlaceholder)
	case several && t.kind.single:
		return fail("file", "%s holds one key: leave out %s", t.Kind, KeyPlaceholder)
	case several != (t.Keys != 0) && t.kind.keys == 0:
		return fail("keys", "goes with %s in file: give both or neither", KeyPlaceholder)
	case t.Keys < 0 || t.Keys > keys.MaxKeys:
		return fail("keys", "must be 1 to %d", keys.MaxKeys)
	case t.Mode == groupSocket:
		return fail("mode", "0660 is for the socket of kind envoy-sds; the group may read a file at most: 0640")
	case t.kind.needsReload && t.Reload == nil && t.Socket == "":
		return fail("reload", "%s", t.kind.reloadHint)
	case len(t.Test) > 0 && t.Reload == nil:
		return fail("test", "goes with reload")
	case t.Probe != "" && t.format == keys.Go:
		return fail("probe", "tickets of Go servers do not show their key")
	}
	if t.Reload != nil {
		if err := t.Reload.check(); err != nil {
			return fail("reload", "%v", err)
		}
	}
	return nil
}

func (r *Reload) check() error {
	switch {
	case len(r.Command) > 0:
		return nil
	case r.Signal == "" || r.PIDFile == "":
		return errors.New("must be a command as a list, or {signal: HUP, pid_file: FILE}")
	}
	var ok bool
	if r.signal, ok = signals[strings.TrimPrefix(r.Signal, "SIG")]; !ok {
		return fmt.Errorf("signal: %q must be HUP, USR1 or USR2", r.Signal)
	}
	return nil
}
