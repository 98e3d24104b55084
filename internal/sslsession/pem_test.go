package sslsession_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sessapi/sessapi/internal/sslsession"
)

const (
	begin = "-----BEGIN SSL SESSION PARAMETERS-----\n"
	end   = "-----END SSL SESSION PARAMETERS-----\n"
)

// TestPEMVectors compares the output of AppendPEM with files written by openssl.
func TestPEMVectors(t *testing.T) {
	for _, v := range vectors {
		text := v.pem(t)
		block, rest := pem.Decode(text)
		if block == nil || len(rest) > 0 {
			t.Fatalf("%s: no PEM for encoding/pem", v.name)
		}
		der, err := sslsession.DecodePEM(text)
		if err != nil || !bytes.Equal(der, block.Bytes) {
			t.Errorf("%s: %v", v.name, err)
		}
		if got := sslsession.AppendPEM(nil, der); !bytes.Equal(got, text) {
			t.Errorf("%s: wrote\n%s\nopenssl wrote\n%s", v.name, got, text)
		}
	}
}

// TestAppendPEM covers the ends of lines and of base64 groups.
func TestAppendPEM(t *testing.T) {
	der := bytes.Repeat([]byte("0123456789"), 30)
	for size := range der {
		want := pem.EncodeToMemory(&pem.Block{Type: "SSL SESSION PARAMETERS", Bytes: der[:size]})
		dst := make([]byte, 3, 3+sslsession.PEMSize(size))
		got := sslsession.AppendPEM(dst, der[:size])
		if !bytes.Equal(got[3:], want) {
			t.Errorf("%d bytes: %q", size, got[3:])
		}
		if len(got) != cap(dst) || &got[0] != &dst[0] {
			t.Errorf("%d bytes: PEMSize says %d, is %d", size, cap(dst)-3, len(got)-3)
		}
	}
}

// pemBody is the base64 of a session that OpenSSL loads, in lines.
func pemBody(t testing.TB) string {
	return strings.TrimSuffix(strings.TrimPrefix(string(vector{name: "tls12"}.pem(t)), begin), end)
}

// pemTexts are texts with the session of pemBody, which OpenSSL reads.
func pemTexts(t testing.TB) map[string]string {
	pemBody := pemBody(t)
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("not really")}))
	encrypted := "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"
	other := string(vector{name: "psk"}.pem(t))
	oneLine := strings.ReplaceAll(pemBody, "\n", "")
	return map[string]string{
		"as written":                begin + pemBody + end,
		"without the last line end": strings.TrimSuffix(begin+pemBody+end, "\n"),
		"CR LF":                     strings.ReplaceAll(begin+pemBody+end, "\n", "\r\n"),
		"lines of another length":   begin + pemBody[:8] + "\n" + pemBody[8:12] + "\n" + pemBody[12:] + end,
		"one line":                  begin + oneLine + "\n" + end,
		"text before":               "SSL-Session:\n    Protocol  : TLSv1.3\n ---\n" + begin + pemBody + end,
		"text after":                begin + pemBody + end + "x",
		"text on both sides":        "a\n\n" + begin + pemBody + end + "\nb: c\n",
		"an empty line first":       begin + "\n" + pemBody + end,
		"a block within a line":     "see -----BEGIN CERTIFICATE-----\n" + begin + pemBody + end,
		"half a line of a block":    "-----BEGIN CERTIFICATE\n" + begin + pemBody + end,
		"white space after":         begin + pemBody + end + " \t\r\n\n",
		"white space in the lines":  strings.ReplaceAll(begin+pemBody+end, "\n", " \t\n"),
		"control characters":        strings.ReplaceAll(begin+pemBody+end, "\n", "\x01\f\n"),
		"white space before lines":  begin + " " + strings.ReplaceAll(strings.TrimSpace(pemBody), "\n", "\n\t ") + "\n" + end,
		"a certificate before":      certificate + begin + pemBody + end,
		"a certificate after":       begin + pemBody + end + certificate,
		"an encrypted key before":   encrypted + begin + pemBody + end,
		"a broken block after":      begin + pemBody + end + "-----BEGIN CERTIFICATE-----\n",
		"another session after":     begin + pemBody + end + other,
	}
}

// brokenPEMTexts are texts that both OpenSSL and DecodePEM reject.
func brokenPEMTexts(t testing.TB) map[string]string {
	pemBody := pemBody(t)
	return map[string]string{
		"nothing":                       "",
		"no block":                      "hello\n" + pemBody,
		"no end":                        begin + pemBody,
		"an end of another":             begin + pemBody + "-----END CERTIFICATE-----\n",
		"an end within a line":          begin + strings.TrimSpace(pemBody) + end,
		"an empty block":                begin + end,
		"headers":                       begin + "Proc-Type: 4,ENCRYPTED\n\n" + pemBody + end,
		"no base64":                     begin + "\x00\xFF\n" + end,
		"cut base64":                    begin + pemBody[:len(pemBody)-2] + "\n" + end,
		"base64 behind the end":         begin + "AA==\nAAAA\n" + end,
		"a block in a block":            begin + begin + pemBody + end,
		"another base64":                begin + "_-__\n" + end,
		"an indented block":             " " + begin + pemBody + end,
		"a block without an end before": "-----BEGIN CERTIFICATE-----\nAAAA\n" + begin + pemBody + end,
	}
}

