package config

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// parse reads settings as the command does.
func parse(t *testing.T, args ...string) (Config, error) {
	t.Helper()
	var c Config
	parser, err := kong.New(&c, append(Options(), kong.Writers(io.Discard, io.Discard))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = parser.Parse(args); err == nil {
		err = c.Problems()
	}
	return c, err
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sessapi.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	c, err := parse(t)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Listen:            Address{"tcp", "127.0.0.1:8440"},
		Cache:             true,
		CacheMemory:       256 << 20,
		SessionMaxBytes:   16 << 10,
		SessionDefaultTTL: 300 * time.Second,
		SessionMaxTTL:     7 * 24 * time.Hour,
		MaxConnections:    4096,
		RotateEvery:       12 * time.Hour,
		TicketLifetime:    24 * time.Hour,
		ActivateAfter:     "off",
		RedisReadTimeout:  50 * time.Millisecond,
		RedisMaxStale:     5 * time.Second,
		Namespace:         "sessapi",
		LogLevel:          "info",
		LogFormat:         "auto",
	}
	c.source = nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("the defaults are %+v", c)
	}
}

func TestPrecedence(t *testing.T) {
	file := writeFile(t, `
cache-memory: 3MiB
cache_max_sessions: 3
session-default-ttl: 3s
cache: off
listen: unix:/run/sessapi.sock
`)
	t.Setenv("SESSAPI_CACHE_MEMORY", "2MiB")
	t.Setenv("SESSAPI_CACHE_MAX_SESSIONS", "2")
	t.Setenv("SESSAPI_CONFIG", file)
	c, err := parse(t, "--cache-memory=1MiB")
	if err != nil {
		t.Fatal(err)
	}
	if c.CacheMemory != 1<<20 {
		t.Errorf("a flag does not win: %v", c.CacheMemory)
	}
	if c.CacheMaxSessions != 2 {
		t.Errorf("the environment does not win over the file: %v", c.CacheMaxSessions)
	}
	if c.SessionDefaultTTL != 3*time.Second || c.Cache || c.Listen != (Address{"unix", "/run/sessapi.sock"}) {
		t.Errorf("the file is not taken: %+v", c)
	}
	if c.SessionMaxTTL != 168*time.Hour {
		t.Errorf("the default is not taken: %v", c.SessionMaxTTL)
	}
}

