package server

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sessapi/sessapi/internal/files"
)

// TLSFiles names PEM files.
type TLSFiles struct {
	Cert     string // certificate with its chain
	Key      string // its private key
	ClientCA string // certificates that sign those of clients; empty without any
}

// TLS holds certificate, key and client CAs. It reloads the files when their content
// changes; if that fails, the previous version stays in use. It is safe for concurrent
// use.
//
// Session tickets are sealed with keys that crypto/tls makes for each listener
// and rotates daily. The keys of the ring are never among them: whoever has one
// could forge a ticket that names any client.
type TLS struct {
	*files.Followed
	files  TLSFiles // as absolute paths
	log    *slog.Logger
	record func(detail string) error // nil without one

	loaded  [sha256.Size]byte // hash of the content that was last loaded; for load alone
	current atomic.Pointer[tls.Config]
	roots   atomic.Pointer[map[string]bool] // the certificates of clientCA, by their DER
}

// OpenTLS loads the files. If record is not nil, it is called with a description of
// each new version before that is used; if record fails, the version is not used.
func OpenTLS(f TLSFiles, log *slog.Logger, record func(detail string) error) (*TLS, error) {
	t := &TLS{files: f, log: log, record: record}
	var err error
	for _, path := range []*string{&t.files.Cert, &t.files.Key, &t.files.ClientCA} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	t.Followed, err = files.Follow(log, "TLS certificate", t.load)
	return t, err
}

// config is that of a listener. It serves each handshake with the files as they
// are then.
func (t *TLS) config() *tls.Config {
	c := t.current.Load().Clone()
	// Its answer has no ticket keys, and so those of c serve.
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.current.Load(), nil }
	return c
}

// Leaf returns the certificate in use.
func (t *TLS) Leaf() *x509.Certificate { return t.current.Load().Certificates[0].Leaf }

// Names returns the DNS names of the certificate.
func (t *TLS) Names() []string { return t.Leaf().DNSNames }

// Trusts reports whether a client certificate is still trusted: whether one of the
// chains, which verified it when the client connected, ends in a current client CA.
func (t *TLS) Trusts(chains [][]*x509.Certificate) bool {
	roots := *t.roots.Load()
	return slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool {
		return roots[string(chain[len(chain)-1].Raw)]
	})
}

// load serves what is in the files, unless that is what was loaded last.
func (t *TLS) load() (changed bool, err error) {
	cert, _, err := files.ReadText(t.files.Cert, files.MaxPEM)
	if err != nil {
		return false, fmt.Errorf("--tls-cert: %s: %w", t.files.Cert, err)
	}
	key, mode, err := files.ReadText(t.files.Key, files.MaxPEM)
	if err != nil {
		return false, fmt.Errorf("--tls-key: %s: %w", t.files.Key, err)
	}
	defer clear(key)
	var ca []byte
	var caMode fs.FileMode
	if t.files.ClientCA != "" {
		if ca, caMode, err = files.ReadText(t.files.ClientCA, files.MaxPEM); err != nil {
			return false, fmt.Errorf("--tls-client-ca: %s: %w", t.files.ClientCA, err)
		}
	}
	hash := sha256.New()
	for _, data := range [][]byte{cert, key, ca} {
		sum := sha256.Sum256(data)
		hash.Write(sum[:])
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	if sum == t.loaded {
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
	if t.files.ClientCA != "" {
		certs, err := files.ParseCertificates(ca)
		if err != nil {
			return false, fmt.Errorf("--tls-client-ca: %s: %w", t.files.ClientCA, err)
		}
		c.ClientCAs = files.Pool(certs)
		for _, cert := range certs {
			roots[string(cert.Raw)] = true
		}
		// Whether there has to be one is decided with the request: health needs
		// none, and a policy knows other credentials.
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	if t.record != nil {
		detail := fmt.Sprintf("certificate with the SHA-256 hash %x", sha256.Sum256(pair.Leaf.Raw))
		if t.files.ClientCA != "" {
			detail += fmt.Sprintf(", file of client CAs with %x", sha256.Sum256(ca))
		}
		if err := t.record(detail); err != nil {
			return false, fmt.Errorf("--tls-cert: cannot be recorded: %w", err)
		}
	}
	t.loaded = sum
	t.roots.Store(&roots) // first, for who connects by c has requests at once
	t.current.Store(c)
	files.WarnLoose(t.log, "TLS key", t.files.Key, mode, files.Secret)
	files.WarnLoose(t.log, "client CA", t.files.ClientCA, caMode, files.Trusted)
	if left := time.Until(pair.Leaf.NotAfter); left <= 0 {
		t.log.Warn("the TLS certificate has expired", slog.Time("not_after", pair.Leaf.NotAfter))
	}
	t.log.Info("TLS certificate loaded", slog.String("path", t.files.Cert), slog.Time("not_after", pair.Leaf.NotAfter))
	return true, nil
}
