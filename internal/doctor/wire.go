package doctor

import (
	"errors"
	"net"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// maxFlight is how much of what a server sends is kept to be parsed, in bytes: more
// than a certificate chain needs, which is in the clear in TLS 1.2.
const maxFlight = 128 << 10

// recorder keeps the first bytes that come.
type recorder struct {
	net.Conn
	received []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.received = append(r.received, p[:min(n, maxFlight-len(r.received))]...)
	return n, err
}

// flight is what a server says in the clear at the start of a connection.
type flight struct {
	version   Protocol // of the ServerHello; 0 before it is there
	sessionID []byte   // of the ServerHello
	lifetime  time.Duration
	alert     uint8
}

var errNotTLS = errors.New("what answers does not speak TLS")

// Record and handshake types (RFC 8446, appendix B).
const (
	recordAlert      = 21
	recordHandshake  = 22
	helloMessage     = 2
	ticketMessage    = 4
	supportedVersion = 43
)

// parseFlight parses what a server sent until its first record that is neither a
// handshake nor an alert, where TLS 1.2 begins to encrypt, or until it is cut off. The
// error is errNotTLS.
func parseFlight(received []byte) (f flight, err error) {
	in := cryptobyte.String(received)
	var messages cryptobyte.String
	for !in.Empty() {
		var kind, major, minor uint8
		var record cryptobyte.String
		if in[0] < recordAlert-1 || in[0] > recordHandshake+1 || len(in) > 1 && in[1] != 3 {
			return f, errNotTLS
		}
		if !in.ReadUint8(&kind) || !in.ReadUint8(&major) || !in.ReadUint8(&minor) || !in.ReadUint16LengthPrefixed(&record) {
			break
		}
		if kind == recordAlert && len(record) == 2 {
			f.alert = record[1]
		}
		if kind != recordHandshake {
			break
		}
		messages = append(messages, record...)
	}
	for !messages.Empty() {
		var kind uint8
		var message cryptobyte.String
		if !messages.ReadUint8(&kind) || !messages.ReadUint24LengthPrefixed(&message) {
			break
		}
		switch kind {
		case helloMessage:
			if !f.readHello(message) {
				return f, errNotTLS
			}
		case ticketMessage: // RFC 5077, section 3.3
			var seconds uint32
			if message.ReadUint32(&seconds) {
				f.lifetime = time.Duration(seconds) * time.Second
			}
		}
	}
	return f, nil
}

// readHello reads a ServerHello (RFC 8446, section 4.1.3).
func (f *flight) readHello(hello cryptobyte.String) bool {
	var version uint16
	var id, extensions cryptobyte.String
	if !hello.ReadUint16(&version) || !hello.Skip(32) || !hello.ReadUint8LengthPrefixed(&id) || len(id) > 32 ||
		!hello.Skip(2+1) || !hello.Empty() && !hello.ReadUint16LengthPrefixed(&extensions) {
		return false
	}
	for !extensions.Empty() {
		var kind uint16
		var extension cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&extension) {
			return false
		}
		if kind == supportedVersion && !extension.ReadUint16(&version) {
			return false
		}
	}
	f.version, f.sessionID = Protocol(version), id
	return true
}
