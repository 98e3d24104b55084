package sslsession

import (
	"crypto/x509/pkix"
	encodingasn1 "encoding/asn1"
	"slices"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of a subject that is described. The time to decode a name and write it as text
// is quadratic in its size, and names of real certificates are far smaller.
const (
	maxSubject    = 2 << 10 // bytes of DER
	maxAttributes = 64
)

// readPeer reads the peer's certificate.
func (s *Session) readPeer(content *cryptobyte.String) bool {
	certificate := *content
	if !skipCertificate(content) {
		return false
	}
	s.Peer = slices.Clip([]byte(certificate[:len(certificate)-len(*content)]))
	return true
}

// skipCertificate skips a certificate. It checks what OpenSSL checks in a session: the
// structure (RFC 5280, section 4.1). crypto/x509 rejects certificates that OpenSSL
// accepts, such as one with a key on a Brainpool curve.
func skipCertificate(s *cryptobyte.String) bool {
	var certificate, tbs cryptobyte.String
	return s.ReadASN1(&certificate, asn1.SEQUENCE) &&
		certificate.ReadASN1(&tbs, asn1.SEQUENCE) &&
		skipToSubject(&tbs) && skipName(&tbs) && skipPublicKey(&tbs) &&
		tbs.SkipOptionalASN1(asn1.Tag(1).ContextSpecific()) && // issuerUniqueID
		tbs.SkipOptionalASN1(asn1.Tag(2).ContextSpecific()) && // subjectUniqueID
		skipExtensions(&tbs) && tbs.Empty() &&
		skipAlgorithm(&certificate) &&
		skipBits(&certificate) && certificate.Empty()
}

// skipToSubject skips the fields of a TBSCertificate before its subject.
func skipToSubject(tbs *cryptobyte.String) bool {
	var version, validity cryptobyte.String
	var present bool
	return tbs.ReadOptionalASN1(&version, &present, asn1.Tag(0).ContextSpecific().Constructed()) &&
		(!present || skipInteger(&version) && version.Empty()) &&
		skipInteger(tbs) && // serial number
		skipAlgorithm(tbs) &&
		skipName(tbs) && // issuer
		tbs.ReadASN1(&validity, asn1.SEQUENCE) && skipTime(&validity) && skipTime(&validity) && validity.Empty()
}

// skipOID skips an OBJECT IDENTIFIER. All bytes of a number except the last have the
// highest bit set, and the first is not padding (X.690, section 8.19).
func skipOID(s *cryptobyte.String) bool {
	var oid cryptobyte.String
	if !s.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) {
		return false
	}
	last := byte(0)
	for _, b := range oid {
		if last < 0x80 && b == 0x80 {
			return false
		}
		last = b
	}
	return len(oid) > 0 && last < 0x80
}

// skipInteger skips an INTEGER of any size without padding (X.690, section 8.3).
func skipInteger(s *cryptobyte.String) bool {
	var n cryptobyte.String
	if !s.ReadASN1(&n, asn1.INTEGER) || len(n) == 0 {
		return false
	}
	return len(n) == 1 || n[0] != 0 && n[0] != 0xFF || (n[0]^n[1]) >= 0x80
}

// skipBits skips a BIT STRING. Its first byte is the number of unused bits in the last
// byte.
func skipBits(s *cryptobyte.String) bool {
	var bits cryptobyte.String
	return s.ReadASN1(&bits, asn1.BIT_STRING) && len(bits) > 0 && bits[0] <= 7
}

func skipTime(s *cryptobyte.String) bool {
	if s.PeekASN1Tag(asn1.UTCTime) {
		return s.SkipASN1(asn1.UTCTime)
	}
	return s.SkipASN1(asn1.GeneralizedTime)
}

// skipAlgorithm skips an AlgorithmIdentifier. Its parameters are a SEQUENCE, the OBJECT
// IDENTIFIER of a curve, NULL or absent.
func skipAlgorithm(s *cryptobyte.String) bool {
	var algorithm, null cryptobyte.String
	if !s.ReadASN1(&algorithm, asn1.SEQUENCE) || !skipOID(&algorithm) {
		return false
	}
	switch {
	case algorithm.Empty():
		return true
	case algorithm.PeekASN1Tag(asn1.OBJECT_IDENTIFIER):
		return skipOID(&algorithm) && algorithm.Empty()
	case algorithm.PeekASN1Tag(asn1.NULL):
		return algorithm.ReadASN1(&null, asn1.NULL) && null.Empty() && algorithm.Empty()
	}
	return algorithm.SkipASN1(asn1.SEQUENCE) && algorithm.Empty()
}

func skipName(s *cryptobyte.String) bool {
	var name, rdn, attribute cryptobyte.String
	if !s.ReadASN1(&name, asn1.SEQUENCE) {
		return false
	}
	for !name.Empty() {
		if !name.ReadASN1(&rdn, asn1.SET) {
			return false
		}
		for !rdn.Empty() {
			if !rdn.ReadASN1(&attribute, asn1.SEQUENCE) || !skipOID(&attribute) ||
				!skipText(&attribute) || !attribute.Empty() {
				return false
			}
		}
	}
	return true
}

// skipText skips a string of a type that OpenSSL accepts as an attribute value
// (B_ASN1_PRINTABLE), with characters that it can decode.
func skipText(s *cryptobyte.String) bool {
	const numeric, universal, bmp = asn1.Tag(18), asn1.Tag(28), asn1.Tag(30)
	var text cryptobyte.String
	var tag asn1.Tag
	if !s.ReadAnyASN1(&text, &tag) {
		return false
	}
	switch tag {
	case numeric, asn1.PrintableString, asn1.T61String, asn1.IA5String:
		return true
	case asn1.UTF8String:
		return utf8.Valid(text)
	case universal:
		return len(text)%4 == 0
	case bmp:
		return len(text)%2 == 0
	}
	return false
}

func skipPublicKey(s *cryptobyte.String) bool {
	var key cryptobyte.String
	return s.ReadASN1(&key, asn1.SEQUENCE) && skipAlgorithm(&key) && skipBits(&key) && key.Empty()
}

func skipExtensions(tbs *cryptobyte.String) bool {
	var wrapped, extensions, extension cryptobyte.String
	var present bool
	if !tbs.ReadOptionalASN1(&wrapped, &present, asn1.Tag(3).ContextSpecific().Constructed()) || !present {
		return !present
	}
	if !wrapped.ReadASN1(&extensions, asn1.SEQUENCE) || !wrapped.Empty() {
		return false
	}
	for !extensions.Empty() {
		if !extensions.ReadASN1(&extension, asn1.SEQUENCE) || !skipOID(&extension) ||
			!extension.SkipOptionalASN1(asn1.BOOLEAN) || !extension.SkipASN1(asn1.OCTET_STRING) || !extension.Empty() {
			return false
		}
	}
	return true
}

// PeerSubject returns the subject of the peer's certificate as an RFC 2253 string, the
// last attribute first. ok is false if there is no certificate, if an attribute is not
// text, or if the subject is larger than 2 KiB of DER or has more than 64 attributes.
func (s *Session) PeerSubject() (subject string, ok bool) {
	input := cryptobyte.String(s.Peer)
	var certificate, tbs, name cryptobyte.String
	if !input.ReadASN1(&certificate, asn1.SEQUENCE) ||
		!certificate.ReadASN1(&tbs, asn1.SEQUENCE) ||
		!skipToSubject(&tbs) ||
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
