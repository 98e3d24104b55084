package sslsession_test

import (
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// raw is an SSL_SESSION to be written, valid or not.
type raw struct {
	version, protocol     int64
	cipher, id, masterKey []byte
	options               []option
}

// option writes an optional field.
type option func(*cryptobyte.Builder)

// minimal is a session of TLS 1.2 with none of the optional fields.
func minimal(options ...option) raw {
	return raw{
		version: 1, protocol: 0x0303, cipher: []byte{0xC0, 0x2F},
		id: []byte("the id"), masterKey: []byte("the master key"), options: options,
	}
}

// explicit is an optional field of a number with a content.
func explicit(number uint8, content func(*cryptobyte.Builder)) option {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.Tag(number).ContextSpecific().Constructed(), content)
	}
}

func integer(number uint8, n int64) option {
	return explicit(number, func(b *cryptobyte.Builder) { b.AddASN1Int64(n) })
}

func octets(number uint8, s string) option {
	return explicit(number, func(b *cryptobyte.Builder) { b.AddASN1OctetString([]byte(s)) })
}

// encoded is a field with a content in DER.
func encoded(number uint8, der []byte) option {
	return explicit(number, func(b *cryptobyte.Builder) { b.AddBytes(der) })
}

func boolean(number uint8, v bool) option {
	return explicit(number, func(b *cryptobyte.Builder) { b.AddASN1Boolean(v) })
}

// keyArg is the field of number 0, the only one that is tagged implicitly.
func keyArg(s string) option {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
	}
}

// bytesOf writes an optional field that is not ASN.1.
func bytesOf(s string) option {
	return func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) }
}

func (r raw) der(t testing.TB) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(r.version)
		b.AddASN1Int64(r.protocol)
		for _, s := range [][]byte{r.cipher, r.id, r.masterKey} {
			b.AddASN1OctetString(s)
		}
		for _, o := range r.options {
			o(b)
		}
	})
	der, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return der
}
