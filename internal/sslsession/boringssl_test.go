package sslsession_test

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/sessapi/sessapi/internal/sslsession"
)

// spki is a field of BoringSSL with a tag of two bytes and a length of any size.
func spki(padding int) option {
	return func(b *cryptobyte.Builder) {
		var content cryptobyte.Builder
		sequence(&content, func(b *cryptobyte.Builder) {
			sequence(b, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier([]int{1, 3, 101, 112}) })
			b.AddASN1BitString(make([]byte, padding))
		})
		key := content.BytesOrPanic()
		var length []byte
		switch {
		case len(key) > 0xFF:
			length = []byte{0x82, byte(len(key) >> 8)}
		case len(key) > 0x7F:
			length = []byte{0x81}
		}
		b.AddBytes(slices.Concat([]byte("\xBF\x21"), length, []byte{byte(len(key))}, key))
	}
}

const (
	resumableAcrossNames = "\xBF\x1F\x03\x01\x01\xFF"
	peerCertTypeRPK      = "\xBF\x20\x03\x02\x01\x02"
)

// boringssl is a BoringSSL session with fields beyond the required ones.
func boringssl(options ...option) raw {
	return minimal(append([]option{integer(1, 1700000000), integer(2, 7200)}, options...)...)
}

// TestBoringSSLFields covers the fields that are in no vector.
func TestBoringSSLFields(t *testing.T) {
	base := sslsession.Session{
		Format: sslsession.BoringSSL, Protocol: 0x0303, Cipher: 0xC02F, ID: []byte("the id"),
		StartedAt: time.Unix(1700000000, 0).UTC(), Timeout: 7200 * time.Second,
	}
	with := func(change func(*sslsession.Session)) sslsession.Session {
		s := base
		change(&s)
		return s
	}
	peer := certificate(commonNames(1, "peer"))
	for _, test := range []struct {
		name string
		raw  raw
		want sslsession.Session
	}{
		{"a client's", boringssl(boolean(22, false)), base},
		{"all of AWS-LC", boringssl(
			encoded(3, peer), octets(4, "context"), integer(5, 18), octets(6, "ignored"), octets(8, "user"), integer(9, math.MaxUint32),
			octets(10, "ticket"), octets(13, strings.Repeat("h", 32)), octets(14, strings.Repeat("h", 64)), octets(15, "scts"),
			octets(16, "ocsp"), boolean(17, true), integer(18, 29), encoded(19, slices.Concat(peer, peer)), octets(21, "age!"),
			boolean(22, false), integer(23, 0x0403), integer(24, math.MaxUint32), integer(25, 604800), octets(26, "h2"),
			boolean(27, true), octets(28, "quic"), octets(29, "alps"), octets(30, "alps"),
		), with(func(s *sslsession.Session) {
			s.Peer, s.SessionIDContext, s.VerifyResult = peer, []byte("context"), 18
			s.ALPN, s.ExtendedMasterSecret = []byte("h2"), true
			s.TicketLifetimeHint, s.MaxEarlyData = math.MaxUint32*time.Second, math.MaxUint32
		})},
		{"a session for several names", boringssl(bytesOf(resumableAcrossNames)), base},
		{"a raw public key", boringssl(bytesOf(peerCertTypeRPK), spki(32)), base},
		{"a raw public key of 200 bytes", boringssl(bytesOf(peerCertTypeRPK), spki(200)), base},
		{"a raw public key of 300 bytes", boringssl(bytesOf(peerCertTypeRPK), spki(300)), base},
		{"time and timeout of zero", minimal(integer(1, 0), integer(2, 0), integer(18, 29)), with(func(s *sslsession.Session) {
			s.StartedAt, s.Timeout = time.Unix(0, 0).UTC(), 0
		})},
		{"what OpenSSL loads as well", boringssl(octets(4, "")), with(func(s *sslsession.Session) {
			s.Format, s.SessionIDContext = sslsession.OpenSSL, []byte{}
		})},
	} {
		if got, err := parse(test.raw.der(t)); err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", test.name, err, got, test.want)
		}
	}
	for name, r := range map[string]raw{
		"no time":                      minimal(integer(2, 7200), integer(18, 29)),
		"no timeout":                   minimal(integer(1, 1700000000), integer(18, 29)),
		"a timeout of 33 bits":         minimal(integer(1, 1), integer(2, 1<<32), integer(18, 29)),
		"a hint for PSK":               boringssl(octets(7, "hint"), integer(18, 29)),
		"a compression":                boringssl(octets(11, "x"), integer(18, 29)),
		"a hash of 31 bytes":           boringssl(octets(13, strings.Repeat("h", 31))),
		"a boolean that is a number":   boringssl(integer(17, 1), integer(18, 29)),
		"a group of 17 bits":           boringssl(integer(18, 1<<16)),
		"a chain that is empty":        boringssl(encoded(3, peer), encoded(19, nil)),
		"a chain of no certificates":   boringssl(encoded(19, []byte("\x30\x00"))),
		"an age of 3 bytes":            boringssl(octets(21, "age")),
		"a type of certificate of 0":   boringssl(bytesOf("\xBF\x20\x03\x02\x01\x00")),
		"a key that is none":           boringssl(bytesOf("\xBF\x21\x02\x30\x00")),
		"a length that is not minimal": boringssl(bytesOf("\xBF\x1F\x81\x03\x01\x01\xFF")),
		"a field of no meaning":        boringssl(bytesOf("\xBF\x22\x03\x01\x01\xFF")),
		"fields out of order":          boringssl(boolean(22, false), integer(18, 29)),
		"something behind the value":   boringssl(encoded(22, []byte("\x01\x01\x00\x00"))),
	} {
		if s, err := parse(r.der(t)); !errors.Is(err, sslsession.ErrNotSession) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}
