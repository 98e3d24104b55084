package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sessapi/sessapi/internal/doctor"
	"github.com/sessapi/sessapi/internal/files"
)

// doctorCommand examines a fleet of TLS servers from outside. Its flags for the service
// are those of the other commands with the prefix server-. They have the same
// environment variables.
type doctorCommand struct {
	Targets []target `arg:"" name:"host:port" help:"The nodes. Each address of a host is a node."`

	ServerName string        `name:"servername" env:"-" placeholder:"NAME" help:"Name to send (SNI) and to expect in the certificate. The default is the host of each node."`
	CA         string        `name:"ca" env:"-" placeholder:"FILE" xor:"trust" help:"CA certificates for the nodes, PEM. The default is the CA certificates of the system."`
	Insecure   bool          `env:"-" xor:"trust" help:"Do not check the nodes' certificates."`
	Cert       string        `env:"-" placeholder:"FILE" help:"Client certificate for nodes that require one, PEM."`
	KeyFile    string        `env:"-" placeholder:"FILE" help:"Private key of --cert, PEM."`
	ALPN       []string      `name:"alpn" env:"-" placeholder:"PROTOCOL" help:"Application protocols to offer, such as h2,http/1.1."`
	Protocol   string        `env:"-" enum:"1.2,1.3,both" default:"both" help:"Versions of TLS to examine: ${enum}."`
	By         string        `env:"-" enum:"ticket,id,both" default:"both" help:"Means of resumption to examine: ${enum}. Session IDs need TLS 1.2."`
	AllPairs   bool          `env:"-" help:"Pair each node with every other one, even if there are more than 12."`
	Timeout    time.Duration `env:"-" default:"5s" help:"How long a handshake may take."`

	JSON       bool           `name:"json" env:"-" help:"Write the report as JSON, on one line."`
	Prometheus string         `env:"-" placeholder:"FILE" help:"Also write the report for the textfile collector of Prometheus' node exporter."`
	Watch      *time.Duration `env:"-" placeholder:"DURATION" help:"Repeat the examination after this pause, until stopped."`

	Server        *server `env:"SESSAPI_SERVER" placeholder:"URL" help:"Compare the keys of the nodes with those of this service: http://HOST:PORT, https://HOST:PORT or unix:PATH."`
	ServerCA      string  `env:"SESSAPI_CA" placeholder:"FILE" help:"CA certificates for the service, PEM. The default is the CA certificates of the system."`
	ServerCert    string  `env:"SESSAPI_CERT" placeholder:"FILE" help:"Client certificate for the service, PEM."`
	ServerKeyFile string  `env:"SESSAPI_KEY_FILE" placeholder:"FILE" help:"Private key of --server-cert, PEM."`
	TokenFile     string  `placeholder:"FILE" help:"File with a bearer token for the service."`
}

// target is an argument that names a node.
type target string

// UnmarshalText checks HOST:PORT.
func (t *target) UnmarshalText(text []byte) error {
	host, port, err := net.SplitHostPort(string(text))
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || host == "" || port == "" {
		return errors.New("must be HOST:PORT")
	}
	*t = target(text)
	return nil
}

// Validate implements kong's check of the flags.
func (c doctorCommand) Validate() error {
	switch {
	case (c.Cert == "") != (c.KeyFile == ""):
		return errors.New("--cert and --key-file go together")
	case c.Timeout <= 0:
		return errors.New("--timeout must be positive")
	case c.Watch != nil && *c.Watch <= 0:
		return errors.New("--watch must be positive")
	case c.By == string(doctor.ByID) && c.Protocol == doctor.TLS13.String():
		return errors.New("TLS 1.3 has no resumption by session ID: leave out --by or --protocol")
	}
	return nil
}

// Run examines the fleet and writes the report, once or until the process is told to
// stop.
func (c doctorCommand) Run(env environment) error {
	plan, err := c.plan()
	if err != nil {
		return err
	}
	for {
		healthy, err := c.examine(env, plan)
		switch {
		case env.ctx.Err() != nil && c.Watch != nil:
			return nil
		case err != nil && c.Watch != nil:
			complain(env, exitFailure, err)
		case err != nil:
			return err
		case c.Watch == nil && !healthy:
			return errors.New("the fleet is not healthy")
		case c.Watch == nil:
			return nil
		}
		select {
		case <-env.ctx.Done():
			return nil
		case <-time.After(*c.Watch):
		}
	}
}

