package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/files"
)

// sessionsCommand handles the sessions of a service.
type sessionsCommand struct {
	List   sessionsListCommand   `cmd:"" help:"List the sessions of the service."`
	Get    sessionsGetCommand    `cmd:"" help:"Describe a session, or fetch it with --format."`
	Put    sessionsPutCommand    `cmd:"" help:"Store a session."`
	Delete sessionsDeleteCommand `cmd:"" help:"Remove a session."`
	Flush  sessionsFlushCommand  `cmd:"" help:"Remove all sessions."`
}

// maxSessionFile limits a session file, in bytes. It is more than the largest session
// needs in PEM with text around it.
const maxSessionFile = 128 << 10

// sessionID is an argument that names a session.
type sessionID string

// UnmarshalText reads an ID.
func (id *sessionID) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) < 1 || len(raw) > 32 {
		return errors.New("must be the ID of a session, 2 to 64 hex digits")
	}
	*id = sessionID(text)
	return nil
}

type sessionsListCommand struct {
	remote
}

// Run lists all sessions.
func (c sessionsListCommand) Run(env environment) error {
	service, err := c.client()
	if err != nil {
		return err
	}
	// A tabwriter would buffer all lines.
	out := bufio.NewWriter(env.stdout)
	const columns = "%-64s  %5v  %-9s  %-24s  %s\n"
	fmt.Fprintf(out, columns, "ID", "SIZE", "FORMAT", "STORED", "EXPIRES")
	for s, err := range service.Sessions(env.ctx) {
		if err != nil {
			return c.explain(err)
		}
		fmt.Fprintf(out, columns, s.ID, s.Size, s.Format, s.StoredAt.Format(timeFormat), s.ExpiresAt.Format(timeFormat))
	}
	return out.Flush()
}

// sessionFormat is a flag that says how to fetch a session.
type sessionFormat string

// UnmarshalText reads a format.
func (f *sessionFormat) UnmarshalText(text []byte) error {
	*f = sessionFormat(text)
	if *f != "raw" && *f != "pem" {
		return errors.New("must be raw or pem")
	}
	return nil
}

type sessionsGetCommand struct {
	remote
	ID     sessionID     `arg:"" help:"ID of the session in hex."`
	Format sessionFormat `env:"-" placeholder:"FORMAT" help:"Fetch the session with its secret: raw (the stored bytes) or pem (only sessions that OpenSSL can load)."`
	Out    string        `env:"-" placeholder:"FILE" help:"With --format, the file to write, with mode 0600. The default is standard output. - writes a binary session even to a terminal."`
}

// Validate implements kong's check of the flags.
func (c sessionsGetCommand) Validate() error {
	if c.Out != "" && c.Format == "" {
		return errors.New("--out needs --format=raw or --format=pem")
	}
	return nil
}

// Run describes or fetches the session.
func (c sessionsGetCommand) Run(env environment) error {
	service, err := c.client()
	if err != nil {
		return err
	}
	if c.Format == "" {
		s, err := service.Session(env.ctx, string(c.ID))
		if err != nil {
			return c.explain(err)
		}
		return writeSession(env.stdout, s)
	}
	if c.Format == "raw" && c.Out == "" && isTerminal(env.stdout) {
		return errors.New("standard output is a terminal and the session is binary: --out=FILE writes it to a file, --out=- to the terminal")
	}
	fetch := service.SessionBytes
	if c.Format == "pem" {
		fetch = service.SessionPEM
	}
	data, err := fetch(env.ctx, string(c.ID))
	if err != nil {
		return c.explain(err)
	}
	defer clear(data)
	if c.Out != "" && c.Out != "-" {
		return files.Replace(c.Out, data)
	}
	_, err = env.stdout.Write(data)
	return err
}

