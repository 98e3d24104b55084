package sslsession_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sessapi/sessapi/internal/sslsession"
)

// rdn is the attributes of a relative distinguished name, all of one type.
type rdn struct {
	oid    []int
	values []string
}

// commonNames are n names of an attribute each.
func commonNames(n int, value string) []rdn {
	return slices.Repeat([]rdn{{[]int{2, 5, 4, 3}, []string{value}}}, n)
}

// certificate is a minimal certificate with a subject.
func certificate(subject []rdn) []byte {
	return certificateOf(func(b *cryptobyte.Builder) {
		for _, name := range subject {
			b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
				for _, value := range name.values {
					sequence(b, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(name.oid)
						b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
					})
				}
			})
		}
	})
}

// certificateOf is a certificate whose subject has this content.
func certificateOf(subject func(*cryptobyte.Builder)) []byte {
	algorithm := func(b *cryptobyte.Builder) {
		sequence(b, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier([]int{1, 2, 840, 10045, 4, 3, 2}) })
	}
	var b cryptobyte.Builder
	sequence(&b, func(b *cryptobyte.Builder) { // Certificate
		sequence(b, func(b *cryptobyte.Builder) { // TBSCertificate, of version 1
			b.AddASN1Int64(1)
			algorithm(b)
			sequence(b, func(*cryptobyte.Builder) {}) // issuer
			sequence(b, func(b *cryptobyte.Builder) { // validity
				b.AddASN1UTCTime(time.Unix(1700000000, 0))
				b.AddASN1GeneralizedTime(time.Unix(1800000000, 0))
			})
			sequence(b, subject)
			publicKey(b)
		})
		algorithm(b)
		b.AddASN1BitString([]byte("signature"))
	})
	return b.BytesOrPanic()
}

// publicKey is the SubjectPublicKeyInfo of an Ed25519 key.
func publicKey(b *cryptobyte.Builder) {
	sequence(b, func(b *cryptobyte.Builder) {
		sequence(b, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier([]int{1, 3, 101, 112}) })
		b.AddASN1BitString([]byte("an Ed25519 key has thirty-two by"))
	})
}

func sequence(b *cryptobyte.Builder, content func(*cryptobyte.Builder)) {
	b.AddASN1(asn1.SEQUENCE, content)
}

func TestLargeSubject(t *testing.T) {
	cn := []int{2, 5, 4, 3}
	const headers = 21 // bytes of a subject of one attribute that are not its value
	for _, test := range []struct {
		name    string
		subject []rdn
		want    bool
	}{
		{"64 attributes", commonNames(64, "x"), true},
		{"65 attributes", commonNames(65, "x"), false},
		{"64 attributes in one name", []rdn{{cn, slices.Repeat([]string{"x"}, 64)}}, true},
		{"65 attributes in one name", []rdn{{cn, slices.Repeat([]string{"x"}, 65)}}, false},
		{"2 KiB", commonNames(1, strings.Repeat("x", 2048-headers)), true},
		{"more than 2 KiB", commonNames(1, strings.Repeat("x", 2049-headers)), false},
	} {
		s := sslsession.Session{Peer: certificate(test.subject)}
		subject, ok := s.PeerSubject()
		if ok != test.want || ok != (subject != "") {
			t.Errorf("%s: described %t", test.name, ok)
		}
	}
}

// shapes are certificates that need much work for their size, each of about this many
// bytes.
var shapes = []struct {
	name string
	make func(size int) []byte
}{
	{"names", func(size int) []byte { return certificate(commonNames(size/12, "x")) }},
	{"empty-names", func(size int) []byte { return certificate(make([]rdn, size/2)) }},
	{"attributes", func(size int) []byte {
		return certificate([]rdn{{[]int{2, 5, 4, 3}, slices.Repeat([]string{"x"}, size/10)}})
	}},
	{"value", func(size int) []byte { return certificate(commonNames(1, strings.Repeat("\"", size))) }},
	{"long-type", func(size int) []byte {
		return certificate([]rdn{{slices.Concat([]int{2, 5}, make([]int, size)), []string{"x"}}})
	}},
	{"types", func(size int) []byte {
		return certificate(slices.Repeat([]rdn{{[]int{2, 5, 9, 1 << 30, 1 << 30}, []string{"x"}}}, size/23))
	}},
}

// TestDescriptionIsLinear limits the memory of a description, which unlike its time is
// the same on every machine: to that of the largest described subject, plus a multiple
// of the stored size.
func TestDescriptionIsLinear(t *testing.T) {
	for _, shape := range shapes {
		for _, size := range []int{1 << 10, 4 << 10, 16 << 10, 63 << 10} {
			der := minimal(encoded(3, shape.make(size))).der(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			describe(t, der)
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > 256<<10+32*uint64(len(der)) {
				t.Errorf("%s of %d bytes: took %d bytes", shape.name, len(der), took)
			}
		}
	}
}

// BenchmarkDescribe shows time that is linear in the size, or constant.
func BenchmarkDescribe(b *testing.B) {
	for _, shape := range shapes {
		for _, size := range []int{1 << 10, 2 << 10, 4 << 10, 16 << 10, 32 << 10, 63 << 10} {
			der := minimal(encoded(3, shape.make(size))).der(b)
			b.Run(fmt.Sprintf("%s/%d", shape.name, len(der)), func(b *testing.B) {
				b.SetBytes(int64(len(der)))
				b.ReportAllocs()
				for b.Loop() {
					describe(b, der)
				}
			})
		}
	}
}

func describe(t testing.TB, der []byte) {
	s, err := parse(der)
	if err != nil {
		t.Fatal(err)
	}
	s.PeerSubject()
}
