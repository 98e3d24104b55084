package app

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
	"github.com/sessapi/sessapi/internal/seal"
)

// A finding is an error if a service would not start with it, else a warning.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	policy := func(expires time.Duration) func(*config.Config) {
		return func(c *config.Config) {
			c.Policy = path(fmt.Sprint("policy", expires))
			write(t, c.Policy, fmt.Appendf(nil, "identities:\n- name: a\n  roles: [observe]\n  tokens:\n  - {sha256: %q, expires: %s}\n",
				strings.Repeat("0a", 32), time.Now().Add(expires).UTC().Format(time.RFC3339)))
		}
	}
	listen := func(address string) func(*config.Config) {
		return func(c *config.Config) { c.Listen.Address = address }
	}
	used, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer used.Close()
	server := redistest.Start(t, "--requirepass", "a secret")
	write(t, path("wrong"), []byte("secret"))
	write(t, path("right"), []byte("default\na secret"))
	write(t, path("seal"), seal.GenerateKey())
	redis := func(authFile string) func(*config.Config) {
		return func(c *config.Config) {
			c.Redis, c.Namespace, c.SealKeyFile = server.URL(), "check", path("seal")
			c.RedisReadTimeout, c.RedisMaxStale = time.Second, time.Second
			if authFile != "" {
				c.RedisAuthFile = path(authFile)
			}
		}
	}
	for _, test := range []struct {
		name, failure, warning string
		change                 func(*config.Config)
	}{
		{name: "nothing", change: func(*config.Config) {}},
		{name: "a token that ends in 8 days", change: policy(8 * 24 * time.Hour)},
		{name: "a token that ends in 6 days", change: policy(6 * 24 * time.Hour), warning: `:5: the token of identity "a" expires at `},
		{name: "a token that has ended", change: policy(-time.Hour), warning: `:5: the token of identity "a" expired at `},
		{name: "a certificate that ends in an hour", warning: "--tls-cert: the certificate of ", change: func(c *config.Config) {
			with := tlsSettings(t, newIdentity(t, "server", nil))
			c.TLSCert, c.TLSKey = with.TLSCert, with.TLSKey
		}},
		{name: "an address in use", change: listen(used.Addr().String()), warning: "--listen: " + used.Addr().String() + " is in use"},
		{name: "an address of another machine", change: listen("192.0.2.1:0"), failure: "--listen: "},
		{name: "Redis without its password", change: redis(""), failure: "--redis: the server requires a password: set --redis-auth-file to a file that holds it"},
		{name: "Redis with a wrong password", change: redis("wrong"), failure: "--redis: the server rejected the user or the password in --redis-auth-file"},
		{name: "Redis without TLS, which says nothing to TLS", failure: "--redis: no answer: ", change: func(c *config.Config) {
			redis("right")(c)
			c.Redis = "rediss://" + used.Addr().String()
		}},
		{name: "Redis", change: redis("right")},
		{name: "Redis without its password, and a state", warning: "; the service starts with the ticket keys of the state file", change: func(c *config.Config) {
			redis("")(c)
			c.StateFile = path("state")
			alone := *c
			alone.Redis = ""
			if err := start(t, alone).Stop(); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := settings()
			test.change(&c)
			failures, warnings := Check(t.Context(), c)
			for kind, found := range map[string]struct {
				errs []error
				want string
			}{"failures": {failures, test.failure}, "warnings": {warnings, test.warning}} {
				text := fmt.Sprint(errors.Join(found.errs...))
				if len(found.errs) != min(1, len(found.want)) || found.want != "" && !strings.Contains(text, found.want) {
					t.Errorf("%s: %s, want %q", kind, text, found.want)
				}
				if strings.Contains(text, "secret") {
					t.Errorf("%s show a password: %s", kind, text)
				}
			}
		})
	}
}

// A Redis that accepts connections but stays silent, like one without TLS to a TLS
// client, causes a clear error.
func TestCheckSilentRedis(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	sealKey := filepath.Join(t.TempDir(), "seal.key")
	if err := os.WriteFile(sealKey, seal.GenerateKey(), 0o600); err != nil {
		t.Fatal(err)
	}
	k := &checker{c: config.Config{
		Redis: "rediss://" + listener.Addr().String(), SealKeyFile: sealKey,
		Namespace: "test", RedisReadTimeout: 50 * time.Millisecond, RedisMaxStale: 5 * time.Second,
	}}
	k.redis(t.Context())
	if len(k.failures) != 1 || !strings.HasPrefix(k.failures[0].Error(), "--redis: no answer: ") {
		t.Errorf("%v", k.failures)
	}
}
