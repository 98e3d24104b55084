package e2e_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// lighttpd and nghttpx load the files of their formats, seal tickets with the current
// key, and resume each other's.
func TestTicketKeyFiles(t *testing.T) {
	need(t, "openssl")
	cert, key := certificate(t, "/CN=localhost")
	for _, kind := range []struct {
		name, format string
		files        int
		config       string // of the folder DIR and the port PORT
		args         []string
	}{
		{"lighttpd", "lighttpd", 1, `
server.modules = ( "mod_openssl" )
server.document-root = "DIR"
server.bind = "127.0.0.1"
server.port = PORT
ssl.engine = "enable"
ssl.pemfile = "CERT"
ssl.privkey = "KEY"
ssl.stek-file = "DIR/0.key"
`, []string{"-D", "-f", "DIR/config"}},
		{"nghttpx", "nghttpx", 3, `
frontend=127.0.0.1,PORT
backend=127.0.0.1,1
certificate-file=CERT
private-key-file=KEY
errorlog-file=/dev/stderr
accesslog-file=/dev/null
tls-ticket-key-cipher=aes-256-cbc
tls-ticket-key-file=DIR/0.key
tls-ticket-key-file=DIR/1.key
tls-ticket-key-file=DIR/2.key
`, []string{"--conf=DIR/config"}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			program := need(t, kind.name)
			s := serve(t)
			begin := func() *instance {
				dir := t.TempDir()
				i := &instance{server: new(server), service: s, port: freePort(t)}
				fill := strings.NewReplacer("DIR", dir, "PORT", i.port, "CERT", cert, "KEY", key)
				if err := os.WriteFile(filepath.Join(dir, "config"), []byte(fill.Replace(kind.config)), 0o600); err != nil {
					t.Fatal(err)
				}
				run(t, sessapiPath, "keys", "pull", "--server=http://"+s.addr, "--format="+kind.format, "--files="+strconv.Itoa(kind.files), "--out="+filepath.Join(dir, "{key}.key"))
				args := make([]string, len(kind.args))
				for n, arg := range kind.args {
					args[n] = fill.Replace(arg)
				}
				start(t, program, args...)
				awaitListening(t, "127.0.0.1:"+i.port)
				return i
			}
			a, b := begin(), begin()
			for _, version := range []string{"-tls1_2", "-tls1_3"} {
				ticket := filepath.Join(t.TempDir(), "ticket")
				if v := a.visit(t, version, "", ticket); v.TicketName != a.currentName(t) {
					t.Errorf("%s: a ticket of %s, the current key is %s", version, v.TicketName, a.currentName(t))
				}
				if !b.visit(t, version, ticket, "").Reused {
					t.Errorf("%s: B does not resume the ticket of A", version)
				}
			}
		})
	}
}
