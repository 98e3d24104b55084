package sslsession_test

import (
	"bytes"
	"encoding/base64"
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

// TestPEMVectors holds what AppendPEM writes to the files of openssl.
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

// TestAppendPEM goes over the ends of lines and of groups of base64.
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

func TestDecodePEM(t *testing.T) {
	der := []byte("any bytes, even if they are no session at all")
	body := base64.StdEncoding.EncodeToString(der) + "\n"
	for name, text := range map[string]string{
		"as written":                begin + body + end,
		"without the last line end": strings.TrimSuffix(begin+body+end, "\n"),
		"CR LF":                     strings.ReplaceAll(begin+body+end, "\n", "\r\n"),
		"lines of another length":   begin + body[:8] + "\n" + body[8:12] + "\n\n" + body[12:] + end,
		"text before":               "SSL-Session:\n    Protocol  : TLSv1.3\n ---\n" + begin + body + end,
		"a block within a line":     "see -----BEGIN CERTIFICATE-----\n" + begin + body + end,
		"white space after":         begin + body + end + " \t\r\n\n",
		"white space in the lines":  begin[:len(begin)-1] + " \n" + body + end[:len(end)-1] + " \n",
	} {
		if got, err := sslsession.DecodePEM([]byte(text)); err != nil || !bytes.Equal(got, der) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, text := range map[string]string{
		"nothing":               "",
		"no block":              "hello\n" + body,
		"no end":                begin + body,
		"an end of another":     begin + body + "-----END CERTIFICATE-----\n",
		"an end within a line":  begin + strings.TrimSpace(body) + end,
		"an empty block":        begin + end,
		"a second block":        begin + body + end + begin + body + end,
		"text after":            begin + body + end + "x",
		"headers":               begin + "Proc-Type: 4,ENCRYPTED\n\n" + body + end,
		"no base64":             begin + "\x00\xFF\n" + end,
		"cut base64":            begin + body[:len(body)-2] + "\n" + end,
		"base64 behind the end": begin + "AA==\nAAAA\n" + end,
		"bits behind the end":   begin + "AB==\n" + end,
		"a block in a block":    begin + begin + body + end,
		"another base64":        begin + "_-__\n" + end,
		"an indented block":     " " + begin + body + end,
	} {
		got, err := sslsession.DecodePEM([]byte(text))
		if !errors.Is(err, sslsession.ErrPEM) || errors.Is(err, sslsession.ErrPEMType) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, typ := range []string{"CERTIFICATE", "PRIVATE KEY", "SSL SESSION", "SSL SESSION PARAMETERS ", ""} {
		text := strings.ReplaceAll(begin+body+end, "SSL SESSION PARAMETERS", typ) + begin + body + end
		_, err := sslsession.DecodePEM([]byte(text))
		if !errors.Is(err, sslsession.ErrPEMType) || !errors.Is(err, sslsession.ErrPEM) {
			t.Errorf("type %q: %v", typ, err)
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

// FuzzPEM takes its input for a text, which must come to the same bytes when it
// is written and read again, and for a session to be written and read.
func FuzzPEM(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.pem(f))
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
			// encoding/pem takes no carriage return alone behind the block.
			if block, _ := pem.Decode(append(bytes.TrimSpace(data), '\n')); block == nil || !bytes.Equal(block.Bytes, der) {
				t.Fatal("encoding/pem reads something else")
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
