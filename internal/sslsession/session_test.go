package sslsession_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sessapi/sessapi/internal/sslsession"
)

// vector is a session in testdata that OpenSSL or BoringSSL wrote, with the output of
// openssl sess_id -text or openssl asn1parse. Properties that are the same in all
// vectors are omitted.
type vector struct {
	name     string
	format   sslsession.Format // 0 means OpenSSL
	protocol string
	cipher   string
	id       string // in hex
	start    int64
	timeout  int64

	verify    int32
	context   string
	server    string
	alpn      string
	ems       bool
	hint      int64
	earlyData uint32
	subject   string // of the certificate, by openssl x509 -nameopt RFC2253,utf8,-esc_msb
}

const (
	ecdheAES256 = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
	ecdheAES128 = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
	aes256      = "TLS_AES_256_GCM_SHA384"

	serverSubject = "CN=server.example"
	clientSubject = `CN=Zoë edge 1,OU=R\+D,O=Example\, Inc.,C=AT`
)

// Sessions without a version in their name are from OpenSSL 3.0's s_client, the others
// from the OpenSSL in Node.js 16 and 24. "server" is the session of the server, which
// has the client's certificate.
var vectors = []vector{
	{
		name: "tls12", protocol: "TLSv1.2", cipher: ecdheAES256,
		id:    "cc939e6273138a3dd197c7a88836767b42080e4f082164aa0ae3bf4a39b7f283",
		start: 1795523239, timeout: 7200, verify: 18, ems: true, hint: 7200, subject: serverSubject,
	},
	{
		name: "tls12-no-ems", protocol: "TLSv1.2", cipher: ecdheAES256,
		id:    "2f6af75396b860a798dc551c730a8dd1c07d6ca05a52f9ee6726aef32581ff36",
		start: 1795523240, timeout: 7200, verify: 18, subject: serverSubject,
	},
	{
		name: "tls12-server-name", protocol: "TLSv1.2", cipher: ecdheAES256,
		id:    "eac339b0ff1eb878f2d48ab5a7b7a128d552fc607142d7d39d0fed8bbc3ee37f",
		start: 1795523776, timeout: 7200, server: "www.example.com", ems: true, hint: 7200, subject: serverSubject,
	},
	{
		name: "tls12-alpn", protocol: "TLSv1.2", cipher: ecdheAES256,
		id:    "3e765ef60c13c02252ab7f3a19fee3292ee47342d2ab5e665446cf9dc89076dd",
		start: 1795523822, timeout: 7200, alpn: "h2", ems: true, hint: 7200, subject: serverSubject,
	},
	{
		name: "tls13", protocol: "TLSv1.3", cipher: aes256,
		id:    "e89f4c8421714eb97fa4c4145ca8bc9b761fa045270f0e077cc76061c57ac144",
		start: 1795523241, timeout: 7200, verify: 18, hint: 7200, subject: serverSubject,
	},
	{
		name: "tls13-early-data", protocol: "TLSv1.3", cipher: aes256,
		id:    "0182adbc8768e332d47dd2b10b4bcc9a80a99028a7071fef659b352147ff20f1",
		start: 1795523778, timeout: 7200, server: "www.example.com", hint: 7200, earlyData: 16384,
		subject: serverSubject,
	},
	{
		name: "psk", protocol: "TLSv1.2", cipher: "TLS_DHE_PSK_WITH_AES_256_GCM_SHA384",
		id:    "15d28c23d77c0eb9cbbda6be3c1f57a2a3bb470a0a8afd5e29645dfc01041b5e",
		start: 1795523243, timeout: 7200, ems: true, hint: 7200,
	},
	{
		name: "dtls12", protocol: "DTLSv1.2", cipher: ecdheAES256,
		id:    "9d80059c001bd4c41e80beb9bae5441303039c6534a0032f891d45eecb36ad71",
		start: 1795523245, timeout: 7200, verify: 18, ems: true, subject: serverSubject,
	},
	{
		name: "openssl-1.1.1-server", protocol: "TLSv1.2", cipher: ecdheAES128,
		id:    "9c9c28d2089b6d4f88fa013c4e43d9bcbdee5ecc6b1f991b53562b3ba19765f8",
		start: 1795523268, timeout: 300, context: "24f56ff8bfcb853eb4dfd87078fbcf70", alpn: "h2", ems: true,
		subject: clientSubject,
	},
	{
		name: "openssl-1.1.1-tls13-client", protocol: "TLSv1.3", cipher: aes256,
		id:    "67e4df5cc4810c385942747891819aec8e5143d1d53aa3ed449b38c5b05704e2",
		start: 1795523269, timeout: 7200, verify: 18, alpn: "h2", hint: 300, subject: serverSubject,
	},
	{
		name: "openssl-3.5-server", protocol: "TLSv1.2", cipher: ecdheAES128,
		id:    "a3cdba848f74588bf8083ffb12469f44708789e79becf9f0b60ea906a8c3da66",
		start: 1795523269, timeout: 300, context: "6c9628c93da5d86efee06a1b0b94b38c", alpn: "h2", ems: true,
		subject: clientSubject,
	},
	{
		name: "openssl-3.5-tls13-server", protocol: "TLSv1.3", cipher: aes256,
		id:    "cf18013e7aa77c04e83df0f3347bed9f66ff16f995752331b88a35c30f05c392",
		start: 1795523269, timeout: 300, context: "5a80dd190bf259233dbbc2e66e3a1f02", alpn: "h2",
		subject: clientSubject,
	},
	{
		name: "openssl-3.5-tls13-client", protocol: "TLSv1.3", cipher: aes256,
		id:    "2d62cb50e86e9b6471467252385df85abaca0f05bb4e49ed41655c980bbf86a3",
		start: 1795523269, timeout: 7200, verify: 18, alpn: "h2", hint: 300, subject: serverSubject,
	},
	{
		name: "boringssl-server", format: sslsession.BoringSSL, protocol: "TLSv1.2", cipher: ecdheAES128,
		id:    "8e5c5e90dc65396237cd769d9e9abc55e4a22c24191c02cf73c60af52cda3e52",
		start: 1795996496, timeout: 7200, verify: 18, context: "sessapi", ems: true, subject: serverSubject,
	},
	{
		name: "boringssl-client", format: sslsession.BoringSSL, protocol: "TLSv1.2", cipher: ecdheAES128,
		id:    "8e5c5e90dc65396237cd769d9e9abc55e4a22c24191c02cf73c60af52cda3e52",
		start: 1795996496, timeout: 7200, verify: 18, ems: true, subject: serverSubject,
	},
	{
		name: "boringssl-tls13-server", format: sslsession.BoringSSL, protocol: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256",
		start: 1795996496, timeout: 172800, context: "sessapi", alpn: "h2",
	},
	{
		name: "boringssl-tls13-client", format: sslsession.BoringSSL, protocol: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256",
		id:    "b6fef17f7b4b15066fd51c920afd764d88f762fa9e0e433be11d0b3e58607932",
		start: 1795996496, timeout: 172800, verify: 18, alpn: "h2", earlyData: 14336, subject: serverSubject,
	},
}

