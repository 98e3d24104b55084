package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
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
	*files.Followed
	cert, key, clientCA string // absolute paths; clientCA is empty without one
	log                 *slog.Logger
	record              func(detail string) error // nil without one

	taken   [sha256.Size]byte // hash of the content that was last taken; for take alone
	current atomic.Pointer[tls.Config]
	roots   atomic.Pointer[map[string]bool] // the certificates of clientCA, by their DER

	handshakeFailures atomic.Uint64
}

// newTransport reads the files of the settings. record, if it is not nil, is
// called with what they are before they are served. When it fails, they are not.
func newTransport(c config.Config, log *slog.Logger, record func(detail string) error) (*transport, error) {
	t := &transport{log: log, record: record}
	var err error
	for path, setting := range map[*string]string{&t.cert: c.TLSCert, &t.key: c.TLSKey, &t.clientCA: c.TLSClientCA} {
		if setting == "" {
			continue
		}
		if *path, err = filepath.Abs(setting); err != nil {
			return nil, err
		}
	}
	t.Followed, err = files.Follow(log, "TLS certificate", t.take)
	return t, err
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

// trusts reports whether one of the chains, by which the certificate of a client was
// verified when it connected, ends in what is a client CA now.
func (t *transport) trusts(chains [][]*x509.Certificate) bool {
	roots := *t.roots.Load()
	return slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool {
		return roots[string(chain[len(chain)-1].Raw)]
	})
}

func (t *transport) figures() metrics.TLS {
	return metrics.TLS{
		NotAfter:          t.leaf().NotAfter,
		ReloadFailures:    t.Status().Failures,
		HandshakeFailures: t.handshakeFailures.Load(),
	}
}

// take serves what is in the files, unless that is what was taken last.
func (t *transport) take() (changed bool, err error) {
	cert, _, err := files.Read(t.cert, maxPEM)
	if err != nil {
		return false, fmt.Errorf("--tls-cert: %s: %w", t.cert, err)
	}
	key, mode, err := files.Read(t.key, maxPEM)
	if err != nil {
		return false, fmt.Errorf("--tls-key: %s: %w", t.key, err)
	}
	defer clear(key)
	var ca []byte
	var caMode fs.FileMode
	if t.clientCA != "" {
		if ca, caMode, err = files.Read(t.clientCA, maxPEM); err != nil {
			return false, fmt.Errorf("--tls-client-ca: %s: %w", t.clientCA, err)
		}
	}
	hash := sha256.New()
	for _, data := range [][]byte{cert, key, ca} {
		sum := sha256.Sum256(data)
		hash.Write(sum[:])
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	if sum == t.taken {
		return false, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, fmt.Errorf("--tls-cert and --tls-key: %w", err)
	}
	c := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{pair},
	}
	roots := map[string]bool{}
	if t.clientCA != "" {
		certs, err := parseCertificates(ca)
		if err != nil {
			return false, fmt.Errorf("--tls-client-ca: %s: %w", t.clientCA, err)
		}
		c.ClientCAs = poolOf(certs)
		for _, cert := range certs {
			roots[string(cert.Raw)] = true
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
			return false, fmt.Errorf("--tls-cert: cannot be recorded: %w", err)
		}
	}
	t.taken = sum
	t.roots.Store(&roots) // first, for who connects by c has requests at once
	t.current.Store(c)
	files.WarnLoose(t.log, "TLS key", t.key, mode, files.Secret)
	files.WarnLoose(t.log, "client CA", t.clientCA, caMode, files.Trusted)
	if left := time.Until(pair.Leaf.NotAfter); left <= 0 {
		t.log.Warn("the TLS certificate has expired", slog.Time("not_after", pair.Leaf.NotAfter))
	}
	t.log.Info("TLS certificate taken", slog.String("path", t.cert), slog.Time("not_after", pair.Leaf.NotAfter))
	return true, nil
}

// parseCertificates reads a PEM file of certificates. Unlike
// [x509.CertPool.AppendCertsFromPEM] it passes over nothing.
func parseCertificates(data []byte) (certs []*x509.Certificate, err error) {
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
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("has no certificate in it")
	}
	return certs, nil
}

func poolOf(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}
