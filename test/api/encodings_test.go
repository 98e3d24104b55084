package api_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sessapi/sessapi/internal/api"
)

// boringssl is a session that BoringSSL wrote, in PEM.
func boringssl(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../../internal/sslsession/testdata/boringssl-tls13-server.pem")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// PEM is stored as its DER in whatever kind of body it comes, and with whatever
// stands around it.
func TestSessionPEMInAnyBody(t *testing.T) {
	t.Parallel()
	s := startService(t)
	der := sslSession([]byte{1}, s.clock.Now(), time.Hour)
	s.put("/sessions/01", typeBytes, der).want(t, 201)
	text := string(s.get("/sessions/01", typePEM).want(t, 200).body)
	around := "SSL-Session:\n    Protocol  : TLSv1.2\n\n" + text + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	for name, body := range map[string]struct{ contentType, body string }{
		"PEM":                    {typePEM, text},
		"PEM with text around":   {typePEM, around},
		"PEM with spaces":        {typePEM, strings.ReplaceAll(text, "\n", " \t\r\n")},
		"bytes":                  {typeBytes, text},
		"bytes with text around": {typeBytes, around},
		"JSON":                   {typeJSON, `{"data":"` + base64.StdEncoding.EncodeToString([]byte(text)) + `"}`},
	} {
		s.put("/sessions/01", typeBytes, []byte("opaque")).want(t, 204)
		s.put("/sessions/01", body.contentType, []byte(body.body)).want(t, 204)
		if got := s.get("/sessions/01", typeBytes).want(t, 200); !bytes.Equal(got.body, der) {
			t.Errorf("%s: %d bytes are stored", name, len(got.body))
		}
	}
	// The PEM of a large session is larger than a session may be.
	s.put("/sessions/02", typeBytes, sslSessionWithTicket(s.clock.Now(), maxSession-len(der)-16)).want(t, 201)
	asPEM := s.get("/sessions/02", typePEM).want(t, 200).body
	if len(asPEM) <= maxSession {
		t.Fatalf("PEM of %d bytes", len(asPEM))
	}
	s.put("/sessions/02", typeBytes, asPEM).want(t, 204)

	// What is broken replaces nothing.
	for _, broken := range []string{text[:len(text)-10], strings.ReplaceAll(text, "SSL SESSION PARAMETERS", "CERTIFICATE")} {
		s.put("/sessions/01", typeBytes, []byte(broken)).wantProblem(t, 422, api.ProblemCodeInvalidSession)
	}
	if got := s.get("/sessions/01", typeBytes).want(t, 200); !bytes.Equal(got.body, der) {
		t.Error("the session has been replaced")
	}
}

// A session of BoringSSL is described, has its own end, and is not given out as PEM.
func TestBoringSSLSession(t *testing.T) {
	t.Parallel()
	s := startService(t)
	text := boringssl(t)
	start := time.Unix(1795996496, 0)
	s.clock.advance(start.Add(time.Hour).Sub(s.clock.Now()))
	s.put("/sessions/0b", typePEM, text).want(t, 201)
	described := decode[api.Session](t, s.get("/sessions/0b", typeJSON).want(t, 200))
	b := described.Boringssl
	if described.Format != api.SessionFormatBoringssl || described.Openssl != nil || b == nil {
		t.Fatalf("described as %+v", described)
	}
	if b.Protocol != "TLSv1.3" || b.Cipher != "TLS_AES_128_GCM_SHA256" || b.TimeoutSeconds != 172800 || !b.StartedAt.Equal(start) || *b.ALPN != "h2" || b.IDMatches {
		t.Errorf("described as %+v", b)
	}
	if want := start.Add(48 * time.Hour); !described.ExpiresAt.Equal(want) {
		t.Errorf("ends at %v, want %v", described.ExpiresAt, want)
	}
	p := s.get("/sessions/0b", typePEM).wantProblem(t, 406, api.ProblemCodeNotAcceptable)
	if !strings.Contains(p.Detail, typeBytes) || strings.Contains(p.Detail, typePEM) {
		t.Errorf("the detail is %q", p.Detail)
	}
	der := s.get("/sessions/0b", typeBytes).want(t, 200).body
	s.put("/sessions/0c", typeBytes, der).want(t, 201)
	for _, listed := range decode[api.SessionPage](t, s.get("/sessions", typeJSON).want(t, 200)).Sessions {
		if listed.Format != api.SessionFormatBoringssl {
			t.Errorf("listed as %+v", listed)
		}
	}
	s.clock.advance(48 * time.Hour)
	s.put("/sessions/0d", typeBytes, der).wantProblem(t, 422, api.ProblemCodeInvalidSession)
}

// A session that says neither when it began nor for how long it is good is read as
// OpenSSL reads it.
func TestSessionWithoutTimes(t *testing.T) {
	t.Parallel()
	s := startService(t)
	s.put("/sessions/01", typeBytes, sslSession([]byte{1}, time.Unix(0, 0), 0)).want(t, 201)
	now := s.clock.Now().Truncate(time.Second)
	s.clock.advance(time.Second)
	described := decode[api.Session](t, s.get("/sessions/01", typeJSON).want(t, 200))
	if o := described.Openssl; o == nil || !o.StartedAt.Equal(now) || o.TimeoutSeconds != 3 || !described.ExpiresAt.Equal(now.Add(3*time.Second)) {
		t.Errorf("described as %+v, ends at %v", o, described.ExpiresAt)
	}
	s.clock.advance(3 * time.Second)
	s.get("/sessions/01", typeJSON).want(t, 404)
}

// What OpenSSL does not load is not called its own.
func TestSessionThatOpenSSLDoesNotLoad(t *testing.T) {
	t.Parallel()
	s := startService(t)
	der := sslSession([]byte{1}, s.clock.Now(), time.Hour)
	unknownCipher := bytes.Replace(der, []byte{0xc0, 0x30}, []byte{0x0a, 0x0a}, 1)
	s.put("/sessions/01", typeBytes, unknownCipher).want(t, 201)
	if d := decode[api.Session](t, s.get("/sessions/01", typeJSON).want(t, 200)); d.Format != api.SessionFormatOpaque || d.Openssl != nil {
		t.Errorf("described as %+v", d)
	}
}

// A description has an ETag, which changes with it.
func TestDescriptionETag(t *testing.T) {
	t.Parallel()
	s := startService(t)
	der := sslSession([]byte{1}, s.clock.Now(), time.Hour)
	s.put("/sessions/01", typeBytes, der).want(t, 201)
	first := s.get("/sessions/01", typeJSON).want(t, 200)
	tag := first.Header.Get("ETag")
	for _, bytesTag := range []string{typeBytes, typePEM} {
		if tag == "" || tag == s.get("/sessions/01", bytesTag).Header.Get("ETag") {
			t.Errorf("the ETag of JSON and of %s is %s", bytesTag, tag)
		}
	}
	again := s.get("/sessions/01", typeJSON, "If-None-Match", tag).want(t, 304)
	again.wantHeader(t, "ETag", tag)
	if head := s.request(http.MethodHead, "/sessions/01", nil, "If-None-Match", tag).want(t, 304); len(again.body)+len(head.body) != 0 {
		t.Error("304 has a body")
	}
	s.get("/sessions/01", typeJSON, "If-Match", tag).want(t, 200)
	s.get("/sessions/01", typeBytes, "If-None-Match", tag).want(t, 200)
	s.get("/sessions/01", typeJSON, "If-Match", `"other"`).wantProblem(t, 412, api.ProblemCodePreconditionFailed)
	s.put("/sessions/01?ttl_seconds=60", typeBytes, der).want(t, 204) // ends at another time
	if second := s.get("/sessions/01", typeJSON, "If-None-Match", tag).want(t, 200); second.Header.Get("ETag") == tag {
		t.Error("another description has the same ETag")
	}
}

// All times are RFC 3339 in UTC with milliseconds.
func TestTimesHaveMilliseconds(t *testing.T) {
	t.Parallel()
	s := startService(t)
	s.clock.advance(1234567 * time.Nanosecond)
	s.put("/sessions/01", typeBytes, sslSession([]byte{1}, s.clock.Now(), time.Hour)).want(t, 201)
	anyTime := regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]*"`)
	want := regexp.MustCompile(`^"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"$`)
	for _, path := range []string{"/sessions/01", "/sessions", "/ticket-keys", "/status"} {
		times := anyTime.FindAllString(string(s.get(path, typeJSON).want(t, 200).body), -1)
		if len(times) == 0 {
			t.Errorf("%s has no times", path)
		}
		for _, at := range times {
			if !want.MatchString(at) {
				t.Errorf("%s has %s", path, at)
			}
		}
	}
}

// sslSessionWithTicket is a session with a ticket of a size.
func sslSessionWithTicket(start time.Time, ticket int) []byte {
	var b cryptobyte.Builder
	input := cryptobyte.String(sslSession([]byte{1}, start, time.Hour))
	var fields cryptobyte.String
	input.ReadASN1(&fields, asn1.SEQUENCE)
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(fields)
		b.AddASN1(asn1.Tag(10).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1OctetString(make([]byte, ticket))
		})
	})
	return b.BytesOrPanic()
}