// now is the time at which all sessions are read.
var now = time.Unix(1800000000, 0).UTC()

func parse(der []byte) (sslsession.Session, error) { return sslsession.Parse(der, now) }

func (v vector) pem(t testing.TB) []byte {
	text, err := os.ReadFile(filepath.Join("testdata", v.name+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (v vector) der(t testing.TB) []byte {
	der, err := sslsession.DecodePEM(v.pem(t))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestVectors(t *testing.T) {
	for _, want := range vectors {
		t.Run(want.name, func(t *testing.T) {
			s, err := parse(want.der(t))
			if err != nil {
				t.Fatal(err)
			}
			subject, _ := s.PeerSubject()
			want.format = max(want.format, sslsession.OpenSSL)
			got := vector{
				name: want.name, format: s.Format, protocol: s.Protocol.String(), cipher: s.Cipher.String(),
				id: hex.EncodeToString(s.ID), start: s.StartedAt.Unix(), timeout: int64(s.Timeout / time.Second),
				verify: s.VerifyResult, context: string(s.SessionIDContext),
				server: string(s.ServerName), alpn: string(s.ALPN),
				ems: s.ExtendedMasterSecret, hint: int64(s.TicketLifetimeHint / time.Second),
				earlyData: s.MaxEarlyData, subject: subject,
			}
			if got != want {
				t.Errorf("\ngot  %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestNoSecrets searches a Session, printed in every way, and the memory behind its
// slices for the master key and the ticket.
func TestNoSecrets(t *testing.T) {
	for _, v := range vectors {
		der := v.der(t)
		s, err := parse(der)
		if err != nil {
			t.Fatal(err)
		}
		input := cryptobyte.String(der)
		var fields, skipped, master cryptobyte.String
		var number int
		if !input.ReadASN1(&fields, asn1.SEQUENCE) || !fields.ReadASN1Integer(&number) || !fields.ReadASN1Integer(&number) ||
			!fields.ReadASN1(&skipped, asn1.OCTET_STRING) || !fields.ReadASN1(&skipped, asn1.OCTET_STRING) ||
			!fields.ReadASN1(&master, asn1.OCTET_STRING) || len(master) < 32 {
			t.Fatal("no master key")
		}
		part := []byte(master[:8])
		for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%X", "%s", "%q"} {
			printed := fmt.Sprintf(verb, s)
			for _, secret := range []string{fmt.Sprintf(verb, part), fmt.Sprintf("%x", part)} {
				if strings.Contains(printed, strings.Trim(secret, "[]{}")) {
					t.Errorf("%s: %s prints the master key", v.name, verb)
				}
			}
		}
		for _, slice := range [][]byte{s.ID, s.Peer, s.SessionIDContext, s.ServerName, s.ALPN} {
			if cap(slice) != len(slice) {
				t.Errorf("%s: a slice of %d bytes reaches %d", v.name, len(slice), cap(slice))
			}
		}
	}
}

// TestFields covers the fields and versions that are in no vector.
func TestFields(t *testing.T) {
	zero := sslsession.Session{
		Format: sslsession.OpenSSL, Protocol: 0x0303, Cipher: 0xC02F, ID: []byte("the id"),
		StartedAt: now, Timeout: 3 * time.Second,
	}
	with := func(change func(*sslsession.Session)) sslsession.Session {
		s := zero
		change(&s)
		return s
	}
	peer := certificate(commonNames(1, "peer"))
	var key cryptobyte.Builder
	publicKey(&key)
	tests := []struct {
		name string
		raw  raw
		want sslsession.Session
	}{
		{"none that is optional", minimal(), zero},
		{"no ID, no master key", raw{version: 1, protocol: 0x0303, cipher: []byte{0xC0, 0x2F}}, with(func(s *sslsession.Session) {
			s.ID = []byte{}
		})},
		{"all of OpenSSL 1.1.1", minimal(
			keyArg(""), integer(1, 1700000000), integer(2, 300), encoded(3, peer), octets(4, "context"), integer(5, 18), octets(6, "example.org"), octets(7, "hint"), octets(8, "user"),
			integer(9, math.MaxUint32), octets(10, "ticket"), octets(11, "\x01"), octets(12, "srp user"), integer(13, 1),
			integer(14, math.MaxUint32), integer(15, math.MaxUint32), octets(16, "h2"), integer(17, 4), octets(18, "data"),
		), with(func(s *sslsession.Session) {
			s.StartedAt, s.Timeout = time.Unix(1700000000, 0).UTC(), 300*time.Second
			s.Peer, s.VerifyResult, s.SessionIDContext = peer, 18, []byte("context")
			s.ServerName, s.ALPN, s.ExtendedMasterSecret = []byte("example.org"), []byte("h2"), true
			s.TicketLifetimeHint, s.MaxEarlyData = math.MaxUint32*time.Second, math.MaxUint32
		})},
		{"kex_group of OpenSSL 3.0", minimal(integer(2, 7), integer(19, 0x11EC)), with(func(s *sslsession.Session) {
			s.Timeout = 7 * time.Second
		})},
		{"peer_rpk of OpenSSL 3.2", minimal(integer(19, 0), octets(20, string(key.BytesOrPanic()))), zero},
		{"time and timeout of zero", minimal(integer(1, 0), integer(2, 0)), zero},
		{"flags without the extended master secret", minimal(integer(13, 0xFE)), zero},
		{"a negative verify result", minimal(integer(5, math.MinInt32)), with(func(s *sslsession.Session) {
			s.VerifyResult = math.MinInt32
		})},
		{"the last start there is", minimal(integer(1, 253402300799)), with(func(s *sslsession.Session) {
			s.StartedAt = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
		})},
		{"a timeout that is too long for a Duration", minimal(integer(2, math.MaxInt64)), with(func(s *sslsession.Session) {
			s.Timeout = 9223372036 * time.Second // 2^63-1 nanoseconds, in whole seconds
		})},
	}
	for _, test := range tests {
		got, err := parse(test.raw.der(t))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		} else if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", test.name, got, test.want)
		}
	}
}

func TestEndsAt(t *testing.T) {
	tests := []struct {
		options []option
		want    time.Time
	}{
		{nil, now.Add(3 * time.Second)},
		{[]option{integer(2, 300)}, now.Add(300 * time.Second)},
		{[]option{integer(1, 1700000000)}, time.Unix(1700000003, 0)},
		{[]option{integer(1, 1700000000), integer(2, 300)}, time.Unix(1700000300, 0)},
		{[]option{integer(1, 253402300799), integer(2, math.MaxInt64)}, time.Unix(253402300799+math.MaxInt64/int64(time.Second), 0)},
	}
	for _, test := range tests {
		s, err := parse(minimal(test.options...).der(t))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.EndsAt(); !got.Equal(test.want) {
			t.Errorf("ends at %v, want %v", got, test.want)
		}
	}
}

func TestBroken(t *testing.T) {
	change := func(f func(*raw)) []byte {
		r := minimal()
		f(&r)
		return r.der(t)
	}
	with := func(options ...option) []byte { return minimal(options...).der(t) }
	long, peer := strings.Repeat("x", 256), certificate(nil)
	const order = "the order or the encoding of the optional fields"
	tests := []struct {
		name  string
		der   []byte
		field string // in the error
	}{
		{"nothing", nil, "SEQUENCE"},
		{"not a SEQUENCE", []byte{0x31, 0}, "SEQUENCE"},
		{"an empty SEQUENCE", []byte{0x30, 0}, "version"},
		{"bytes behind", append(with(), 0), "SEQUENCE"},
		{"an indefinite length", []byte{0x30, 0x80, 2, 1, 1, 0, 0}, "SEQUENCE"},
		{"a length of 4 GiB", []byte{0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 2, 1, 1}, "SEQUENCE"},
		{"a length that is not minimal", append([]byte{0x30, 0x81, byte(len(with()) - 2)}, with()[2:]...), "SEQUENCE"},
		{"version 0", change(func(r *raw) { r.version = 0 }), "version"},
		{"version 2", change(func(r *raw) { r.version = 2 }), "version"},
		{"SSL 2", change(func(r *raw) { r.protocol = 2 }), "ssl_version"},
		{"TLS 1.2 and 2^16", change(func(r *raw) { r.protocol = 0x10303 }), "ssl_version"},
		{"a negative protocol", change(func(r *raw) { r.protocol = -0x0100 }), "ssl_version"},
		{"a cipher of 1 byte", change(func(r *raw) { r.cipher = []byte{1} }), "cipher"},
		{"a cipher of 3 bytes", change(func(r *raw) { r.cipher = []byte{1, 2, 3} }), "cipher"},
		{"a cipher that OpenSSL does not know", change(func(r *raw) { r.cipher = []byte{0x0A, 0x0A} }), "cipher"},
		{"an ID of 33 bytes", change(func(r *raw) { r.id = []byte(long[:33]) }), "session_id"},
		{"a master key of 513 bytes", change(func(r *raw) { r.masterKey = make([]byte, 513) }), "master_key"},
		{"a cut key_arg", with(bytesOf("\x80\x01")), "key_arg"},
		{"key_arg, explicit", with(octets(0, "x")), order},
		{"key_arg twice", with(keyArg("x"), keyArg("x")), order},
		{"a negative time", with(integer(1, -1)), "time"},
		{"a time after the year 9999", with(integer(1, 253402300800)), "time"},
		{"a time that is no number", with(octets(1, "now")), "time"},
		{"a time of 9 bytes", with(bytesOf("\xA1\x0B\x02\x09\x01\x00\x00\x00\x00\x00\x00\x00\x00")), "time"},
		{"a time that is not minimal", with(bytesOf("\xA1\x04\x02\x02\x00\x01")), "time"},
		{"two times in one field", with(bytesOf("\xA1\x06\x02\x01\x01\x02\x01\x01")), "time"},
		{"a negative timeout", with(integer(2, -1)), "timeout"},
		{"a peer that is no SEQUENCE", with(octets(3, "certificate")), "peer"},
		{"a peer that is no certificate", with(encoded(3, []byte("\x30\x00"))), "peer"},
		{"two peers", with(encoded(3, append(peer, peer...))), "peer"},
		{"a context of 33 bytes", with(octets(4, long[:33])), "session_id_context"},
		{"a verify result of 33 bits", with(integer(5, math.MaxInt32+1)), "verify_result"},
		{"a server name of 256 bytes", with(octets(6, long)), "tlsext_hostname"},
		{"a server name with a zero byte", with(octets(6, "good.example\x00.bad.example")), "tlsext_hostname"},
		{"a PSK hint that is no string", with(integer(7, 1)), "psk_identity_hint"},
		{"a PSK identity that is no string", with(integer(8, 1)), "psk_identity"},
		{"a negative lifetime hint", with(integer(9, -1)), "tlsext_tick_lifetime_hint"},
		{"a ticket that is no string", with(integer(10, 1)), "tlsext_tick"},
		{"a compression that is no string", with(integer(11, 1)), "comp_id"},
		{"two compressions", with(octets(11, "xx")), "comp_id"},
		{"an SRP user that is no string", with(integer(12, 1)), "srp_username"},
		{"flags of 33 bits", with(integer(13, 1<<32)), "flags"},
		{"a negative age", with(integer(14, -1)), "tlsext_tick_age_add"},
		{"early data of 33 bits", with(integer(15, 1<<32)), "max_early_data"},
		{"an ALPN of 256 bytes", with(octets(16, long)), "alpn_selected"},
		{"a negative fragment length", with(integer(17, -1)), "tlsext_max_fragment_len_mode"},
		{"ticket data that is no string", with(integer(18, 1)), "ticket_appdata"},
		{"a negative group", with(integer(19, -1)), "kex_group"},
		{"a raw key that is no string", with(integer(20, 1)), "peer_rpk"},
		{"a raw key that is no key", with(octets(20, "a key")), "peer_rpk"},
		{"a field of a later OpenSSL", with(octets(21, "new")), "OpenSSL does not know"},
		{"a field of two bytes", with(bytesOf("\xBF\x1F\x02\x05\x00")), "OpenSSL does not know"},
		{"a field twice", with(integer(1, 1), integer(1, 1)), order},
		{"fields out of order", with(integer(2, 1), integer(1, 1)), order},
		{"a number of two bytes that fits into one", with(bytesOf("\xBF\x1E\x02\x05\x00")), order},
		{"a number of three bytes", with(bytesOf("\xBF\x81\x00\x02\x05\x00")), order},
		{"a field of two bytes without a length", with(bytesOf("\xBF\x1F")), order},
		{"an implicit tag", with(bytesOf("\x95\x01x")), order},
		{"a tag without a class", with(bytesOf("\x04\x01x")), order},
		{"an application's tag", with(bytesOf("\x61\x02\x05\x00")), order},
		{"a private tag", with(bytesOf("\xE1\x02\x05\x00")), order},
		{"half a field", with(bytesOf("\xA1\x03\x02")), order},
	}
	for _, test := range tests {
		s, err := parse(test.der)
		if !errors.Is(err, sslsession.ErrNotSession) || errors.Is(err, sslsession.ErrTooLarge) || !strings.Contains(err.Error(), test.field) {
			t.Errorf("%s: error %v, want one of %s", test.name, err, test.field)
		}
		if !reflect.ValueOf(s).IsZero() {
			t.Errorf("%s: returned %+v beside an error", test.name, s)
		}
	}
}

func TestTooLarge(t *testing.T) {
	// The 8 bytes are the tags and lengths around the ticket.
	room := sslsession.MaxSize - len(minimal().der(t)) - 8 - 2
	largest := minimal(octets(10, strings.Repeat("t", room))).der(t)
	if len(largest) != sslsession.MaxSize {
		t.Fatalf("built %d bytes, not %d", len(largest), sslsession.MaxSize)
	}
	if _, err := parse(largest); err != nil {
		t.Errorf("%d bytes: %v", len(largest), err)
	}
	_, err := parse(minimal(octets(10, strings.Repeat("t", room+1))).der(t))
	if !errors.Is(err, sslsession.ErrTooLarge) || !errors.Is(err, sslsession.ErrNotSession) {
		t.Errorf("one more: %v", err)
	}
}

func TestTruncated(t *testing.T) {
	for _, v := range vectors {
		der := v.der(t)
		for size := range der {
			if _, err := parse(der[:size]); !errors.Is(err, sslsession.ErrNotSession) {
				t.Errorf("%s: the first %d of %d bytes: %v", v.name, size, len(der), err)
			}
		}
	}
}

// TestFlippedBits parses each vector with each bit flipped. A changed session decodes
// to other bytes or does not decode.
func TestFlippedBits(t *testing.T) {
	for _, v := range vectors {
		der := v.der(t)
		for bit := range 8 * len(der) {
			der[bit/8] ^= 1 << (bit % 8)
			check(t, der)
			der[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// check parses any bytes and checks the guarantees of the package.
func check(t *testing.T, der []byte) {
	t.Helper()
	s, err := parse(der)
	if err != nil {
		if !errors.Is(err, sslsession.ErrNotSession) || !reflect.ValueOf(s).IsZero() {
			t.Fatalf("%v, with %+v", err, s)
		}
		return
	}
	switch {
	case len(der) > sslsession.MaxSize, len(s.ID) > 32, len(s.SessionIDContext) > 32, len(s.ServerName) > 255, len(s.ALPN) > 255:
		t.Fatalf("out of bounds: %+v", s)
	case s.StartedAt.Unix() < 0, s.StartedAt.Year() > 9999, s.StartedAt.Location() != time.UTC:
		t.Fatalf("started at %v", s.StartedAt)
	case s.Timeout < 0, s.Timeout%time.Second != 0, s.EndsAt().Before(s.StartedAt):
		t.Fatalf("timeout %v, ends at %v", s.Timeout, s.EndsAt())
	}
	for _, slice := range [][]byte{s.ID, s.Peer, s.SessionIDContext, s.ServerName, s.ALPN} {
		if cap(slice) != len(slice) || !bytes.Contains(der, slice) {
			t.Fatalf("%x is not a part of the session", slice)
		}
	}
	s.PeerSubject()
	for _, size := range []int{0, len(der) / 2, len(der) - 1} {
		if _, err := parse(der[:size]); err == nil {
			t.Fatalf("decodes when cut to %d of %d bytes", size, len(der))
		}
	}
	if _, err := parse(append(bytes.Clone(der), 0)); err == nil {
		t.Fatal("decodes with a byte behind it")
	}
}

// seed returns a random seed. SESSAPI_TEST_SEED repeats one.
func seed(t *testing.T) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("SESSAPI_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SESSAPI_TEST_SEED=%d", seed)
	return seed
}

// TestRandom writes random sessions and reads them back.
func TestRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 0))
	text := func(most int) []byte {
		s := make([]byte, 1+r.IntN(most))
		for i := range s {
			s[i] = byte(1 + r.IntN(255))
		}
		return s
	}
	peer := certificate(commonNames(1, "peer"))
	var key cryptobyte.Builder
	publicKey(&key)
	for range 2000 {
		protocols := []sslsession.Protocol{0x0300, 0x0301, 0x0302, 0x0303, 0x0304, 0xFEFF, 0xFEFD, 0x0100}
		ciphers := []sslsession.Cipher{0x0001, 0x1301, 0xC02F, 0xFF87}
		want := sslsession.Session{
			Format:   sslsession.OpenSSL,
			Protocol: protocols[r.IntN(len(protocols))], Cipher: ciphers[r.IntN(len(ciphers))],
			ID: text(32), StartedAt: now, Timeout: 3 * time.Second,
		}
		session := raw{
			version: 1, protocol: int64(want.Protocol), cipher: []byte{byte(want.Cipher >> 8), byte(want.Cipher)},
			id: want.ID, masterKey: text(512),
		}
		for number := range uint8(21) {
			if r.IntN(2) == 0 {
				continue
			}
			n := 1 + r.Int64N(1<<(1+r.IntN(31)))
			s := text(255)
			field := octets(number, string(s))
			switch number {
			case 0:
				field = keyArg(string(s))
			case 1:
				field, want.StartedAt = integer(number, n), time.Unix(n, 0).UTC()
			case 2:
				field, want.Timeout = integer(number, n), time.Duration(n)*time.Second
			case 3:
				field, want.Peer = encoded(number, peer), peer
			case 4:
				want.SessionIDContext = text(32)
				field = octets(number, string(want.SessionIDContext))
			case 5:
				want.VerifyResult = int32(n)
				field = integer(number, int64(want.VerifyResult))
			case 6:
				want.ServerName = s
			case 9:
				field, want.TicketLifetimeHint = integer(number, n), time.Duration(n)*time.Second
			case 11:
				field = octets(number, string(s[:1]))
			case 13:
				field, want.ExtendedMasterSecret = integer(number, n), n&1 != 0
			case 14, 17, 19:
				field = integer(number, n)
			case 15:
				field, want.MaxEarlyData = integer(number, n), uint32(n)
			case 16:
				want.ALPN = s
			case 20:
				field = octets(number, string(key.BytesOrPanic()))
			}
			session.options = append(session.options, field)
		}
		der := session.der(t)
		got, err := parse(der)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("error %v\n%x\ngot  %+v\nwant %+v", err, der, got, want)
		}
		check(t, der)
	}
}

func TestPeerSubject(t *testing.T) {
	brainpool, err := os.ReadFile("testdata/brainpool-certificate.der") // crypto/x509 rejects it
	if err != nil {
		t.Fatal(err)
	}
	name := func(typ asn1.Tag, value string) []byte {
		return certificateOf(func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
				sequence(b, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier([]int{2, 5, 4, 3})
					b.AddASN1(typ, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
				})
			})
		})
	}
	tests := []struct {
		name, want string
		peer       []byte
		ok         bool
	}{
		{"no certificate", "", nil, false},
		{"a key on a Brainpool curve", "CN=brainpool.example,C=DE", brainpool, true},
		{"cut", "", brainpool[:60], false},
		{"UTF-8", "CN=ü", name(asn1.UTF8String, "ü"), true},
		{"a number as a name", "", name(asn1.INTEGER, "\x01"), false},
		{"a UniversalString, which Go does not read", "", name(asn1.Tag(28), "\x00\x00\x00x"), false},
		{"broken UTF-8", "", name(asn1.UTF8String, "\xFF"), false},
	}
	for _, test := range tests {
		s := sslsession.Session{Peer: test.peer}
		if got, ok := s.PeerSubject(); got != test.want || ok != test.ok {
			t.Errorf("%s: %q, %t", test.name, got, ok)
		}
	}
}

func TestProtocol(t *testing.T) {
	names := map[sslsession.Protocol]string{
		0x0300: "SSLv3", 0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3",
		0x0100: "DTLSv0.9", 0xFEFF: "DTLSv1", 0xFEFD: "DTLSv1.2", 0x0305: "0x0305", 0xFEFC: "0xFEFC",
	}
	for p, want := range names {
		if p.String() != want {
			t.Errorf("%#04x is %s, want %s", uint16(p), p, want)
		}
		r := minimal()
		r.protocol = int64(p)
		if s, err := parse(r.der(t)); err != nil || s.Protocol != p {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestParseAllocates(t *testing.T) {
	for _, v := range vectors {
		der := v.der(t)
		if n := testing.AllocsPerRun(100, func() { _, _ = parse(der) }); n != 0 {
			t.Errorf("%s: %v allocations", v.name, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.der(f))
	}
	f.Add(minimal(integer(19, 29), octets(20, "key")).der(f))
	f.Add(minimal(integer(1, 1), integer(2, 1), bytesOf("\xBF\x1F\x03\x01\x01\xFF")).der(f))
	f.Fuzz(check)
}

func BenchmarkParse(b *testing.B) {
	for _, name := range []string{"tls12-no-ems", "openssl-3.5-tls13-client"} {
		b.Run(name, func(b *testing.B) {
			der := vector{name: name}.der(b)
			b.SetBytes(int64(len(der)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parse(der); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPeerSubject(b *testing.B) {
	s, err := parse(vector{name: "openssl-3.5-server"}.der(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := s.PeerSubject(); !ok {
			b.Fatal("no subject")
		}
	}
}
