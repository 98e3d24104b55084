package handlers

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/sslsession"
)

// opensslSession is a DER session with a field of this number and type.
func opensslSession(field uint8, content func(*cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1Int64(0x0303)
		for _, s := range []string{"\xC0\x2F", "the id", "the master key"} {
			b.AddASN1OctetString([]byte(s))
		}
		b.AddASN1(asn1.Tag(field).ContextSpecific().Constructed(), content)
	})
	return b.BytesOrPanic()
}

// FuzzDescription stores any bytes: every stored session has a description in valid
// JSON.
func FuzzDescription(f *testing.F) {
	vectors, err := filepath.Glob("../sslsession/testdata/*.pem")
	if err != nil || vectors == nil {
		f.Fatalf("%v, %v", vectors, err)
	}
	for _, path := range vectors {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		der, err := sslsession.DecodePEM(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	text := func(s string) func(*cryptobyte.Builder) {
		return func(b *cryptobyte.Builder) { b.AddASN1OctetString([]byte(s)) }
	}
	f.Add(opensslSession(6, text("\xFF.example")))
	f.Add(opensslSession(16, text("h2\xC0")))
	f.Add(opensslSession(6, text("\xED\xA0\x80<\u2028\x7F\x1B"))) // half of a surrogate pair, and what JSON escapes
	f.Add(opensslSession(3, func(b *cryptobyte.Builder) {
		sequence := func(b *cryptobyte.Builder, content func(*cryptobyte.Builder)) { b.AddASN1(asn1.SEQUENCE, content) }
		sequence(b, func(b *cryptobyte.Builder) { // Certificate
			sequence(b, func(b *cryptobyte.Builder) { // TBSCertificate
				b.AddASN1Int64(1)
				for range 3 {
					sequence(b, func(*cryptobyte.Builder) {})
				}
				sequence(b, func(b *cryptobyte.Builder) { // subject
					b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
						sequence(b, func(b *cryptobyte.Builder) {
							b.AddASN1ObjectIdentifier([]int{2, 5, 4, 3})
							b.AddASN1(asn1.T61String, func(b *cryptobyte.Builder) { b.AddBytes([]byte("\xFFller")) })
						})
					})
				})
			})
		})
	}))
	config := newAPI(f).cfg
	sessions, err := cache.New(cache.Config{Memory: 1 << 20, MaxSessionBytes: 16 << 10})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { sessions.Close() })
	config.Cache, config.Sessions, config.MaxSessionBytes = sessions, nil, 16<<10
	h := New(config).Handler()
	f.Fuzz(func(t *testing.T, data []byte) {
		stored := serve(h, http.MethodPut, "/sessions/01?ttl_seconds=60", bytes.NewReader(data), "Content-Type", mediaBytes)
		if stored.Code >= http.StatusInternalServerError {
			t.Fatalf("stored: %d %s", stored.Code, stored.Body)
		}
		if stored.Code >= http.StatusBadRequest {
			return
		}
		got := serve(h, http.MethodGet, "/sessions/01", nil)
		if body := got.Body.Bytes(); got.Code != http.StatusOK || !json.Valid(body) || !utf8.Valid(body) {
			t.Errorf("described: %d %q", got.Code, body)
		}
	})
}

func TestDescriptionOfBytes(t *testing.T) {
	h := newAPI(t).Handler()
	der := opensslSession(6, func(b *cryptobyte.Builder) { b.AddASN1OctetString([]byte("\xFF.example")) })
	serve(h, http.MethodPut, "/sessions/01?ttl_seconds=60", bytes.NewReader(der), "Content-Type", mediaBytes)
	if got := serve(h, http.MethodGet, "/sessions/01", nil); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "\"server_name\":\"\uFFFD.example\"") {
		t.Errorf("%d %s", got.Code, got.Body)
	}
}