// plan returns the doctor's plan for the flags.
func (c doctorCommand) plan() (doctor.Plan, error) {
	plan := doctor.Plan{
		Client:     doctor.Client{ServerName: c.ServerName, Insecure: c.Insecure, ALPN: c.ALPN, Timeout: c.Timeout},
		Protocols:  []doctor.Protocol{doctor.TLS12, doctor.TLS13},
		Mechanisms: []doctor.Mechanism{doctor.ByTicket, doctor.ByID},
		AllPairs:   c.AllPairs,
	}
	for _, t := range c.Targets {
		plan.Targets = append(plan.Targets, string(t))
	}
	if c.By != "both" {
		plan.Mechanisms = []doctor.Mechanism{doctor.Mechanism(c.By)}
	}
	switch {
	case c.Protocol == doctor.TLS12.String(), c.By == string(doctor.ByID):
		plan.Protocols = []doctor.Protocol{doctor.TLS12}
	case c.Protocol == doctor.TLS13.String():
		plan.Protocols = []doctor.Protocol{doctor.TLS13}
	}
	if c.CA != "" {
		certs, err := files.ReadCertificates(c.CA)
		if err != nil {
			return plan, fmt.Errorf("--ca: %s: %w", c.CA, err)
		}
		plan.Client.Roots = files.Pool(certs)
	}
	if c.Cert != "" {
		pair, err := files.ReadKeyPair(c.Cert, c.KeyFile)
		if err != nil {
			return plan, fmt.Errorf("--cert and --key-file: %w", err)
		}
		plan.Client.Certificate = []tls.Certificate{pair}
	}
	return plan, nil
}

// examine makes one report.
func (c doctorCommand) examine(env environment, plan doctor.Plan) (healthy bool, err error) {
	if c.Server != nil {
		if plan.Service, err = c.service(env); err != nil {
			return false, err
		}
	}
	progress := newProgress(env.stderr)
	plan.Progress = progress.show
	report, err := doctor.Examine(env.ctx, plan)
	progress.clear()
	if err != nil {
		return false, err
	}
	if c.JSON {
		err = json.NewEncoder(env.stdout).Encode(report)
	} else {
		if c.Watch != nil {
			fmt.Fprintln(env.stdout, time.Now().Format(time.RFC3339))
		}
		err = report.WriteTable(env.stdout, isTerminal(env.stdout) && os.Getenv("NO_COLOR") == "")
	}
	if err == nil && c.Prometheus != "" {
		if err = report.WriteMetrics(c.Prometheus, time.Now()); err != nil {
			err = fmt.Errorf("--prometheus=%s: %w", c.Prometheus, err)
		}
	}
	return report.Healthy(), err
}

// service asks the service before the handshakes: changes in between are newer.
func (c doctorCommand) service(env environment) (*doctor.Service, error) {
	r := remote{Server: *c.Server, CA: c.ServerCA, Cert: c.ServerCert, KeyFile: c.ServerKeyFile, TokenFile: c.TokenFile}
	service, err := r.client()
	if err != nil {
		return nil, err
	}
	keys, err := service.TicketKeys(env.ctx)
	if err != nil {
		return nil, r.explain(err)
	}
	consumers, err := r.consumers(env, service)
	return &doctor.Service{Keys: keys, Consumers: consumers}, err
}

// progress is a terminal line that counts the handshakes.
type progress struct {
	mu    sync.Mutex
	w     io.Writer // nil without a terminal
	shown time.Time
}

func newProgress(w io.Writer) *progress {
	if !isTerminal(w) {
		w = nil
	}
	return &progress{w: w}
}

func (p *progress) show(handshakes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.w == nil || time.Since(p.shown) < 100*time.Millisecond {
		return
	}
	p.shown = time.Now()
	fmt.Fprintf(p.w, "\r%d handshakes", handshakes)
}

func (p *progress) clear() {
	if p.w != nil && !p.shown.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
