package sslsession_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/sessapi/sessapi/internal/sslsession"
)

// opensslLoads loads a session in PEM or DER with the openssl command, and returns its
// DER. The session must end where the input ends.
func opensslLoads(t *testing.T, form string, input []byte) (der []byte, ok bool) {
	command := exec.CommandContext(t.Context(), "openssl", "sess_id", "-inform", form, "-outform", "DER")
	command.Stdin = bytes.NewReader(input)
	der, err := command.Output()
	return der, err == nil
}

func needOpenSSL(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// The openssl command accepts every PEM text that DecodePEM must accept, as the same
// session, and none that DecodePEM must reject.
func TestPEMOfOpenSSL(t *testing.T) {
	needOpenSSL(t)
	want := vector{name: "tls12"}.der(t)
	for name, text := range pemTexts(t) {
		if der, ok := opensslLoads(t, "PEM", []byte(text)); !ok || !bytes.Equal(der, want) {
			t.Errorf("%s: openssl reads %d bytes", name, len(der))
		}
	}
	for name, text := range brokenPEMTexts(t) {
		if _, ok := opensslLoads(t, "PEM", []byte(text)); ok {
			t.Errorf("%s: openssl reads it", name)
		}
	}
}

// The openssl command loads every session that counts as OpenSSL's, however it was
// damaged, and none that counts as BoringSSL's.
func TestFormatOfOpenSSL(t *testing.T) {
	needOpenSSL(t)
	seed := seed(t)
	r := rand.New(rand.NewPCG(seed, 1))
	for tried := 0; tried < 150; {
		v := vectors[r.IntN(len(vectors))]
		original := v.der(t)
		want, err := parse(original)
		if err != nil {
			t.Fatal(err)
		}
		der := bytes.Clone(original)
		if r.IntN(10) > 0 {
			der[r.IntN(len(der))] ^= 1 << r.IntN(8)
		}
		s, err := parse(der)
		if err != nil || s.Cipher != want.Cipher { // this build of openssl may lack the cipher
			continue
		}
		tried++
		if _, ok := opensslLoads(t, "DER", der); ok != (s.Format == sslsession.OpenSSL) {
			t.Errorf("a change of %s: format %d, openssl loads it: %t\n%x", v.name, s.Format, ok, der)
		}
	}
}
