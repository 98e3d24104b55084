package sslsession

import (
	"bytes"
	"crypto/x509/pkix"
	encodingasn1 "encoding/asn1"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// MaxSize is the size in bytes of the largest session that is read, in DER.
const MaxSize = 64 << 10

var (
	// ErrNotSession reports bytes that are not an SSL_SESSION in DER.
	ErrNotSession = errors.New("not an SSL_SESSION")
	// ErrTooLarge reports more than [MaxSize] bytes. It is an [ErrNotSession],
	// too.
	ErrTooLarge = fmt.Errorf("%w: larger than %d bytes", ErrNotSession, MaxSize)

	// errNotSequence is made once, for it is what most bytes that are no session
	// come to.
	errNotSequence = fmt.Errorf("%w: not a whole DER SEQUENCE and nothing else", ErrNotSession)
)

// Bounds of OpenSSL: SSL_MAX_SSL_SESSION_ID_LENGTH, SSL_MAX_SID_CTX_LENGTH and
// TLSEXT_MAXLEN_host_name of its headers, and TLS13_MAX_RESUMPTION_PSK_LENGTH
// of ssl/ssl_local.h in 3.x (256 in 1.1.1). The length of an ALPN name is one
// byte on the wire (RFC 7301, section 3.1).
const (
	maxID         = 32
	maxContext    = 32
	maxServerName = 255
	maxALPN       = 255
	maxMasterKey  = 512
)

// Bounds of a subject that is described. To decode a name and to write it as text
// takes time that grows with the square of its size, and a name that identifies
// somebody is far from these.
const (
	maxSubject    = 2 << 10 // bytes of DER
	maxAttributes = 64
)

const (
	// maxTime is the last second of the year 9999, the last one of RFC 3339.
	maxTime = 253402300799
	// maxSeconds is the longest that a time.Duration can be, some 292 years.
	maxSeconds = math.MaxInt64 / int64(time.Second)
	// flagExtendedMasterSecret is SSL_SESS_FLAG_EXTMS of ssl/ssl_local.h.
	flagExtendedMasterSecret = 0x1
)

// Session is what an SSL_SESSION says of itself, without its secrets.
//
// OpenSSL leaves out numbers that are zero and strings that it does not have,
// so the zero value of a field stands for one that is not there. The slices
// alias the bytes that were parsed: they are valid as long as those are, and
// must not be written to.
type Session struct {
	Protocol Protocol
	Cipher   Cipher
	// ID is the session ID, of 0 to 32 bytes. A TLS 1.3 client makes it up.
	ID []byte
	// StartedAt is when the session began, in whole seconds, UTC, from 1970 to
	// 9999. A session that does not say is as old as 1970.
	StartedAt time.Time
	// Timeout is how long the session is good for, in whole seconds, not
	// negative. What is too long for a Duration is the longest one.
	Timeout time.Duration

	// Peer is the certificate of the other side, in DER. That it is a SEQUENCE
	// is all that is known of it.
	Peer []byte
	// VerifyResult is what came of verifying Peer, an X509_V_ERR code of
	// OpenSSL's x509_vfy.h; 0, X509_V_OK, is good, or nothing was verified.
	VerifyResult int32
	// SessionIDContext is the context that the session belongs to, of 0 to 32
	// bytes (SSL_CTX_set_session_id_context).
	SessionIDContext []byte
	// ServerName is the host name that the client asked for (RFC 6066), of 0 to
	// 255 bytes, none of them zero. It need not be UTF-8.
	ServerName []byte
	// ALPN is the application protocol that was agreed on (RFC 7301), of 0 to
	// 255 bytes. It need not be UTF-8.
	ALPN []byte
	// ExtendedMasterSecret says whether RFC 7627 was used. TLS 1.3 does not
	// need it, and clears it.
	ExtendedMasterSecret bool
	// TicketLifetimeHint is how long the server said to keep its ticket, in
	// whole seconds.
	TicketLifetimeHint time.Duration
	// MaxEarlyData is how many bytes of early data the server takes (RFC 8446).
	MaxEarlyData uint32
}

// EndsAt returns when the session stops being good: its start and timeout
// together.
func (s *Session) EndsAt() time.Time {
	return s.StartedAt.Add(s.Timeout) // within time.Time's range by the bounds of the two
}

// Parse reads an SSL_SESSION in DER, which the Session aliases. It allocates
// nothing but errors, which are [ErrNotSession] and, in particular,
// [ErrTooLarge].
func Parse(der []byte) (Session, error) {
	if len(der) > MaxSize {
		return Session{}, ErrTooLarge
	}
	var (
		input             = cryptobyte.String(der)
		fields            cryptobyte.String
		version, protocol int64
		cipher, masterKey []byte
		// OpenSSL takes a session without a start to begin when it is read.
		// Here it is what was written: zero, which is left out.
		s = Session{StartedAt: time.Unix(0, 0).UTC()}
	)
	switch {
	case !input.ReadASN1(&fields, asn1.SEQUENCE) || !input.Empty():
		return Session{}, errNotSequence
	case !readInt(&fields, &version, 1, 1):
		return Session{}, broken("version")
	case !readInt(&fields, &protocol, 0, math.MaxUint16) || !Protocol(protocol).valid():
		return Session{}, broken("ssl_version")
	case !readBytes(&fields, &cipher, 2) || len(cipher) != 2:
		return Session{}, broken("cipher")
	case !readBytes(&fields, &s.ID, maxID):
		return Session{}, broken("session_id")
	case !readBytes(&fields, &masterKey, maxMasterKey):
		return Session{}, broken("master_key")
	case !fields.SkipOptionalASN1(asn1.Tag(0).ContextSpecific()): // SSL 2's, implicitly tagged
		return Session{}, broken("key_arg")
	}
	s.Protocol = Protocol(protocol)
	s.Cipher = Cipher(cipher[0])<<8 | Cipher(cipher[1])

	explicit := asn1.Tag(0).ContextSpecific().Constructed()
	for last := explicit; !fields.Empty(); {
		var content cryptobyte.String
		var tag asn1.Tag
		if !fields.ReadAnyASN1(&content, &tag) || tag <= last || tag > explicit|30 {
			return Session{}, broken("the order or the encoding of the optional fields")
		}
		if name, ok := s.readOptional(int(tag-explicit), content); !ok {
			return Session{}, broken(name)
		}
		last = tag
	}
	return s, nil
}

// readOptional reads the content of the optional field of a number, and returns
// its name in SSL_SESSION_ASN1.
func (s *Session) readOptional(number int, content cryptobyte.String) (name string, ok bool) {
	var n int64
	switch number {
	case 1:
		name, ok = "time", readInt(&content, &n, 0, maxTime)
		s.StartedAt = time.Unix(n, 0).UTC()
	case 2:
		name, ok = "timeout", readInt(&content, &n, 0, math.MaxInt64)
		s.Timeout = time.Duration(min(n, maxSeconds)) * time.Second
	case 3:
		var certificate cryptobyte.String
		name, ok = "peer", content.ReadASN1Element(&certificate, asn1.SEQUENCE)
		s.Peer = slices.Clip([]byte(certificate))
	case 4:
		name, ok = "session_id_context", readBytes(&content, &s.SessionIDContext, maxContext)
	case 5:
		name, ok = "verify_result", readInt(&content, &n, math.MinInt32, math.MaxInt32)
		s.VerifyResult = int32(n)
	case 6:
		// A zero byte, which no handshake lets through, would end it for OpenSSL.
		name = "tlsext_hostname"
		ok = readBytes(&content, &s.ServerName, maxServerName) && bytes.IndexByte(s.ServerName, 0) < 0
	case 7:
		name, ok = "psk_identity_hint", content.SkipASN1(asn1.OCTET_STRING)
	case 8:
		name, ok = "psk_identity", content.SkipASN1(asn1.OCTET_STRING)
	case 9:
		name, ok = "tlsext_tick_lifetime_hint", readInt(&content, &n, 0, math.MaxUint32)
		s.TicketLifetimeHint = time.Duration(n) * time.Second
	case 10:
		name, ok = "tlsext_tick", content.SkipASN1(asn1.OCTET_STRING)
	case 11:
		name, ok = "comp_id", content.SkipASN1(asn1.OCTET_STRING)
	case 12:
		name, ok = "srp_username", content.SkipASN1(asn1.OCTET_STRING)
	case 13:
		name, ok = "flags", readInt(&content, &n, 0, math.MaxUint32)
		s.ExtendedMasterSecret = n&flagExtendedMasterSecret != 0
	case 14:
		name, ok = "tlsext_tick_age_add", readInt(&content, &n, 0, math.MaxUint32)
	case 15:
		name, ok = "max_early_data", readInt(&content, &n, 0, math.MaxUint32)
		s.MaxEarlyData = uint32(n)
	case 16:
		name, ok = "alpn_selected", readBytes(&content, &s.ALPN, maxALPN)
	case 17:
		name, ok = "tlsext_max_fragment_len_mode", readInt(&content, &n, 0, math.MaxUint32)
	case 18:
		name, ok = "ticket_appdata", content.SkipASN1(asn1.OCTET_STRING)
	case 19:
		name, ok = "kex_group", readInt(&content, &n, 0, math.MaxUint32)
	case 20:
		name, ok = "peer_rpk", content.SkipASN1(asn1.OCTET_STRING)
	default:
		var element cryptobyte.String
		var tag asn1.Tag
		name, ok = "a field of a later OpenSSL", content.ReadAnyASN1(&element, &tag)
	}
	return name, ok && content.Empty()
}

func broken(field string) error {
	return fmt.Errorf("%w: %s is broken", ErrNotSession, field)
}

// readInt reads an INTEGER from least to most. cryptobyte's own way to bound
// one, by the type of out, allocates.
func readInt(s *cryptobyte.String, out *int64, least, most int64) bool {
	return s.ReadASN1Int64WithTag(out, asn1.INTEGER) && least <= *out && *out <= most
}

// readBytes reads an OCTET STRING of at most limit bytes.
func readBytes(s *cryptobyte.String, out *[]byte, limit int) bool {
	var content cryptobyte.String
	if !s.ReadASN1(&content, asn1.OCTET_STRING) || len(content) > limit {
		return false
	}
	*out = slices.Clip([]byte(content))
	return true
}

// PeerSubject returns the subject of the peer's certificate as a string of RFC
// 2253, the last attribute first. There is none when there is no certificate,
// when it does not decode, when an attribute is not text, or when the subject is
// larger than 2 KiB of DER or has more than 64 attributes.
func (s *Session) PeerSubject() (subject string, ok bool) {
	// Not with crypto/x509, which refuses certificates that OpenSSL takes: one
	// with a key on a Brainpool curve, for instance. The fields are those of
	// RFC 5280, section 4.1.
	input := cryptobyte.String(s.Peer)
	var certificate, tbs, name cryptobyte.String
	if !input.ReadASN1(&certificate, asn1.SEQUENCE) ||
		!certificate.ReadASN1(&tbs, asn1.SEQUENCE) ||
		!tbs.SkipOptionalASN1(asn1.Tag(0).ContextSpecific().Constructed()) || // version
		!tbs.SkipASN1(asn1.INTEGER) || // serial number
		!tbs.SkipASN1(asn1.SEQUENCE) || // signature algorithm
		!tbs.SkipASN1(asn1.SEQUENCE) || // issuer
		!tbs.SkipASN1(asn1.SEQUENCE) || // validity
		!tbs.ReadASN1Element(&name, asn1.SEQUENCE) ||
		len(name) > maxSubject {
		return "", false
	}
	var sequence pkix.RDNSequence
	if rest, err := encodingasn1.Unmarshal(name, &sequence); err != nil || len(rest) > 0 {
		return "", false
	}
	attributes := 0
	for _, rdn := range sequence {
		if attributes += len(rdn); attributes > maxAttributes {
			return "", false
		}
		for _, attribute := range rdn {
			if _, ok := attribute.Value.(string); !ok {
				return "", false
			}
		}
	}
	return sequence.String(), true
}
