// Package config holds the settings of the service in one validated struct. The
// settings come from flags, the environment and a YAML file.
//
// Each setting is a flag (--cache-memory), an environment variable
// (SESSAPI_CACHE_MEMORY) and a key of the file (cache-memory or cache_memory),
// in that order of precedence. An unknown key, an unknown variable and a value out of
// bounds are errors, so that no service starts with settings that its operator did not mean.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"
	"github.com/go-playground/validator/v10"

	"github.com/sessapi/sessapi/internal/tracing"
	"github.com/sessapi/sessapi/internal/yamlfile"
)

// EnvPrefix is the prefix of all environment variables.
const EnvPrefix = "SESSAPI"

// Config is the settings of the service. Defaults and bounds are in the tags.
type Config struct {
	ConfigFile kong.ConfigFlag `name:"config" placeholder:"FILE" help:"YAML file with settings. Its keys are the names of the flags."`

	Listen         Address  `default:"127.0.0.1:8440" help:"Address to listen on: HOST:PORT or unix:PATH. The socket has mode 0600, with --policy 0666."`
	MaxConnections int      `default:"4096" validate:"min=16,max=1000000" help:"Maximum number of open connections at --listen, 16 to 1000000. Further clients wait. Each client that waits for ticket keys uses a connection."`
	OpsListen      *Address `placeholder:"ADDRESS" help:"Separate address for metrics, health and profiles. --listen then no longer serves them."`

	TLSCert        string   `name:"tls-cert" placeholder:"FILE" help:"Certificate of the service with its chain, PEM. SIGHUP or a change of the file reloads it."`
	TLSKey         string   `name:"tls-key" placeholder:"FILE" help:"Private key of --tls-cert, PEM."`
	TLSClientCA    string   `name:"tls-client-ca" placeholder:"FILE" help:"CA certificates for client certificates, PEM. Without --policy, every request needs a client certificate, except for health."`
	Policy         string   `placeholder:"FILE" help:"Identities and their roles, YAML. SIGHUP or a change of the file reloads it. Without a policy everything is permitted."`
	AuditLog       string   `placeholder:"FILE" help:"File that records denials, and changes and exports of ticket keys; or stderr. The service refuses an operation that it cannot record. SIGHUP reopens the file."`
	InsecureListen bool     `help:"Allow an address other than the loopback without TLS, or without both --policy and --tls-client-ca. Anyone who can connect can then read and change keys and sessions."`
	AllowedHosts   []string `placeholder:"NAME" help:"More host names that requests may use. The names of the certificate, localhost and IP addresses are always allowed. *.example.com matches one label."`
	Dumpable       bool     `help:"Allow debuggers and core dumps, which can read the secrets of the process."`

	Cache             Switch        `default:"on" help:"Keep sessions: on or off. Ticket keys work either way."`
	CacheMemory       Size          `default:"256MiB" validate:"min=1048576,max=1099511627776" help:"Hard limit of the memory of the session cache."`
	CacheMaxSessions  int           `default:"0" validate:"min=0" help:"Maximum number of sessions; 0 is no limit."`
	SessionMaxBytes   Size          `default:"16KiB" validate:"min=1,max=65536" help:"Maximum size of a session, up to 64KiB."`
	SessionDefaultTTL time.Duration `name:"session-default-ttl" default:"300s" validate:"min=1s,ltefield=SessionMaxTTL" help:"Lifetime of sessions that do not have their own."`
	SessionMaxTTL     time.Duration `name:"session-max-ttl" default:"168h" validate:"min=1s,max=168h" help:"Maximum lifetime of any session, up to 168h."`

	TicketKeyFile string `placeholder:"FILE" help:"Ticket keys in the format of Apache Traffic Server. SIGHUP or a change of the file reloads it."`

	RotateEvery    time.Duration `default:"12h" validate:"omitempty,min=1s" help:"Rotation interval of generated keys; 0 disables rotation. Pushed keys are not rotated."`
	TicketLifetime time.Duration `default:"24h" validate:"min=1s,max=168h" help:"Lifetime of tickets, up to 168h. A key is kept until its last ticket has expired."`

	ActivateAfter   string        `default:"off" enum:"off,all" help:"all: a rotation waits until every reporting consumer holds the next key. off: it does not wait."`
	ActivateTimeout time.Duration `validate:"omitempty,min=1s" help:"How long a rotation waits for consumers. The default is a tenth of --rotate-every."`

	StateFile   string `placeholder:"FILE" help:"File that keeps the ticket keys over a restart. FILE.sessions keeps the sessions. Needs --seal-key-file."`
	SealKeyFile string `placeholder:"FILE" help:"Keys that encrypt what is in the state file and in Redis; sessapi seal-key new makes one. The first encrypts, all decrypt."`

	Redis            string        `placeholder:"URL" help:"Share sessions and ticket keys with other nodes through Redis or Valkey: redis://[user@]host:port[/db], rediss:// for TLS, or unix:///path. Add ?addr=host:port for each further node of a cluster, and &master_set=name for Sentinels. Needs --seal-key-file."`
	RedisAuthFile    string        `placeholder:"FILE" help:"File with the Redis password, or with the user and, on the next line, the password. A new password is used for new connections; with Sentinels, after a restart."`
	RedisCA          string        `name:"redis-ca" placeholder:"FILE" help:"CA certificates for Redis, PEM. The default is the CA certificates of the system."`
	RedisCert        string        `placeholder:"FILE" help:"Client certificate for Redis, PEM."`
	RedisKey         string        `placeholder:"FILE" help:"Private key of --redis-cert, PEM."`
	RedisReadTimeout time.Duration `default:"50ms" validate:"min=1ms,max=5s" help:"Timeout of a lookup in Redis. After it, the session counts as missing."`
	RedisMaxStale    time.Duration `default:"5s" validate:"min=100ms,max=1h" help:"How long a node serves sessions from its own cache after it has lost Redis."`
	Namespace        string        `default:"sessapi" help:"Name of the fleet in Redis: letters, digits, dots, dashes and underscores."`

	LogLevel  string `default:"info" enum:"debug,info,warn,error" help:"Minimum level to log: ${enum}."`
	LogFormat string `default:"auto" enum:"auto,text,json" help:"Log format: ${enum}. auto is text on a terminal and json otherwise."`
	AccessLog Switch `default:"off" help:"Log each request: on or off."`

	OTLPEndpoint string `name:"otlp-endpoint" placeholder:"URL" help:"Collector of traces: the base URL for OTLP over HTTP, such as http://127.0.0.1:4318. OTEL_* variables set the rest. Only in a build with the tag otlp."`

	source *source // nil if kong did not fill it
}