// writeSession describes a session, one property per line.
func writeSession(w io.Writer, s *client.Session) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, value any) { fmt.Fprintf(table, "%s:\t"+format+"\n", name, value) }
	text := func(name string, value *string) {
		if value != nil {
			line(name, "%s", *value)
		}
	}
	line("id", "%s", s.ID)
	line("size", "%d bytes", s.Size)
	line("format", "%s", s.Format)
	line("stored", "%s", s.StoredAt.Format(timeFormat))
	line("expires", "%s", s.ExpiresAt.Format(timeFormat))
	ssl := s.Openssl
	if ssl == nil {
		ssl = s.Boringssl
	}
	if ssl != nil {
		line("protocol", "%s", ssl.Protocol)
		line("cipher", "%s", ssl.Cipher)
		if !ssl.IDMatches {
			line("own id", "%s", ssl.SessionID)
		}
		line("started", "%s", ssl.StartedAt.Format(timeFormat))
		line("timeout", "%s", time.Duration(ssl.TimeoutSeconds)*time.Second)
		text("server name", ssl.ServerName)
		text("alpn", ssl.ALPN)
		text("id context", ssl.SessionIDContext)
		line("extended master secret", "%t", ssl.ExtendedMasterSecret)
		text("peer", ssl.PeerSubject)
	}
	return table.Flush()
}

type sessionsPutCommand struct {
	remote
	ID   sessionID      `arg:"" help:"ID of the session in hex."`
	File string         `arg:"" optional:"" default:"-" placeholder:"FILE" help:"File to read: DER, PEM or other bytes. - is standard input, the default."`
	TTL  *time.Duration `name:"ttl" env:"-" placeholder:"DURATION" help:"Lifetime, such as 10m. The default is that of the session itself, or else that of the service."`
}

// Validate implements kong's check of the flags.
func (c sessionsPutCommand) Validate() error {
	if c.TTL != nil && (*c.TTL <= 0 || *c.TTL%time.Second != 0) {
		return errors.New("--ttl must be whole seconds above 0, such as 10m or 90s")
	}
	return nil
}

// Run stores the session.
func (c sessionsPutCommand) Run(env environment) error {
	data, err := readInput(env, c.File, maxSessionFile)
	if err != nil {
		return err
	}
	defer clear(data)
	service, err := c.client()
	if err != nil {
		return err
	}
	var ttl time.Duration // as the session and the service decide
	if c.TTL != nil {
		ttl = *c.TTL
	}
	created, err := service.PutSession(env.ctx, string(c.ID), data, ttl)
	if err != nil {
		return c.explain(err)
	}
	done := "replaced"
	if created {
		done = "stored"
	}
	_, err = fmt.Fprintln(env.stdout, done)
	return err
}

type sessionsDeleteCommand struct {
	remote
	ID sessionID `arg:"" help:"ID of the session in hex."`
}

// Run removes the session.
func (c sessionsDeleteCommand) Run(env environment) error {
	service, err := c.client()
	if err != nil {
		return err
	}
	if err := service.DeleteSession(env.ctx, string(c.ID)); err != nil {
		return c.explain(err)
	}
	_, err = fmt.Fprintln(env.stdout, "removed")
	return err
}

type sessionsFlushCommand struct {
	remote
	Yes bool `env:"-" help:"Do not ask for confirmation. Required in scripts."`
}

// Run removes all sessions.
func (c sessionsFlushCommand) Run(env environment) error {
	service, err := c.client()
	if err != nil {
		return err
	}
	if !c.Yes {
		if err := c.confirm(env); err != nil {
			return err
		}
	}
	removed, err := service.FlushSessions(env.ctx)
	if err != nil {
		return c.explain(err)
	}
	_, err = fmt.Fprintln(env.stdout, "removed", strconv.FormatInt(removed, 10))
	return err
}

// confirm asks the user at the terminal.
func (c sessionsFlushCommand) confirm(env environment) error {
	if !isTerminal(env.stdin) {
		return errors.New("flush removes all sessions: confirm it with --yes")
	}
	fmt.Fprintf(env.stderr, "Remove all sessions of %s? Type yes: ", c.Server)
	answer, err := bufio.NewReader(io.LimitReader(input{env}, 16)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("nothing was removed")
	}
	return nil
}
