package sslsession

import "fmt"

// Protocol is a version of TLS or DTLS as on the wire.
type Protocol uint16

// String returns OpenSSL's name of the protocol (ssl_protocol_to_string in
// ssl/ssl_lib.c), such as TLSv1.3, or 0x1234 if it has none.
func (p Protocol) String() string {
	switch p {
	case 0x0304:
		return "TLSv1.3"
	case 0x0303:
		return "TLSv1.2"
	case 0x0302:
		return "TLSv1.1"
	case 0x0301:
		return "TLSv1"
	case 0x0300:
		return "SSLv3"
	case 0xFEFD:
		return "DTLSv1.2"
	case 0xFEFF:
		return "DTLSv1"
	case dtls1BadVersion:
		return "DTLSv0.9"
	}
	return fmt.Sprintf("0x%04X", uint16(p))
}

// dtls1BadVersion is DTLS1_BAD_VER of OpenSSL's dtls1.h, DTLS before RFC 4347.
const dtls1BadVersion Protocol = 0x0100

// valid reports whether d2i_SSL_SESSION accepts the protocol: any with a major version
// of TLS or DTLS.
func (p Protocol) valid() bool {
	return p>>8 == 0x03 || p>>8 == 0xFE || p == dtls1BadVersion
}