func TestInvalid(t *testing.T) {
	for _, test := range []struct {
		name, want string
		args       []string
		file       string
	}{
		{name: "unknown flag", want: "unknown flag --cache-memroy", args: []string{"--cache-memroy=1GiB"}},
		{name: "switch without a value", want: "--access-log: must be followed by on or off", args: []string{"--access-log"}},
		{name: "switch before a flag", want: "--access-log: must be followed by on or off", args: []string{"--access-log", "--cache=on"}},
		{name: "memory", want: "--cache-memory must be at least 1.0MiB", args: []string{"--cache-memory=1KiB"}},
		{name: "memory without unit", want: "must be a size", args: []string{"--cache-memory=lots"}},
		{name: "audit log in the place of another file", want: "--policy and --audit-log must be different files", args: []string{"--policy=p.yaml", "--audit-log=./p.yaml"}},
		{name: "state in the place of another file", want: "--audit-log and --state-file must be different files", args: []string{"--audit-log=s.sessions", "--state-file=s", "--seal-key-file=k"}},
		{name: "state without seal", want: "is needed with --state-file or --redis", args: []string{"--state-file=s"}},
		{name: "seal alone", want: "is needed with --state-file or --redis", args: []string{"--seal-key-file=k"}},
		{name: "Redis without seal", want: "is needed with --state-file or --redis", args: []string{"--redis=redis://a"}},
		{name: "Redis scheme", want: "redis://, rediss:// or unix://", args: []string{"--redis=http://a", "--seal-key-file=k"}},
		{name: "Redis URL", want: "--redis must be a URL", args: []string{"--redis=redis://a b", "--seal-key-file=k"}},
		{name: "Redis password", want: "--redis-auth-file", args: []string{"--redis=redis://u:p@a", "--seal-key-file=k"}},
		{name: "Redis options", want: `unknown parameter "skip_verify"`, args: []string{"--redis=rediss://a?skip_verify", "--seal-key-file=k"}},
		{name: "Redis certificate without key", want: "go together", args: []string{"--redis=rediss://a", "--seal-key-file=k", "--redis-cert=c"}},
		{name: "Redis authority without TLS", want: "need a rediss:// URL", args: []string{"--redis=redis://a", "--seal-key-file=k", "--redis-ca=c"}},
		{name: "Redis slower than stale", want: "--redis-read-timeout must be at most --redis-max-stale", args: []string{"--redis=redis://a", "--seal-key-file=k", "--redis-read-timeout=2s", "--redis-max-stale=1s"}},
		{name: "Redis file without Redis", want: "need --redis", args: []string{"--redis-ca=c"}},
		{name: "namespace", want: "--namespace must be", args: []string{"--namespace=a*"}},
		{name: "staleness", want: "--redis-max-stale must be at least 100ms", args: []string{"--redis-max-stale=1ms"}},
		{name: "negative memory", want: "must be a size", args: []string{"--cache-memory=-1MiB"}},
		{name: "memory beyond everything", want: "must be a size", args: []string{"--cache-memory=8EiB"}},
		{name: "session size", want: "--session-max-bytes must be at most 64KiB", args: []string{"--session-max-bytes=65KiB"}},
		{name: "number", want: "--cache-max-sessions must be at least 0", args: []string{"--cache-max-sessions=-1"}},
		{name: "ttl", want: "--session-default-ttl must be at least 1s", args: []string{"--session-default-ttl=0s"}},
		{name: "ttl order", want: "--session-default-ttl must be at most --session-max-ttl", args: []string{"--session-max-ttl=60s"}},
		{name: "max ttl", want: "--session-max-ttl must be at most 168h", args: []string{"--session-max-ttl=169h"}},
		{name: "duration", want: "session-max-ttl", args: []string{"--session-max-ttl=60"}},
		{name: "address", want: "must be HOST:PORT or unix:PATH", args: []string{"--listen=8440"}},
		{name: "one address twice", want: "--ops-listen must differ", args: []string{"--listen=[::1]:8440", "--ops-listen=[::1]:8440"}},
		{name: "port", want: "must be HOST:PORT or unix:PATH", args: []string{"--listen=127.0.0.1:99999"}},
		{name: "too much memory", want: "--cache-memory must be at most 1.0TiB", args: []string{"--cache-memory=2TiB"}},
		{name: "second document", want: ":3: a second document begins", file: "cache: on\n---\nnonsense: 1"},
		{name: "socket", want: "needs a path", args: []string{"--listen=unix:"}},
		{name: "switch", want: "must be on or off", args: []string{"--cache=maybe"}},
		{name: "level", want: "must be one of", args: []string{"--log-level=loud"}},
		{name: "no file", want: "no such file", args: []string{"--config=/nonexistent.yaml"}},
		{name: "a line behind a CR", want: "sessapi.yaml:1: has a control character: U+000D", file: "#\rcache: off"},
		{name: "unknown key", want: `sessapi.yaml:2: unknown setting "cache-memroy"; did you mean cache-memory?`, file: "# memory\ncache-memroy: 1GiB"},
		{name: "config in config", want: `unknown setting "config"`, file: "config: other.yaml"},
		{name: "key twice", want: `sessapi.yaml:2: "cache-memory" is given twice, first in line 1`, file: "cache-memory: 1GiB\ncache_memory: 2GiB"},
		{name: "the same key twice", want: `sessapi.yaml:2: "cache" is given twice, first in line 1`, file: "cache: on\ncache: off"},
		{name: "list", want: `sessapi.yaml:1: listen: must be a single value`, file: "listen: [a, b]"},
		{name: "no mapping", want: "sessapi.yaml:1: must be a mapping, in lines of KEY: VALUE", file: "just text"},
		{name: "no YAML", want: "sessapi.yaml:1: has a second colon", file: "a: b: c"},
		{name: "value in file", want: "sessapi.yaml:1: cache: must be on or off", file: "cache: maybe"},
		{name: "choice in file", want: "sessapi.yaml:1: log-level: must be one of debug, info, warn, error", file: "log-level: loud"},
		{name: "no value", want: "sessapi.yaml:1: listen: has no value", file: "listen:"},
		{name: "no value, and more", want: "sessapi.yaml:1: cache: must be on or off\n", file: "cache: maybe\nlisten:\ncache-memroy: 1"},
		{name: "more, and no value", want: "sessapi.yaml:2: listen: has no value\n", file: "cache: maybe\nlisten:\ncache-memroy: 1"},
		{name: "tab", want: "sessapi.yaml:2: is indented with a tab; use spaces", file: "cache: on\n\tlisten: unix:/s"},
		{name: "bound in file", want: "sessapi.yaml:1: --cache-memory must be at least", file: "cache-memory: 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.file != "" {
				test.args = append(test.args, "--config="+writeFile(t, test.file))
			}
			_, err := parse(t, test.args...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want something with %q", err, test.want)
			}
		})
	}
}