func TestDecodePEM(t *testing.T) {
	want := vector{name: "tls12"}.der(t)
	for name, text := range pemTexts(t) {
		if got, err := sslsession.DecodePEM([]byte(text)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if !sslsession.IsPEM([]byte(text)) {
			t.Errorf("%s: is not taken for PEM", name)
		}
	}
	for name, text := range brokenPEMTexts(t) {
		got, err := sslsession.DecodePEM([]byte(text))
		if !errors.Is(err, sslsession.ErrPEM) || errors.Is(err, sslsession.ErrPEMType) || got != nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, typ := range []string{"CERTIFICATE", "PRIVATE KEY", "SSL SESSION", "SSL SESSION PARAMETERS ", ""} {
		text := strings.ReplaceAll(string(vector{name: "tls12"}.pem(t)), "SSL SESSION PARAMETERS", typ)
		_, err := sslsession.DecodePEM([]byte(text))
		if !errors.Is(err, sslsession.ErrPEMType) || !errors.Is(err, sslsession.ErrPEM) {
			t.Errorf("type %q: %v", typ, err)
		}
	}
	for _, data := range []string{"", "opaque", "\x30\x03\x02\x01\x01", "an " + begin, "a certificate\n-----BEGIN CERTIFICATE-----\n"} {
		if sslsession.IsPEM([]byte(data)) {
			t.Errorf("%q is taken for PEM", data)
		}
	}
}

func TestDecodePEMTooLarge(t *testing.T) {
	largest := sslsession.AppendPEM(nil, make([]byte, sslsession.MaxSize))
	largest = bytes.ReplaceAll(largest, []byte("\n"), []byte("\r\n"))
	if der, err := sslsession.DecodePEM(largest); err != nil || len(der) != sslsession.MaxSize {
		t.Errorf("%d bytes, %v", len(der), err)
	}
	for name, text := range map[string][]byte{
		"one more":        sslsession.AppendPEM(nil, make([]byte, sslsession.MaxSize+1)),
		"twice":           sslsession.AppendPEM(nil, make([]byte, 2*sslsession.MaxSize)),
		"line ends alone": slices.Concat([]byte(begin), bytes.Repeat([]byte("\n"), 3*sslsession.MaxSize), []byte(end)),
	} {
		if _, err := sslsession.DecodePEM(text); !errors.Is(err, sslsession.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzPEM reads its input as a text, which must survive writing and reading, and as a
// session to be written and read.
func FuzzPEM(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.pem(f))
	}
	for _, text := range pemTexts(f) {
		f.Add([]byte(text))
	}
	f.Add([]byte("text before\r\n" + strings.ReplaceAll(begin+"AAECAw==\n"+end, "\n", "\r\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		original := bytes.Clone(data)
		der, err := sslsession.DecodePEM(data)
		if !bytes.Equal(data, original) {
			t.Fatal("the text was changed")
		}
		if err != nil && (der != nil || !errors.Is(err, sslsession.ErrPEM) && !errors.Is(err, sslsession.ErrTooLarge)) {
			t.Fatalf("%q, %v", der, err)
		}
		if err == nil {
			if len(der) == 0 || !sslsession.IsPEM(data) {
				t.Fatalf("%d bytes from what is PEM %t", len(der), sslsession.IsPEM(data))
			}
		}
		for _, der := range [][]byte{der, data} {
			if len(der) == 0 || len(der) > sslsession.MaxSize {
				continue
			}
			text := sslsession.AppendPEM(nil, der)
			if len(text) != sslsession.PEMSize(len(der)) {
				t.Fatalf("%d bytes of PEM, PEMSize says %d", len(text), sslsession.PEMSize(len(der)))
			}
			if got, err := sslsession.DecodePEM(text); err != nil || !bytes.Equal(got, der) {
				t.Fatalf("came back as %q, %v", got, err)
			}
		}
	})
}

func BenchmarkDecodePEM(b *testing.B) {
	text := vector{name: "openssl-3.5-tls13-client"}.pem(b)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := sslsession.DecodePEM(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendPEM(b *testing.B) {
	der := vector{name: "openssl-3.5-tls13-client"}.der(b)
	text := make([]byte, 0, sslsession.PEMSize(len(der)))
	b.SetBytes(int64(len(der)))
	b.ReportAllocs()
	for b.Loop() {
		sslsession.AppendPEM(text, der)
	}
}