// Options returns the options for kong to fill a Config: the environment prefix and the
// file reader.
func Options() []kong.Option {
	s := new(source)
	return []kong.Option{
		kong.DefaultEnvars(EnvPrefix),
		kong.Configuration(s.load),
		kong.Bind(s),
	}
}

// Problem is an error in the settings.
type Problem struct {
	Place string // FILE:LINE; empty if it is not from a file
	Text  string
	line  int // the line in Place, or 0
}

func (p Problem) Error() string {
	if p.Place == "" {
		return p.Text
	}
	return p.Place + ": " + p.Text
}

// Problems are the problems of the settings. The text has a line for each.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.Error()
	}
	return strings.Join(lines, "\n")
}

// BeforeApply is a hook of kong. It checks the file and the environment, and keeps the
// source of the settings.
func (c *Config) BeforeApply(ctx *kong.Context, s *source) error {
	c.source = s
	return s.check(ctx.Model)
}

// Place returns FILE:LINE of a setting; empty if it is not from the file.
func (c *Config) Place(flag string) string {
	if c.source == nil || c.source.used[flag] == 0 {
		return ""
	}
	return yamlfile.Place(c.source.path, c.source.used[flag])
}

// report notes a problem of a flag.
type report func(flag, format string, args ...any)

// Problems returns the [Problems] of the settings; nil if there are none.
func (c *Config) Problems() error {
	var found Problems
	if c.source != nil {
		found = append(found, c.source.problems...)
	}
	wrong := func(flag, format string, args ...any) {
		found = append(found, Problem{Place: c.Place(flag), Text: fmt.Sprintf(format, args...)})
	}
	if c.OpsListen != nil && *c.OpsListen == c.Listen {
		wrong("ops-listen", "--ops-listen must differ from --listen")
	}
	if (c.StateFile != "" || c.Redis != "") != (c.SealKeyFile != "") {
		wrong("seal-key-file", "--seal-key-file is needed with --state-file or --redis, and only then; sessapi seal-key new makes a key")
	}
	if c.ActivateAfter == "all" && c.RotateEvery == 0 && c.ActivateTimeout == 0 {
		wrong("activate-timeout", "--activate-after=all needs --activate-timeout when --rotate-every is 0")
	}
	c.validateRedis(wrong)
	c.validateTransport(wrong)
	c.validateFiles(wrong)
	if c.OTLPEndpoint != "" {
		if err := tracing.CheckEndpoint(c.OTLPEndpoint); err != nil {
			wrong("otlp-endpoint", "--otlp-endpoint %v", err)
		}
	}
	v := validator.New(validator.WithRequiredStructEnabled())
	v.RegisterTagNameFunc(flagName)
	var invalid validator.ValidationErrors
	if err := v.Struct(c); err != nil && !errors.As(err, &invalid) {
		panic(err) // the tags are wrong
	}
	for _, e := range invalid {
		wrong(e.Field(), "--%s must be %s", e.Field(), rule(e))
	}
	if found == nil {
		return nil
	}
	return found
}