// A service that other machines can reach needs credentials, or the operator's word
// that it needs none.
func TestExposed(t *testing.T) {
	tls := []string{"--tls-cert=c", "--tls-key=k"}
	with := func(more ...string) []string { return append(append([]string(nil), tls...), more...) }
	for _, test := range []struct {
		listen string
		args   []string
		want   string // of the error; empty for none
	}{
		{"127.0.0.1:1", nil, ""},
		{"127.8.9.10:1", nil, ""},
		{"[::1]:1", nil, ""},
		{"[::ffff:127.0.0.1]:1", nil, ""},
		{"localhost:1", nil, ""},
		{"unix:s.sock", nil, ""},
		{":1", nil, "is not the loopback"},
		{"0.0.0.0:1", nil, "is not the loopback"},
		{"[::]:1", nil, "is not the loopback"},
		{"10.0.0.1:1", nil, "is not the loopback"},
		{"example.com:1", nil, "is not the loopback"},
		{"localhost.example.com:1", nil, "is not the loopback"},
		{"127.0.0.1.example.com:1", nil, "is not the loopback"},
		{"0.0.0.0:1", tls, "is not the loopback"},
		{"0.0.0.0:1", []string{"--policy=p"}, "is not the loopback"},
		{"0.0.0.0:1", with("--policy=p"), ""},
		{"0.0.0.0:1", with("--tls-client-ca=a"), ""},
		{"0.0.0.0:1", []string{"--insecure-listen"}, ""},
		{"127.0.0.1:1", []string{"--tls-cert=c"}, "go together"},
		{"127.0.0.1:1", []string{"--tls-key=k"}, "go together"},
		{"127.0.0.1:1", []string{"--tls-client-ca=a"}, "needs --tls-cert"},
		{"127.0.0.1:1", []string{"--allowed-hosts=a,b:80"}, "without ports"},
		{"127.0.0.1:1", []string{"--allowed-hosts=a,*.b"}, ""},
	} {
		for _, flag := range []string{"--listen=", "--ops-listen="} {
			_, err := parse(t, append([]string{flag + test.listen}, test.args...)...)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%s%s %v: %v, want %q", flag, test.listen, test.args, err, test.want)
			}
		}
	}
}

// A value in the file is its text, whatever its YAML type.
func TestFileText(t *testing.T) {
	c, err := parse(t, "--config="+writeFile(t, "ticket-key-file: 0123\ncache: true\ncache-max-sessions: 12\ninsecure-listen: true\nallowed-hosts: a,b\n"))
	if !c.InsecureListen || len(c.AllowedHosts) != 2 {
		t.Errorf("%v, %q", c.InsecureListen, c.AllowedHosts)
	}
	if err != nil || c.TicketKeyFile != "0123" || c.CacheMaxSessions != 12 {
		t.Errorf("%q, %d, %v", c.TicketKeyFile, c.CacheMaxSessions, err)
	}
}

