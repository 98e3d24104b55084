package sslsession

import (
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// maxHash is SSL_MAX_MD_SIZE of BoringSSL's ssl/internal.h.
const maxHash = 64

// rawPublicKey is TLSEXT_cert_type_rpk (RFC 7250), the only certificate type that
// BoringSSL writes.
const rawPublicKey = 2

// readBoringSSL reads the fields after the master key as BoringSSL's
// SSL_SESSION_parse does. Time and timeout must be among them.
func (s *Session) readBoringSSL(fields cryptobyte.String) (ok bool) {
	s.Format = BoringSSL
	started, ends := false, false
	for last := 0; !fields.Empty(); {
		var number int
		var content cryptobyte.String
		if !readField(&fields, &number, &content) || number <= last || !s.readBoringSSLField(number, content) {
			return false
		}
		started, ends = started || number == 1, ends || number == 2
		last = number
	}
	return started && ends
}

// readBoringSSLField reads the content of the field with this number. Fields up to 10
// are the same in OpenSSL; those from 13 on are not.
func (s *Session) readBoringSSLField(number int, content cryptobyte.String) (ok bool) {
	var n int64
	var hash []byte
	switch number {
	case 1, 3, 4, 9, 10:
		_, ok = s.readOpenSSLField(number, content)
		return ok
	case 2: // timeout
		ok = readInt(&content, &n, 0, math.MaxUint32)
		s.Timeout = time.Duration(n) * time.Second
	case 5: // verifyResult
		ok = readInt(&content, &n, 0, math.MaxInt32)
		s.VerifyResult = int32(n)
	case 6: // hostName, which BoringSSL ignores
		return true
	case 8, 15, 16, 28, 29, 30: // pskIdentity, SCTs, OCSP response, QUIC and ALPS
		ok = content.SkipASN1(asn1.OCTET_STRING)
	case 13: // peerSHA256
		ok = readBytes(&content, &hash, 32) && len(hash) == 32
	case 14: // originalHandshakeHash
		ok = readBytes(&content, &hash, maxHash)
	case 17: // extendedMasterSecret
		ok = content.ReadASN1Boolean(&s.ExtendedMasterSecret)
	case 18, 23: // groupID, peerSignatureAlgorithm
		ok = readInt(&content, &n, 0, math.MaxUint16)
	case 19: // certChain
		for ok = !content.Empty(); ok && !content.Empty(); {
			ok = skipCertificate(&content)
		}
	case 21: // ticketAgeAdd
		ok = readBytes(&content, &hash, 4) && len(hash) == 4
	case 22, 27, 31: // isServer, isQuic, resumableAcrossNames
		var b bool
		ok = content.ReadASN1Boolean(&b)
	case 24: // ticketMaxEarlyData
		ok = readInt(&content, &n, 0, math.MaxUint32)
		s.MaxEarlyData = uint32(n)
	case 25: // authTimeout, how long the session may be renewed
		ok = readInt(&content, &n, 0, math.MaxUint32)
	case 26: // earlyALPN
		ok = readBytes(&content, &s.ALPN, maxALPN)
	case 32: // peerCertType
		ok = readInt(&content, &n, rawPublicKey, rawPublicKey)
	case 33: // peerRawPublicKey
		ok = skipPublicKey(&content)
	}
	return ok && content.Empty()
}
