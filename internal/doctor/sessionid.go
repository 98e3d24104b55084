package doctor

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// StoreSession makes a full handshake of TLS 1.2 without tickets, and returns the ID
// under which the server keeps the session; empty when it keeps none. The error is an
// [*Error].
func (c *Client) StoreSession(ctx context.Context, address string) (id []byte, h *Handshake, err error) {
	conn, greeting, err := c.connect(ctx, address, TLS12, c.config(TLS12))
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	_ = c.part(conn, io.LimitReader(conn, maxAnswer), greeting.Took)
	return greeting.flight.sessionID, &greeting.Handshake, nil
}

// OfferID reports whether the server resumes the session of that ID: whether it
// repeats the ID (RFC 5246, section 7.4.1.3). crypto/tls cannot offer a bare ID, so
// this is its ClientHello with another ID, and ends when the ServerHello has arrived.
// The error is an [*Error].
func (c *Client) OfferID(ctx context.Context, address string, id []byte) (bool, error) {
	hello, err := withSessionID(clientHello(c.config(TLS12)), id)
	if err != nil {
		return false, &Error{Refused, err}
	}
	conn, err := c.dial(ctx, address)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err = conn.Write(hello); err != nil {
		return false, &Error{Refused, err}
	}
	recorded := &recorder{Conn: conn}
	buf := make([]byte, 4<<10)
	for {
		seen, wireErr := parseFlight(recorded.received)
		switch {
		case seen.version != 0 && wireErr == nil:
			_, _ = conn.Write(closeNotify)
			return seen.version == TLS12 && bytes.Equal(seen.sessionID, id), nil
		case err == nil && wireErr == nil && len(recorded.received) == maxFlight:
			err = errors.New("no ServerHello")
		}
		if err != nil || wireErr != nil {
			err = errors.Join(err, wireErr)
			return false, &Error{failure(err, wireErr, seen, TLS12), err}
		}
		_, err = recorded.Read(buf)
	}
}

// closeNotify is the record of the alert that ends a connection. A server forgets a
// session that ends with any other (RFC 5246, section 7.2.2).
var closeNotify = []byte{recordAlert, 3, 3, 0, 2, 1, 0}

// clientHello returns the first record of a client.
func clientHello(config *tls.Config) []byte {
	var sent sink
	_ = tls.Client(&sent, config).Handshake() // nothing answers
	return sent.Bytes()
}

// sink is a connection to nobody.
type sink struct {
	net.Conn
	bytes.Buffer
}

func (s *sink) Read([]byte) (int, error)         { return 0, io.EOF }
func (s *sink) Write(p []byte) (int, error)      { return s.Buffer.Write(p) }
func (s *sink) Close() error                     { return nil }
func (s *sink) SetDeadline(time.Time) error      { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

// withSessionID returns the record of a ClientHello with another session ID.
func withSessionID(record, id []byte) ([]byte, error) {
	var (
		message, hello, old cryptobyte.String
		kind                uint8
		fixed               []byte // version and random
	)
	in := cryptobyte.String(record)
	if !in.Skip(3) || !in.ReadUint16LengthPrefixed(&message) ||
		!message.ReadUint8(&kind) || !message.ReadUint24LengthPrefixed(&hello) ||
		!hello.ReadBytes(&fixed, 2+32) || !hello.ReadUint8LengthPrefixed(&old) {
		return nil, errors.New("crypto/tls makes no ClientHello")
	}
	var out cryptobyte.Builder
	out.AddBytes(record[:3])
	out.AddUint16LengthPrefixed(func(out *cryptobyte.Builder) {
		out.AddUint8(kind)
		out.AddUint24LengthPrefixed(func(out *cryptobyte.Builder) {
			out.AddBytes(fixed)
			out.AddUint8LengthPrefixed(func(out *cryptobyte.Builder) { out.AddBytes(id) })
			out.AddBytes(hello)
		})
	})
	return out.Bytes()
}
