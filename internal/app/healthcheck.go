package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/sessapi/sessapi/internal/config"
)

const healthcheckTimeout = 5 * time.Second

// Healthcheck queries /readyz of the service with the same settings, and returns why it
// is not ready. A container can check itself this way.
func Healthcheck(ctx context.Context, c config.Config) error {
	address := c.Listen
	if c.OpsListen != nil {
		address = *c.OpsListen
	}
	ctx, cancel := context.WithTimeout(ctx, healthcheckTimeout)
	defer cancel()
	scheme := "http"
	var tlsConfig *tls.Config
	if c.TLSCert != "" && address.Network == "tcp" {
		scheme = "https"
		t, err := loadTLS(c, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			return err
		}
		tlsConfig = trustOnly(t.Leaf())
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+dialable(address)+"/readyz", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{
		TLSClientConfig:   tlsConfig,
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			var dialer net.Dialer
			if address.Network == "unix" {
				network, addr = "unix", address.Address
			}
			return dialer.DialContext(ctx, network, addr)
		},
	}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("the service at %s does not answer: %w", address, err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusServiceUnavailable:
		return fmt.Errorf("the service at %s is not ready: %s", address, response.Status)
	}
	return fmt.Errorf("the service at %s answers %s: healthcheck needs the service's settings, --tls-cert and --ops-listen included", address, response.Status)
}

// trustOnly trusts only this certificate, under any name.
func trustOnly(leaf *x509.Certificate) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does more
		VerifyConnection: func(state tls.ConnectionState) error {
			if !state.PeerCertificates[0].Equal(leaf) {
				return errors.New("its certificate is not that of --tls-cert")
			}
			return nil
		},
	}
}

// dialable returns host and port of a URL for a listener's address. For a listener on
// all addresses, it is loopback.
func dialable(a config.Address) string {
	if a.Network == "unix" {
		return "localhost"
	}
	host, port, _ := net.SplitHostPort(a.Address) // the address was parsed before
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
