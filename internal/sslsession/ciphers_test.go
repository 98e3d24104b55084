package sslsession

import (
	"crypto/tls"
	"slices"
	"testing"
)

func TestCiphersAreSorted(t *testing.T) {
	if !slices.IsSortedFunc(ciphers, func(a, b suite) int {
		if a.number == b.number {
			t.Errorf("%#04x is there twice", uint16(a.number))
		}
		return int(a.number) - int(b.number)
	}) {
		t.Error("not sorted; some would not be found")
	}
}

// TestCiphersOfGo compares the names with Go's list of the registry.
func TestCiphersOfGo(t *testing.T) {
	for _, want := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		if got := Cipher(want.ID).String(); got != want.Name {
			t.Errorf("%#04x is %s, crypto/tls has %s", want.ID, got, want.Name)
		}
	}
}

func TestCipher(t *testing.T) {
	for c, want := range map[Cipher]string{
		0x0001: "TLS_RSA_WITH_NULL_MD5", // the first
		0x000A: "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
		0x0096: "TLS_RSA_WITH_SEED_CBC_SHA",
		0x00AA: "TLS_DHE_PSK_WITH_AES_128_GCM_SHA256",
		0x1305: "TLS_AES_128_CCM_8_SHA256",
		0xC01D: "TLS_SRP_SHA_WITH_AES_128_CBC_SHA",
		0xC05D: "TLS_ECDHE_ECDSA_WITH_ARIA_256_GCM_SHA384",
		0xC076: "TLS_ECDHE_RSA_WITH_CAMELLIA_128_CBC_SHA256",
		0xC0B4: "TLS_SHA256_SHA256",
		0xC100: "TLS_GOSTR341112_256_WITH_KUZNYECHIK_CTR_OMAC",
		0xCCAE: "TLS_RSA_PSK_WITH_CHACHA20_POLY1305_SHA256", // the last
		0x0000: "0x0000",
		0x0A0A: "0x0A0A",
		0xFFFF: "0xFFFF",
	} {
		if c.String() != want {
			t.Errorf("%#04x is %s, want %s", uint16(c), c, want)
		}
	}
}
