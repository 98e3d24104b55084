package files

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// MaxPEM is more than a chain, a key or a bundle of private CAs needs, in bytes.
const MaxPEM = 1 << 20

// ReadCertificates reads a PEM file of certificates and nothing else.
func ReadCertificates(path string) ([]*x509.Certificate, error) {
	data, _, err := ReadText(path, MaxPEM)
	if err != nil {
		return nil, err
	}
	return ParseCertificates(data)
}

// ParseCertificates parses PEM blocks of certificates. Unlike
// [x509.CertPool.AppendCertsFromPEM] it skips nothing.
func ParseCertificates(data []byte) (certs []*x509.Certificate, err error) {
	for rest := bytes.TrimSpace(data); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("contains something other than certificates")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("contains no certificate")
	}
	return certs, nil
}

// Pool is a pool of the certificates.
func Pool(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}

// ReadKeyPair reads a certificate and its key. Its errors name the file.
func ReadKeyPair(certPath, keyPath string) (pair tls.Certificate, err error) {
	cert, _, err := ReadText(certPath, MaxPEM)
	if err != nil {
		return pair, fmt.Errorf("%s: %w", certPath, err)
	}
	key, _, err := ReadText(keyPath, MaxPEM)
	if err != nil {
		return pair, fmt.Errorf("%s: %w", keyPath, err)
	}
	defer clear(key)
	return tls.X509KeyPair(cert, key)
}

// ClientTLS is the TLS of a client that trusts the certificates in one file, and
// presents that of two others; without a name the system's, and none. It is nil without
// any.
func ClientTLS(ca, cert, key string) (*tls.Config, error) {
	if ca == "" && cert == "" && key == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		certs, err := ReadCertificates(ca)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ca, err)
		}
		c.RootCAs = Pool(certs)
	}
	if cert == "" && key == "" {
		return c, nil
	}
	if cert == "" || key == "" {
		return nil, errors.New("a client certificate and its key go together")
	}
	pair, err := ReadKeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
