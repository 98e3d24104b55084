package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/state"
	"github.com/sessapi/sessapi/internal/yamlfile"
)

const (
	// expiresSoon is how long before expiry Check warns of a token or certificate.
	expiresSoon = 7 * 24 * time.Hour
	// checkTimeout is how long Check waits for Redis.
	checkTimeout = 5 * time.Second
)

// Check returns failures, which would keep a service from starting with the settings,
// and warnings about settings that should change. It locks and changes nothing, and
// skips settings with problems of their own.
func Check(ctx context.Context, c config.Config) (failures, warnings []error) {
	k := &checker{c: c}
	for _, check := range []func(){k.keys, k.state, k.auditLog, k.tls, k.policy, k.addresses, k.memory, k.modes} {
		check()
	}
	k.redis(ctx)
	return k.failures, k.warnings
}

// checker collects the findings of Check.
type checker struct {
	c                  config.Config
	failures, warnings []error
}

// at prefixes an error with the place of its setting.
func (k *checker) at(flag string, err error) error {
	if place := k.c.Place(flag); place != "" {
		return fmt.Errorf("%s: %w", place, err)
	}
	return err
}

func (k *checker) fail(flag string, err error) {
	if err != nil {
		k.failures = append(k.failures, k.at(flag, err))
	}
}

func (k *checker) warn(flag, format string, args ...any) {
	k.warnings = append(k.warnings, k.at(flag, fmt.Errorf(format, args...)))
}

func (k *checker) keys() {
	life, err := lifecycle(k.c)
	if err != nil {
		k.failures = append(k.failures, err)
	}
	if k.c.TicketKeyFile != "" {
		if _, err := keys.OpenFile(k.c.TicketKeyFile, keys.NewRing(time.Now, life), slog.New(slog.DiscardHandler), nil); err != nil {
			k.fail("ticket-key-file", fmt.Errorf("--ticket-key-file: %w", err))
		}
	}
}

func (k *checker) state() {
	sealKeys, err := readSealKeys(k.c, slog.New(slog.DiscardHandler))
	k.fail("seal-key-file", err)
	if k.c.StateFile == "" {
		return
	}
	err = writable(filepath.Dir(k.c.StateFile))
	if sealKeys != nil {
		err = errors.Join(err, state.Check(k.c.StateFile, sealKeys), state.CheckConsumers(k.c.StateFile, sealKeys))
		if k.c.Cache {
			err = errors.Join(err, state.CheckSessions(k.c.StateFile, sealKeys))
		}
	}
	if err != nil {
		k.fail("state-file", fmt.Errorf("--state-file: %w", err))
	}
}

func (k *checker) auditLog() {
	path := k.c.AuditLog
	if path == "" || path == audit.Stderr {
		return
	}
	err := writable(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = writable(filepath.Dir(path))
	} else if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", path)
	}
	if err != nil {
		k.fail("audit-log", fmt.Errorf("--audit-log: %w", err))
	}
}

// writable returns why this process may not write the file or add files to the
// directory. It changes neither.
func writable(path string) error {
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("%s cannot be written: %w", path, err)
	}
	return nil
}

func (k *checker) tls() {
	if k.c.TLSCert == "" || k.c.TLSKey == "" {
		return
	}
	unread := false
	for _, f := range k.c.Files() {
		if f.Flag != "tls-cert" && f.Flag != "tls-key" && f.Flag != "tls-client-ca" {
			continue
		}
		data, _, err := files.ReadText(f.Path, files.MaxPEM)
		clear(data)
		if err != nil {
			k.fail(f.Flag, fmt.Errorf("--%s: %s: %w", f.Flag, f.Path, err))
			unread = true
		}
	}
	if unread {
		return
	}
	t, err := loadTLS(k.c, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		k.fail("tls-cert", err)
		return
	}
	if end := t.Leaf().NotAfter; time.Until(end) < expiresSoon {
		k.warn("tls-cert", "--tls-cert: the certificate of %s %s", k.c.TLSCert, ends(end))
	}
}

// ends says when something expires or that it has expired.
func ends(at time.Time) string {
	verb := "expires"
	if !time.Now().Before(at) {
		verb = "expired"
	}
	return verb + " at " + at.UTC().Format(time.RFC3339)
}