// All problems are reported together, each on a line with its place. If a flag or
// variable overrides a setting, its place is not the file.
func TestProblems(t *testing.T) {
	t.Setenv("SESSAPI_CACHE_MEMROY", "1GiB")
	t.Setenv("SESSAPI_NAMESPACE", "a*")
	file := writeFile(t, "listen: 0.0.0.0:1\ncache: maybe\ncache-memory: 1KiB\nnamespace: b*\nrotate_evry: 1h\nquux: 1\nsession-max-ttl: 60s\n")
	_, err := parse(t, "--config="+file, "--session-max-ttl=169h")
	want := strings.ReplaceAll(`FILE:2: cache: must be on or off
FILE:5: unknown setting "rotate-evry"; did you mean rotate-every?
FILE:6: unknown setting "quux"
unknown variable SESSAPI_CACHE_MEMROY in the environment; did you mean SESSAPI_CACHE_MEMORY?
--namespace must be 1 to 64 letters, digits, dots, dashes and underscores
FILE:1: --listen=0.0.0.0:1 is not the loopback: set --tls-cert, --tls-key and one of --policy and --tls-client-ca, or --insecure-listen to allow anyone
FILE:3: --cache-memory must be at least 1.0MiB
--session-max-ttl must be at most 168h`, "FILE", file)
	sorted := func(text string) string { return strings.Join(slices.Sorted(strings.SplitSeq(text, "\n")), "\n") }
	if err == nil || sorted(err.Error()) != sorted(want) {
		t.Errorf("%v\nwant\n%s", err, want)
	}
}

// Kubernetes sets variables with the names of its services in each container.
func TestVariablesOfKubernetes(t *testing.T) {
	for _, name := range []string{
		"SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTPS", "PORT", "PORT_8440_TCP", "PORT_8440_TCP_ADDR", "PORT_8440_TCP_PORT", "PORT_8440_TCP_PROTO",
		"OPS_SERVICE_HOST", "OPS_SERVICE_PORT", "OPS_PORT", "OPS_PORT_8441_TCP_ADDR",
	} {
		t.Setenv("SESSAPI_"+name, "x")
	}
	if _, err := parse(t); err != nil {
		t.Error(err)
	}
}

func TestHugeFile(t *testing.T) {
	if _, err := new(source).load(strings.NewReader(strings.Repeat("# all of it is a comment\n", maxFile/20))); err == nil {
		t.Error("a huge file was read")
	}
}

func TestEmptyFile(t *testing.T) {
	for _, content := range []string{"", "# nothing\n", "{}"} {
		if _, err := parse(t, "--config="+writeFile(t, content)); err != nil {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// FuzzFile loads any configuration file. Accepted settings are valid, and a rejection
// is one line per problem.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{"", "cache-memory: 1GiB", "listen: unix:/s\n---\n", "a: &a [*a]", "cache: off\ncache: on", "rotate_every: 1h", "ticket-key-file: |\n  x", "? a", "\t", "allowed-hosts: a,b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		resolver, err := new(source).load(strings.NewReader(content))
		if err != nil && len(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\r' || r == '\n' })) != len(err.(Problems)) {
			t.Errorf("%q: more lines than problems: %q", content, err)
		}
		if err == nil && resolver == nil {
			t.Errorf("%q gives nothing", content)
		}
	})
}

// FuzzSettings reads any address, size and switch. An accepted one survives writing and
// reading.
func FuzzSettings(f *testing.F) {
	for _, seed := range []string{"127.0.0.1:8440", "unix:/run/s", "unix:", "[::1]:http", ":0", "16KiB", "1e3", "-1", "9999999999EB", "on", "true"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var address, again Address
		if address.UnmarshalText([]byte(text)) == nil {
			if err := again.UnmarshalText([]byte(address.String())); err != nil || again != address {
				t.Errorf("address %q: %v becomes %v", text, address, again)
			}
			_ = address.IsLocal()
		}
		var size Size
		if size.UnmarshalText([]byte(text)) == nil && size < 0 {
			t.Errorf("size %q is %d", text, size)
		}
		var on Switch
		_ = on.UnmarshalText([]byte(text))
	})
}