// UsesRedis reports whether the settings name a Redis and have no problem with it.
func (c *Config) UsesRedis() bool {
	uses := c.Redis != ""
	c.validateRedis(func(string, string, ...any) { uses = false })
	return uses
}

// validateRedis checks the settings of the Redis connection.
func (c *Config) validateRedis(wrong report) {
	if !regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`).MatchString(c.Namespace) {
		wrong("namespace", "--namespace must be 1 to 64 letters, digits, dots, dashes and underscores")
	}
	if c.Redis == "" {
		for _, set := range []bool{c.RedisAuthFile != "", c.RedisCA != "", c.RedisCert != "", c.RedisKey != ""} {
			if set {
				wrong("redis", "--redis-auth-file, --redis-ca, --redis-cert and --redis-key need --redis")
				break
			}
		}
		return
	}
	u, err := url.Parse(c.Redis)
	if err != nil {
		wrong("redis", "--redis must be a URL") // the error would repeat it, with a password
		return
	}
	secure := false
	switch u.Scheme {
	case "redis", "valkey", "unix":
	case "rediss", "valkeys":
		secure = true
	default:
		wrong("redis", "--redis must start with redis://, rediss:// or unix://")
	}
	if _, ok := u.User.Password(); ok {
		wrong("redis", "--redis must not contain a password, which other users could read: put it in --redis-auth-file")
	}
	for name := range u.Query() {
		if name != "addr" && name != "master_set" {
			wrong("redis", "--redis has an unknown parameter %q; it supports addr and master_set", name)
		}
	}
	if c.RedisReadTimeout > c.RedisMaxStale {
		wrong("redis-read-timeout", "--redis-read-timeout must be at most --redis-max-stale")
	}
	if (c.RedisCert == "") != (c.RedisKey == "") {
		wrong("redis-cert", "--redis-cert and --redis-key go together")
	}
	if !secure && (c.RedisCA != "" || c.RedisCert != "") {
		wrong("redis", "--redis-ca and --redis-cert need a rediss:// URL")
	}
}

// validateTransport checks that nobody can use the service over a network without
// credentials, unless the operator permits it. A required client certificate counts as
// credentials for everyone, like a policy.
func (c *Config) validateTransport(wrong report) {
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		wrong("tls-cert", "--tls-cert and --tls-key go together")
	case c.TLSClientCA != "" && c.TLSCert == "":
		wrong("tls-client-ca", "--tls-client-ca needs --tls-cert and --tls-key")
	}
	for _, name := range c.AllowedHosts {
		if name == "" || strings.ContainsAny(name, ":/ ") {
			wrong("allowed-hosts", "--allowed-hosts must be host names without ports, not %q", name)
		}
	}
	if c.InsecureListen || c.TLSCert != "" && (c.Policy != "" || c.TLSClientCA != "") {
		return
	}
	exposed := func(flag string, a Address) {
		if !a.IsLocal() {
			wrong(flag, "--%s=%s is not the loopback: set --tls-cert, --tls-key and one of --policy and --tls-client-ca, or --insecure-listen to allow anyone", flag, a)
		}
	}
	exposed("listen", c.Listen)
	if c.OpsListen != nil {
		exposed("ops-listen", *c.OpsListen)
	}
}

// File is a file that the settings name.
type File struct {
	Flag, Path string
	Secret     bool // only its owner may read it
	Written    bool // by the service
}

// Files returns the files that the settings name, and those beside the state file.
func (c *Config) Files() []File {
	all := []File{
		{Flag: "config", Path: string(c.ConfigFile)},
		{Flag: "ticket-key-file", Path: c.TicketKeyFile, Secret: true},
		{Flag: "policy", Path: c.Policy},
		{Flag: "seal-key-file", Path: c.SealKeyFile, Secret: true},
		{Flag: "tls-cert", Path: c.TLSCert},
		{Flag: "tls-key", Path: c.TLSKey, Secret: true},
		{Flag: "tls-client-ca", Path: c.TLSClientCA},
		{Flag: "redis-auth-file", Path: c.RedisAuthFile, Secret: true},
		{Flag: "redis-ca", Path: c.RedisCA},
		{Flag: "redis-cert", Path: c.RedisCert},
		{Flag: "redis-key", Path: c.RedisKey, Secret: true},
		{Flag: "audit-log", Path: c.AuditLog, Written: true},
	}
	if c.StateFile != "" {
		for _, suffix := range []string{"", ".sessions", ".consumers", ".lock"} {
			all = append(all, File{Flag: "state-file", Path: c.StateFile + suffix, Secret: true, Written: true})
		}
	}
	return slices.DeleteFunc(all, func(f File) bool { return f.Path == "" })
}

// validateFiles rejects a written file that is also the file of another setting.
func (c *Config) validateFiles(wrong report) {
	all := c.Files()
	for i, a := range all {
		for _, b := range all[i+1:] {
			if (a.Written || b.Written) && a.Flag != b.Flag && filepath.Clean(a.Path) == filepath.Clean(b.Path) {
				wrong(b.Flag, "--%s and --%s must be different files", a.Flag, b.Flag)
			}
		}
	}
}

// flagName returns kong's flag name for a field.
func flagName(field reflect.StructField) string {
	if name := field.Tag.Get("name"); name != "" {
		return name
	}
	var b strings.Builder
	for i, r := range field.Name {
		if i > 0 && 'A' <= r && r <= 'Z' {
			b.WriteByte('-')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// rule says in words what a validator's tag requires.
func rule(e validator.FieldError) string {
	bound := e.Param()
	if _, ok := e.Value().(Size); ok {
		var size Size
		if size.UnmarshalText([]byte(bound)) == nil {
			bound = size.String()
		}
	}
	switch e.Tag() {
	case "min":
		return "at least " + bound
	case "max":
		return "at most " + bound
	case "ltefield":
		return "at most --session-max-ttl"
	}
	return e.Tag() + " " + bound
}

// Address is an address to listen on: a TCP address or a Unix socket.
type Address struct {
	Network string // "tcp" or "unix"
	Address string // HOST:PORT, or the path
}

// UnmarshalText reads HOST:PORT or unix:PATH.
func (a *Address) UnmarshalText(text []byte) error {
	s := string(text)
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return errors.New("unix: needs a path")
		}
		*a = Address{Network: "unix", Address: path}
		return nil
	}
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return errors.New("must be HOST:PORT or unix:PATH")
	}
	*a = Address{Network: "tcp", Address: s}
	return nil
}

// IsLocal reports whether only this machine can reach the address: a Unix socket,
// localhost or a loopback address. Other names may resolve to anything.
func (a Address) IsLocal() bool {
	if a.Network == "unix" {
		return true
	}
	host := a.Host()
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// Host returns the host of a TCP address: a name, an IP address, or empty.
func (a Address) Host() string {
	host, _, _ := net.SplitHostPort(a.Address) // the address was parsed before
	return host
}

func (a Address) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Address
	}
	return a.Address
}

// Size is a number of bytes with an optional unit: 256MiB, 16KiB, 1GB, 4096.
type Size int64

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > 1<<62 {
		return errors.New("must be a size like 256MiB or 4096")
	}
	*s = Size(n)
	return nil
}

func (s Size) String() string {
	return strings.ReplaceAll(humanize.IBytes(uint64(s)), " ", "")
}

// Switch is a setting with the values on and off.
type Switch bool

// Decode is part of [kong.MapperValue]. Without it, kong's error for a flag without a
// value would not say which values it needs.
func (s *Switch) Decode(ctx *kong.DecodeContext) error {
	value, err := ctx.Scan.PopValue("")
	if err != nil {
		return errors.New("must be followed by on or off")
	}
	return s.UnmarshalText([]byte(value.String()))
}

// UnmarshalText reads on or off. Older versions of YAML turn these into true and false,
// so it reads them, too.
func (s *Switch) UnmarshalText(text []byte) error {
	switch string(text) {
	case "on", "true":
		*s = true
	case "off", "false":
		*s = false
	default:
		return errors.New("must be on or off")
	}
	return nil
}
