package sslsession_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/sessapi/sessapi/internal/sslsession"
)

// opensslLoads has the openssl command load a session in PEM or DER, and returns its
// DER. It takes a session that stands at the end of its input alone.
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

// The openssl command takes every PEM text that DecodePEM is held to, as the same
// session, and none that DecodePEM has to refuse.
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

// What is called OpenSSL's the openssl command loads, whatever became of a session
// on the way; what is called BoringSSL's it does not.
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
		if err != nil || s.Cipher != want.Cipher { // which this build of openssl may not have
			continue
		}
		tried++
		if _, ok := opensslLoads(t, "DER", der); ok != (s.Format == sslsession.OpenSSL) {
			t.Errorf("a change of %s: format %d, openssl loads it: %t\n%x", v.name, s.Format, ok, der)
		}
	}
}
