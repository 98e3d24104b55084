package sslsession

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// MaxSize is the maximum size of a DER session in bytes.
const MaxSize = 64 << 10

var (
	// ErrNotSession reports bytes that are not an SSL_SESSION in DER.
	ErrNotSession = errors.New("not an SSL_SESSION")
	// ErrTooLarge reports more than [MaxSize] bytes. It wraps [ErrNotSession].
	ErrTooLarge = fmt.Errorf("%w: larger than %d bytes", ErrNotSession, MaxSize)

	// errNotSequence is made only once, because most data that is not a session causes
	// it.
	errNotSequence = fmt.Errorf("%w: not exactly one DER SEQUENCE", ErrNotSession)
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

// defaultTimeout is the timeout of a session without one, as in OpenSSL's
// d2i_SSL_SESSION.
const defaultTimeout = 3 * time.Second

const (
	// maxTime is the last second of the year 9999, the maximum of RFC 3339.
	maxTime = 253402300799
	// maxSeconds is the maximum of a time.Duration, some 292 years.
	maxSeconds = math.MaxInt64 / int64(time.Second)
	// flagExtendedMasterSecret is SSL_SESS_FLAG_EXTMS of ssl/ssl_local.h.
	flagExtendedMasterSecret = 0x1
)

// Format is the encoding of a session. Its numbers are stored with sessions; 0 is none
// of them.
type Format uint8

const (
	// OpenSSL is the encoding that OpenSSL loads.
	OpenSSL Format = iota + 1
	// BoringSSL is the encoding of BoringSSL and AWS-LC. OpenSSL does not load it.
	BoringSSL
)

// Session describes an SSL_SESSION without its secrets.
//
// The encoding omits zero numbers and missing strings, so a zero field means that the
// session has none. The slices alias the parsed bytes: they are valid as long as those
// are, and must not be changed.
type Session struct {
	Format   Format
	Protocol Protocol
	Cipher   Cipher
	// ID is the session ID, 0 to 32 bytes. A TLS 1.3 client generates it.
	ID []byte
	// StartedAt is when the session began, in whole seconds, UTC, from 1970 to 9999. If
	// the session does not say, it is the time of [Parse].
	StartedAt time.Time
	// Timeout is the lifetime of the session, in whole seconds, not negative. If the
	// session does not say, it is 3 seconds. If it does not fit a Duration, it is the
	// maximum.
	Timeout time.Duration

	// Peer is the peer's certificate in DER. Its structure is checked, but not its
	// signature, names and key.
	Peer []byte
	// VerifyResult is the result of verifying Peer, an X509_V_ERR code of OpenSSL's
	// x509_vfy.h. 0 is X509_V_OK: success, or nothing was verified.
	VerifyResult int32
	// SessionIDContext is the context of the session ID, 0 to 32 bytes
	// (SSL_CTX_set_session_id_context).
	SessionIDContext []byte
	// ServerName is the host name that the client requested (RFC 6066), 0 to 255 bytes,
	// none of them zero. It need not be UTF-8.
	ServerName []byte
	// ALPN is the negotiated application protocol (RFC 7301), 0 to 255 bytes. It need
	// not be UTF-8.
	ALPN []byte
	// ExtendedMasterSecret reports whether RFC 7627 was used. TLS 1.3 does not need it,
	// and clears it.
	ExtendedMasterSecret bool
	// TicketLifetimeHint is the ticket lifetime that the server announced, in whole
	// seconds.
	TicketLifetimeHint time.Duration
	// MaxEarlyData is how many bytes of early data the server accepts (RFC 8446).
	MaxEarlyData uint32
}

// EndsAt returns the end of the session: its start plus its timeout.
func (s *Session) EndsAt() time.Time {
	return s.StartedAt.Add(s.Timeout) // the bounds of both keep it in time.Time's range
}

// Parse reads a DER SSL_SESSION, which the Session aliases. It allocates only errors:
// [ErrNotSession] and, in particular, [ErrTooLarge]. As in OpenSSL, now is the start of
// a session that has none.
func Parse(der []byte, now time.Time) (Session, error) {
	if len(der) > MaxSize {
		return Session{}, ErrTooLarge
	}
	var (
		input             = cryptobyte.String(der)
		fields            cryptobyte.String
		version, protocol int64
		cipher, masterKey []byte
		s                 Session
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
	}
	s.Protocol = Protocol(protocol)
	s.Cipher = Cipher(cipher[0])<<8 | Cipher(cipher[1])
	if _, known := s.Cipher.name(); !known {
		return Session{}, broken("cipher")
	}

	openssl, boringssl := s, s
	field, ok := openssl.readOpenSSL(fields, now)
	if ok {
		return openssl, nil
	}
	if boringssl.readBoringSSL(fields) {
		return boringssl, nil
	}
	return Session{}, broken(field)
}

// readOpenSSL reads the optional fields as OpenSSL does. It returns the
// SSL_SESSION_ASN1 name of a broken one.
func (s *Session) readOpenSSL(fields cryptobyte.String, now time.Time) (name string, ok bool) {
	if !fields.SkipOptionalASN1(asn1.Tag(0).ContextSpecific()) { // SSL 2's, implicitly tagged
		return "key_arg", false
	}
	s.Format = OpenSSL
	for last := 0; !fields.Empty(); {
		var number int
		var content cryptobyte.String
		if !readField(&fields, &number, &content) || number <= last {
			return "the order or the encoding of the optional fields", false
		}
		if name, ok := s.readOpenSSLField(number, content); !ok {
			return name, false
		}
		last = number
	}
	if s.StartedAt.Unix() <= 0 { // the encoding omits zero
		s.StartedAt = now.UTC().Truncate(time.Second)
	}
	if s.Timeout == 0 {
		s.Timeout = defaultTimeout
	}
	return "", true
}

// readField reads an explicitly tagged field with a number from 1 on. cryptobyte reads
// only tags of one byte, which end at 30.
func readField(s *cryptobyte.String, number *int, content *cryptobyte.String) bool {
	const explicit, more = 0xA0, 0x1F // more replaces the number: a byte with the number follows
	rest := *s
	var tag, high uint8
	if !rest.ReadUint8(&tag) {
		return false
	}
	if tag != explicit|more {
		var t asn1.Tag
		if !s.ReadAnyASN1(content, &t) || tag&^more != explicit {
			return false
		}
		*number = int(tag & more)
		return true
	}
	if !rest.ReadUint8(&high) || high < more || high > 0x7F || len(rest) == 0 {
		return false
	}
	*number = int(high)
	var ok bool
	switch rest[0] {
	case 0x81:
		ok = rest.Skip(1) && rest.ReadUint8LengthPrefixed(content) && len(*content) > 0x7F
	case 0x82:
		ok = rest.Skip(1) && rest.ReadUint16LengthPrefixed(content) && len(*content) > 0xFF
	default:
		ok = rest[0] <= 0x7F && rest.ReadUint8LengthPrefixed(content)
	}
	*s = rest
	return ok
}

// readOpenSSLField reads the content of the optional field with this number, and
// returns its name in SSL_SESSION_ASN1.
func (s *Session) readOpenSSLField(number int, content cryptobyte.String) (name string, ok bool) {
	var n int64
	switch number {
	case 1:
		name, ok = "time", readInt(&content, &n, 0, maxTime)
		s.StartedAt = time.Unix(n, 0).UTC()
	case 2:
		name, ok = "timeout", readInt(&content, &n, 0, math.MaxInt64)
		s.Timeout = time.Duration(min(n, maxSeconds)) * time.Second
	case 3:
		name, ok = "peer", s.readPeer(&content)
	case 4:
		name, ok = "session_id_context", readBytes(&content, &s.SessionIDContext, maxContext)
	case 5:
		name, ok = "verify_result", readInt(&content, &n, math.MinInt32, math.MaxInt32)
		s.VerifyResult = int32(n)
	case 6:
		// OpenSSL would end the name at a zero byte, which no handshake allows.
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
		var method []byte
		name, ok = "comp_id", readBytes(&content, &method, 1) && len(method) == 1
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
		var key cryptobyte.String
		name, ok = "peer_rpk", content.ReadASN1(&key, asn1.OCTET_STRING) && skipPublicKey(&key) && key.Empty()
	default:
		name = "a field that OpenSSL does not know"
	}
	return name, ok && content.Empty()
}

func broken(field string) error {
	return fmt.Errorf("%w: %s is malformed", ErrNotSession, field)
}

// readInt reads an INTEGER from least to most. cryptobyte bounds one by the type of
// out, which allocates.
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