// policy checks for errors of the policy, and for credentials that prove nothing.
func (k *checker) policy() {
	path := k.c.Policy
	if path == "" {
		return
	}
	data, _, err := files.Read(path, auth.MaxPolicyBytes)
	if err != nil {
		k.fail("policy", fmt.Errorf("--policy: %s: %w", path, err))
		return
	}
	policy, err := auth.Parse(data)
	if err != nil {
		for _, e := range yamlfile.All(err) {
			k.failures = append(k.failures, placed(path, e.Line, e.Text))
		}
		return
	}
	socket := k.c.Listen.Network == "unix" || k.c.OpsListen != nil && k.c.OpsListen.Network == "unix"
	for _, credential := range policy.Credentials() {
		var why string
		switch end := credential.Expires; {
		case credential.Hash == sha256.Sum256(nil):
			why = "never matches: the hash is that of empty input"
		case credential.Kind == auth.Certificate && k.c.TLSClientCA == "":
			why = "never matches without --tls-client-ca"
		case credential.Kind == auth.UID && !socket:
			why = "never matches: the service does not listen on a Unix socket"
		case !end.IsZero() && time.Until(end) < expiresSoon:
			why = ends(end)
		default:
			continue
		}
		k.warnings = append(k.warnings, placed(path, credential.Line, fmt.Sprintf("the %s of identity %q %s", credential.Kind, credential.Identity, why)))
	}
}

// placed returns an error for a line of a file.
func placed(path string, line int, text string) error {
	return fmt.Errorf("%s: %s", yamlfile.Place(path, line), text)
}

// addresses checks for addresses that cannot be bound. An address in use is only a
// warning: the service with these settings may be running.
func (k *checker) addresses() {
	k.address("listen", k.c.Listen)
	if k.c.OpsListen != nil {
		k.address("ops-listen", *k.c.OpsListen)
	}
}

func (k *checker) address(flag string, a config.Address) {
	var err error
	if a.Network == "unix" {
		if err = files.CheckSocket(a.Address); errors.Is(err, fs.ErrNotExist) {
			err = writable(filepath.Dir(a.Address))
		}
	} else {
		var listener net.Listener
		if listener, err = net.Listen(a.Network, a.Address); err == nil {
			_ = listener.Close()
		}
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		k.warn(flag, "--%s: %s is in use; stop the process that listens there before you start the service", flag, a)
	case err != nil:
		k.fail(flag, fmt.Errorf("--%s: %w", flag, err))
	}
}

// memory compares the cache with the memory limit of the process.
func (k *checker) memory() {
	if most, limit := memoryLimit("/"); k.c.Cache && most > 0 && uint64(k.c.CacheMemory) > most {
		k.warn("cache-memory", "--cache-memory=%v is more than the %s of %s: the system would kill the service when the cache fills",
			k.c.CacheMemory, humanize.IBytes(most), limit)
	}
}

// modes checks for files that users other than their owner can read or change.
func (k *checker) modes() {
	for _, f := range k.c.Files() {
		info, err := os.Stat(f.Path)
		if err != nil || !info.Mode().IsRegular() {
			continue // the check of its setting reports it
		}
		forbidden, advice := files.Trusted, "chmod go-w"
		if f.Secret {
			forbidden, advice = files.Secret, "chmod go-rw"
		}
		if info.Mode().Perm()&forbidden != 0 {
			k.warn(f.Flag, "--%s: file permissions are too open (%s): %s %s", f.Flag, info.Mode().Perm(), advice, f.Path)
		}
	}
}

// redis connects to Redis. Without Redis a service starts only with a state file.
func (k *checker) redis(ctx context.Context) {
	if !k.c.UsesRedis() {
		return
	}
	log := slog.New(slog.DiscardHandler)
	sealKeys, err := readSealKeys(k.c, log)
	if err != nil || sealKeys == nil {
		return // state reports it
	}
	node, err := newNode(k.c, sealKeys, log)
	if err != nil {
		k.fail("redis", err)
		return
	}
	defer node.Close()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err = within(ctx, func() error { return node.Connect(ctx) })
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("no answer: the address is wrong, or only one side speaks TLS (rediss://)")
	}
	switch {
	case err == nil:
	case k.c.StateFile != "" && exists(k.c.StateFile):
		k.warn("redis", "--redis: %w; the service starts with the ticket keys of the state file", err)
	default:
		k.fail("redis", fmt.Errorf("--redis: %w", err))
	}
}
