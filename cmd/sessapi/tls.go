package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/metrics"
)

// maxPEM is more than a chain, a key or a bundle of private CAs needs, in bytes.
const maxPEM = 1 << 20

// transport is the TLS of the listeners, as the files of the settings have it.
// Files whose content changes are taken while it runs; what is broken leaves
// what was there. It is safe for concurrent use.
//
// Session tickets are sealed with keys that crypto/tls makes for each listener
// and rotates daily. The keys of the ring are never among them: whoever has one
// could forge a ticket that names any client.
type transport struct {
	cert, key, clientCA string // absolute paths; clientCA is empty without one
	log                 *slog.Logger
	record              func(detail string) error // nil without one

	checking sync.Mutex        // held while the files are read; guards what follows
	taken    [sha256.Size]byte // hash of the content that was last taken
	reported string            // the failure that goes on and has been logged; empty without one

	current           atomic.Pointer[tls.Config]
	reloadFailures    atomic.Uint64
	handshakeFailures atomic.Uint64
}

// newTransport reads the files of the settings. record, if it is not nil, is
// called with what they are before they are served. When it fails, they are not.
func newTransport(c config.Config, log *slog.Logger, record func(detail string) error) (*transport, error) {
	t := &transport{log: log, record: record}
	for path, setting := range map[*string]string{&t.cert: c.TLSCert, &t.key: c.TLSKey, &t.clientCA: c.TLSClientCA} {
		if setting == "" {
			continue
		}
		var err error
		if *path, err = filepath.Abs(setting); err != nil {
			return nil, err
		}
	}
	return t, t.take()
}

// config is that of a listener. It serves each handshake with the files as they
// are then.
func (t *transport) config() *tls.Config {
	c := t.current.Load().Clone()
	// Its answer has no ticket keys, and so those of c serve.
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.current.Load(), nil }
	return c
}

// leaf is the certificate that is served.
func (t *transport) leaf() *x509.Certificate { return t.current.Load().Certificates[0].Leaf }

// names are those of the certificate.
func (t *transport) names() []string { return t.leaf().DNSNames }

func (t *transport) figures() metrics.TLS {
	return metrics.TLS{
		NotAfter:          t.leaf().NotAfter,
		ReloadFailures:    t.reloadFailures.Load(),
		HandshakeFailures: t.handshakeFailures.Load(),
	}
}

// watch takes the files whenever they change, until ctx ends.
func (t *transport) watch(ctx context.Context) {
	paths := []string{t.cert, t.key}
	if t.clientCA != "" {
		paths = append(paths, t.clientCA)
	}
	files.Watch(ctx, t.log, "TLS certificate", t.check, paths...)
}

// reload takes the files now. Who asks again is told of a failure again.
func (t *transport) reload() {
	t.checking.Lock()
	t.reported = ""
	t.checking.Unlock()
	t.check()
}

// check takes the files and says why when it cannot. A failure that goes on is
// counted and logged once, whatever else happens in the directory. It returns
// false for one.
func (t *transport) check() (taken bool) {
	t.checking.Lock()
	defer t.checking.Unlock()
	err := t.take()
	switch {
	case err == nil:
		t.reported = ""
	case err.Error() != t.reported:
		t.reported = err.Error()
		t.reloadFailures.Add(1)
		t.log.Error("the TLS files cannot be taken; those from before stay", slog.String("error", t.reported))
	}
	return err == nil
}

// take serves what is in the files, unless that is what was taken last.
func (t *transport) take() error {
	cert, _, err := files.Read(t.cert, maxPEM)
	if err != nil {
		return fmt.Errorf("--tls-cert: %s: %w", t.cert, err)
	}
	key, mode, err := files.Read(t.key, maxPEM)
	if err != nil {
		return fmt.Errorf("--tls-key: %s: %w", t.key, err)
	}
	defer clear(key)
	var ca []byte
	if t.clientCA != "" {
		if ca, _, err = files.Read(t.clientCA, maxPEM); err != nil {
			return fmt.Errorf("--tls-client-ca: %s: %w", t.clientCA, err)
		}
	}
	hash := sha256.New()
	for _, data := range [][]byte{cert, key, ca} {
		sum := sha256.Sum256(data)
		hash.Write(sum[:])
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	if sum == t.taken {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("--tls-cert and --tls-key: %w", err)
	}
	c := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{pair},
	}
	if t.clientCA != "" {
		if c.ClientCAs, err = parseCertificates(ca); err != nil {
			return fmt.Errorf("--tls-client-ca: %s: %w", t.clientCA, err)
		}
		// Whether there has to be one is decided with the request: health needs
		// none, and a policy knows other credentials.
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	if t.record != nil {
		detail := fmt.Sprintf("certificate with the SHA-256 hash %x", sha256.Sum256(pair.Leaf.Raw))
		if t.clientCA != "" {
			detail += fmt.Sprintf(", file of client CAs with %x", sha256.Sum256(ca))
		}
		if err := t.record(detail); err != nil {
			return fmt.Errorf("--tls-cert: cannot be recorded: %w", err)
		}
	}
	t.taken = sum
	t.current.Store(c)
	files.WarnLoose(t.log, "TLS key", t.key, mode)
	if left := time.Until(pair.Leaf.NotAfter); left <= 0 {
		t.log.Warn("the TLS certificate has expired", slog.Time("not_after", pair.Leaf.NotAfter))
	}
	t.log.Info("TLS certificate taken", slog.String("path", t.cert), slog.Time("not_after", pair.Leaf.NotAfter))
	return nil
}

// parseCertificates reads a PEM file of certificates. Unlike
// [x509.CertPool.AppendCertsFromPEM] it passes over nothing.
func parseCertificates(data []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	empty := true
	for rest := bytes.TrimSpace(data); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("has something other than certificates in it")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(cert)
		empty = false
	}
	if empty {
		return nil, errors.New("has no certificate in it")
	}
	return pool, nil
}

// handshakeLog is the log of a server, with failed handshakes counted and at
// debug level: anybody who connects can make them. net/http tells of them by
// text alone.
type handshakeLog struct {
	slog.Handler
	failures *atomic.Uint64
}

// Enabled is part of [slog.Handler]. What is not logged is counted.
func (h handshakeLog) Enabled(context.Context, slog.Level) bool { return true }

// Handle is part of [slog.Handler].
func (h handshakeLog) Handle(ctx context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "http: TLS handshake error") {
		h.failures.Add(1)
		r.Level = slog.LevelDebug
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}
