package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sessapi/sessapi/internal/api"
)

// A session that `openssl s_client` wrote goes in with curl, comes out as PEM
// and as DER, and resumes.
func TestOpenSSLSessionResumes(t *testing.T) {
	t.Parallel()
	openssl, curl := need(t, "openssl"), need(t, "curl")
	s := serve(t)
	cert, key := certificate(t, "/CN=localhost")
	clientCert, clientKey := certificate(t, "/O=Example/CN=A client of sessapi", manyNames())
	for _, test := range []struct {
		name       string
		protocol   string
		clientCert bool
	}{
		{"TLS 1.2", "-tls1_2", false},
		{"TLS 1.3", "-tls1_3", false},
		{"TLS 1.2 with a client certificate", "-tls1_2", true},
		{"TLS 1.3 with a client certificate", "-tls1_3", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := freePort(t)
			server := []string{"s_server", "-accept", "127.0.0.1:" + port, "-cert", cert, "-key", key, test.protocol, "-rev"}
			client := []string{"s_client", "-connect", "127.0.0.1:" + port, test.protocol, "-servername", "localhost"}
			if test.clientCert {
				// A certificate that nobody knows is good enough to be in the
				// session; the ticket, which holds it too, makes that several KiB.
				server = append(server, "-verify", "3", "-verify_quiet")
				client = append(client, "-cert", clientCert, "-key", clientKey)
			}
			start(t, openssl, server...)
			awaitListening(t, "127.0.0.1:"+port)

			dir := t.TempDir()
			written, fetched := filepath.Join(dir, "written.pem"), filepath.Join(dir, "fetched.pem")
			connect(t, openssl, append(client, "-sess_out", written)...)

			id := strings.Repeat("5e", 32)
			url := s.url + "/sessions/" + id
			run(t, curl, "-fsS", "-X", "DELETE", s.url+"/sessions")
			run(t, curl, "-fsS", "-T", written, "-H", "Content-Type: application/x-pem-file", url)
			run(t, curl, "-fsS", "-H", "Accept: application/x-pem-file", "-o", fetched, url)
			der := run(t, curl, "-fsS", "-H", "Accept: application/octet-stream", url)

			if want := run(t, openssl, "sess_id", "-in", written, "-outform", "DER"); der != want {
				t.Errorf("DER of %d bytes, openssl makes %d others of the same session", len(der), len(want))
			}
			if pem, want := readFile(t, fetched), readFile(t, written); !bytes.Equal(pem, want) {
				t.Errorf("PEM of %d bytes, openssl wrote %d others", len(pem), len(want))
			}

			if test.clientCert && len(der) < 4<<10 {
				t.Errorf("the session has %d bytes; its ticket has no client certificate", len(der))
			}

			var described api.Session
			if err := json.Unmarshal([]byte(run(t, curl, "-fsS", url)), &described); err != nil {
				t.Fatal(err)
			}
			o := described.Openssl
			if o == nil || o.Protocol != "TLSv1."+test.protocol[len(test.protocol)-1:] || o.PeerSubject == nil || *o.PeerSubject != "CN=localhost" {
				t.Errorf("described as %+v", o)
			}
			text := run(t, openssl, "sess_id", "-in", written, "-noout", "-text")
			if o != nil && !strings.Contains(text, "Session-ID: "+strings.ToUpper(o.SessionID)+"\n") {
				t.Errorf("session_id is %s, openssl says\n%s", o.SessionID, redact(text))
			}

			if out := connect(t, openssl, append(client, "-sess_in", fetched)...); !strings.Contains(out, "\nReused, TLSv1") {
				t.Errorf("the fetched session does not resume:\n%s", redact(out))
			}
		})
	}
}

// manyNames makes a certificate of several KiB.
func manyNames() string {
	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprintf("DNS:client-%d.of.a.large.fleet.example", i)
	}
	return strings.Join(names, ",")
}

// connect makes a TLS connection that lasts until the server has answered, so
// that a session of TLS 1.3, which comes behind the handshake, has arrived.
func connect(tb testing.TB, openssl string, args ...string) string {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), openssl, args...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	p := startCommand(tb, cmd)
	if _, err := io.WriteString(stdin, "drow-eht-si-siht\n"); err != nil {
		tb.Fatal(err)
	}
	p.out.await(tb, "this-is-the-word") // the server's -rev sends the line back reversed
	_ = stdin.Close()
	p.wait(tb)
	return p.out.String()
}

func readFile(tb testing.TB, path string) []byte {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}
