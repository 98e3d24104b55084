package app

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/metrics"
	"github.com/sessapi/sessapi/internal/server"
)

const (
	// Time limits for sending a response. A profile takes as long as requested.
	writeTimeout    = 30 * time.Second
	opsWriteTimeout = 2 * time.Minute
	// opsConnections is the maximum number of connections on the operations listener.
	opsConnections = 256
)

func openTLS(a *App) (part, error) {
	a.metrics.SetInsecureListen(a.cfg.InsecureListen)
	if a.cfg.InsecureListen {
		a.log.Warn("--insecure-listen is set", "what", insecurity(a.cfg))
	}
	if a.cfg.TLSCert == "" {
		return part{}, nil
	}
	files, err := loadTLS(a.cfg, a.log, func(detail string) error {
		return a.recordFile("tls certificate", "tls files", detail)
	})
	if err != nil {
		return part{}, err
	}
	a.tls = files
	a.handlers.CertificateNames, a.handlers.TrustsClient = files.Names, files.Trusts
	return part{
		name: "tls", run: files.Watch, reload: files.Reload,
		metrics: func(m *metrics.Metrics) {
			m.AddTLS(func() metrics.TLS {
				return metrics.TLS{NotAfter: files.Leaf().NotAfter, ReloadFailures: files.Status().Failures}
			})
		},
	}, nil
}

// loadTLS loads the TLS files of the settings.
func loadTLS(c config.Config, log *slog.Logger, record func(string) error) (*server.TLS, error) {
	return server.OpenTLS(server.TLSFiles{Cert: c.TLSCert, Key: c.TLSKey, ClientCA: c.TLSClientCA}, log, record)
}

// insecurity says what --insecure-listen permits.
func insecurity(c config.Config) string {
	switch {
	case c.Policy == "" && c.TLSClientCA == "":
		return "anyone who can connect can read and change keys and sessions"
	case c.TLSCert == "":
		return "anyone on the network path can read tokens, keys and sessions, and use the tokens"
	}
	return "it has no effect, because TLS and credentials are set; remove it"
}

// allowedHosts returns the service's host names in the settings.
func allowedHosts(c config.Config) []string {
	names := slices.Clone(c.AllowedHosts)
	for _, address := range []*config.Address{&c.Listen, c.OpsListen} {
		if address != nil && address.Network == "tcp" && address.Host() != "" {
			names = append(names, address.Host())
		}
	}
	return names
}

func openOperations(a *App) (part, error) {
	if a.cfg.OpsListen == nil {
		return part{}, nil
	}
	return a.listen("operations", *a.cfg.OpsListen, a.api.OpsHandler(), opsConnections, opsWriteTimeout)
}

func openMain(a *App) (part, error) {
	handler := a.api.Handler()
	if a.cfg.OpsListen != nil {
		handler = a.api.MainHandler()
	}
	return a.listen("main", a.cfg.Listen, handler, a.cfg.MaxConnections, writeTimeout)
}

// listen binds a server to an address.
func (a *App) listen(name string, address config.Address, handler http.Handler, connections int, writeTimeout time.Duration) (part, error) {
	mode := os.FileMode(0o600)
	if a.policy != nil {
		mode = 0o666 // the policy says which users may do what
	}
	s, err := server.Listen(server.Config{
		Network: address.Network, Address: address.Address, SocketMode: mode,
		Handler: handler, TLS: a.tls, MaxConnections: connections, WriteTimeout: writeTimeout,
		ProtocolError: a.metrics.ProtocolError, Log: a.log,
	})
	if err != nil {
		return part{}, err
	}
	a.servers = append(a.servers, s)
	a.log.Info("listening", "name", name, "address", s.Addr().String(), "tls", s.TLS())
	return part{
		name: name + "_listener", serve: s.Serve,
		stop: func(ctx context.Context) error {
			if end, ok := ctx.Deadline(); ok {
				var cancel context.CancelFunc
				ctx, cancel = context.WithDeadline(ctx, end.Add(-closeTimeout))
				defer cancel()
			}
			return s.Stop(ctx)
		},
		metrics: func(m *metrics.Metrics) { m.AddConnections(name, connections, s.Connections) },
	}, nil
}
