package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
)

// server is a kind of TLS server that takes its ticket keys from sessapi.
type server struct {
	name string
	// configs is the folder of its configuration in testdata/servers. The files
	// name an instance's folder ${DIR} and its port ${PORT}.
	configs string
	// keys are its key files, by name, and the query that GET /ticket-keys
	// answers with their content.
	keys  map[string]string
	start func(testing.TB, *instance)
	// reload makes an instance read its key files again; nil where it looks
	// after them itself.
	reload func(testing.TB, *instance)
	// oneKey: it has the current key and no other, so that no ticket outlives it.
	oneKey bool
	// nameless: its tickets do not begin with the name of a key.
	nameless bool
}

var servers = []server{
	{
		name: "nginx", configs: "nginx",
		keys: map[string]string{
			"current.key":  "format=nginx&key=0",
			"next.key":     "format=nginx&key=1",
			"previous.key": "format=nginx&key=2",
		},
		start:  program("nginx", "-e", "stderr", "-c", "${DIR}/nginx.conf"),
		reload: send(syscall.SIGHUP),
	},
	{
		name: "HAProxy, its file", configs: "haproxy",
		keys:   map[string]string{"ticket.keys": "format=haproxy"},
		start:  program("haproxy", "-W", "-f", "${DIR}/haproxy.cfg"),
		reload: send(syscall.SIGUSR2),
	},
	{
		name: "HAProxy, its socket", configs: "haproxy",
		keys:   map[string]string{"ticket.keys": "format=haproxy"},
		start:  program("haproxy", "-f", "${DIR}/haproxy.cfg"),
		reload: setTLSKey,
	},
	{
		name: "Apache httpd", configs: "httpd", oneKey: true,
		keys:   map[string]string{"ticket.key": "format=httpd&key=0"},
		start:  program("apache2", "-D", "FOREGROUND", "-f", "${DIR}/httpd.conf"),
		reload: send(syscall.SIGUSR1),
	},
	{
		name: "H2O", configs: "h2o",
		keys:  map[string]string{"ticket-keys.yaml": "format=h2o"},
		start: program("h2o", "-c", "${DIR}/h2o.yaml"),
	},
	{
		name: "Traffic Server", configs: "trafficserver",
		keys:  map[string]string{"ticket.keys": "format=ats"},
		start: program("traffic_manager", "--nosyslog", "--run-root=${DIR}/runroot.yaml"),
		reload: func(tb testing.TB, i *instance) {
			tb.Helper()
			run(tb, need(tb, "traffic_ctl"), "--run-root="+i.dir+"/runroot.yaml", "config", "reload")
		},
	},
	{name: "Node.js", start: startNode},
	{
		name: "Go", nameless: true,
		keys:   map[string]string{"ticket.keys": "format=go"},
		start:  startGo,
		reload: setSessionTicketKeys,
	},
}

// Two servers of each kind with the ticket keys of sessapi resume each other's
// tickets, before a rotation, while it spreads, and after it.
func TestServersShareTicketKeys(t *testing.T) {
	need(t, "openssl")
	cert, key := certificate(t, "/CN=localhost")
	pem := append(readFile(t, cert), readFile(t, key)...)
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			s.rotate(t) // a set has a previous key then, without which HAProxy takes none
			a, b := launch(t, &server, s, pem), launch(t, &server, s, pem)
			versions := []string{"-tls1_2", "-tls1_3"}
			dir := t.TempDir()

			old := a.currentName(t)
			for _, version := range versions {
				ticket := filepath.Join(dir, "old"+version)
				if v := a.visit(t, version, "", ticket); v.Reused || v.TicketName != old {
					t.Errorf("%s: the first visit: %+v, the current key is %s", version, v, old)
				}
				if v := b.visit(t, version, ticket, ""); !v.Reused {
					t.Errorf("%s: B does not resume the ticket of A", version)
				}
			}

			s.rotate(t)
			current := a.currentName(t)
			if current == old && !server.nameless {
				t.Fatalf("the current key is still %s", old)
			}
			a.update(t)
			for _, version := range versions {
				ticket := filepath.Join(dir, "new"+version)
				a.awaitTicketName(t, version, current, filepath.Join(dir, "old"+version), ticket)
				if v := b.visit(t, version, ticket, ""); !v.Reused && !server.oneKey {
					t.Errorf("%s: B, which has the new key as the next one, does not resume the ticket of A", version)
				}
			}
			b.update(t)
			for _, version := range versions {
				b.awaitTicketName(t, version, current, filepath.Join(dir, "old"+version), filepath.Join(dir, "last"+version))
				if v := b.visit(t, version, filepath.Join(dir, "new"+version), ""); !v.Reused {
					t.Errorf("%s: B does not resume the ticket of A after the rotation", version)
				}
			}
		})
	}
}

func (s *service) rotate(tb testing.TB) {
	tb.Helper()
	if status, body := s.do(tb, http.MethodPost, "/ticket-keys/rotate", nil); status != http.StatusOK {
		tb.Fatalf("POST /ticket-keys/rotate: %d %s", status, body)
	}
}

// instance is a server that runs beside the test.
type instance struct {
	*server
	*process // nil for the Go server, which runs in the test
	*service
	dir  string // its own, and its working directory
	port string
	tls  *tls.Config // of the Go server
}

// launch starts a server with the keys of the service.
func launch(tb testing.TB, server *server, s *service, pem []byte) *instance {
	tb.Helper()
	// The folder of the test is one that nobody else may enter, with a name too
	// long for a socket's path.
	dir, err := os.MkdirTemp("", "sessapi-e2e-") //nolint:usetesting // for the reason above
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	give(tb, dir)
	i := &instance{server: server, service: s, dir: dir, port: freePort(tb)}
	i.write(tb, "cert.pem", pem)
	if server.configs != "" {
		configs := filepath.Join("testdata/servers", server.configs)
		files, err := os.ReadDir(configs)
		if err != nil {
			tb.Fatal(err)
		}
		for _, file := range files {
			i.write(tb, file.Name(), []byte(i.expand(string(readFile(tb, filepath.Join(configs, file.Name()))))))
		}
	}
	i.writeKeys(tb)
	i.start(tb, i)
	awaitListening(tb, "127.0.0.1:"+i.port)
	return i
}

func (i *instance) expand(text string) string {
	return os.Expand(text, func(name string) string { return map[string]string{"DIR": i.dir, "PORT": i.port}[name] })
}

// write puts a file in place that the instance alone can read.
func (i *instance) write(tb testing.TB, name string, data []byte) {
	tb.Helper()
	path := filepath.Join(i.dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		tb.Fatal(err)
	}
	give(tb, path+".new")
	if err := os.Rename(path+".new", path); err != nil {
		tb.Fatal(err)
	}
}

func (i *instance) writeKeys(tb testing.TB) {
	tb.Helper()
	for name, query := range i.keys {
		status, body := i.get(tb, "/ticket-keys?"+query, "*/*")
		if status != http.StatusOK {
			tb.Fatalf("GET /ticket-keys?%s: %d", query, status)
		}
		i.write(tb, name, body)
	}
}

// update brings the instance the keys that the service has now.
func (i *instance) update(tb testing.TB) {
	tb.Helper()
	i.writeKeys(tb)
	for name := range i.keys {
		// H2O and Traffic Server pass over a file whose time is in the second in
		// which they read it last. Where keys rotate by the hour that is long ago.
		if err := os.Chtimes(filepath.Join(i.dir, name), time.Time{}, time.Now().Add(time.Minute)); err != nil {
			tb.Fatal(err)
		}
	}
	if i.reload != nil {
		i.reload(tb, i)
	}
}

// currentName is the name of the key that encrypts, as far as tickets show it.
func (i *instance) currentName(tb testing.TB) string {
	tb.Helper()
	if i.nameless {
		return ""
	}
	var set api.TicketKeys
	if _, body := i.get(tb, "/ticket-keys", "application/json"); json.Unmarshal(body, &set) != nil {
		tb.Fatalf("no description: %s", body)
	}
	for _, key := range set.Keys {
		if key.Role == api.Current {
			return key.Name
		}
	}
	tb.Fatal("no key is current")
	return ""
}

// ticketName is the first 16 bytes in OpenSSL's dump of a ticket.
var ticketName = regexp.MustCompile(`TLS session ticket:\n *0000 - ((?:[0-9a-f]{2}[ -]){16})`)

// visit makes a request with `openssl s_client`, with the session in one file,
// if any, and leaves the new one in another, if any.
func (i *instance) visit(tb testing.TB, version, sessionIn, sessionOut string) (v visit) {
	tb.Helper()
	args := []string{"s_client", "-connect", "127.0.0.1:" + i.port, version, "-ign_eof"}
	if sessionIn != "" {
		args = append(args, "-sess_in", sessionIn)
	}
	if sessionOut != "" {
		args = append(args, "-sess_out", sessionOut)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, need(tb, "openssl"), args...)
	// The server closes the connection behind its answer, and has sent the
	// tickets of TLS 1.3 before.
	cmd.Stdin = strings.NewReader("GET / HTTP/1.0\r\n\r\n")
	out, err := cmd.CombinedOutput()
	status := regexp.MustCompile(`\n(New|Reused), TLSv1`).FindSubmatch(out)
	tickets := ticketName.FindAllSubmatch(out, -1)
	if status == nil {
		tb.Fatalf("%s: no session (%v)\n%s", version, err, redact(string(out)))
	}
	v.Reused = string(status[1]) == "Reused"
	if len(tickets) > 0 && !i.nameless {
		v.TicketName = strings.NewReplacer(" ", "", "-", "").Replace(string(tickets[len(tickets)-1][1]))
	}
	return v
}

// awaitTicketName visits anew until the instance makes tickets under the current
// key, and leaves such a one in the file newTicket. All the while the old ticket
// has to resume.
func (i *instance) awaitTicketName(tb testing.TB, version, current, oldTicket, newTicket string) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		first := i.visit(tb, version, "", newTicket)
		resumes := i.visit(tb, version, oldTicket, "").Reused
		if !resumes && !i.oneKey {
			tb.Errorf("%s: after the rotation a ticket under the previous key does not resume", version)
		}
		if first.TicketName == current {
			if resumes && i.oneKey {
				tb.Errorf("%s: a ticket resumes without its key", version)
			}
			return
		}
	}
	tb.Fatalf("%s: the server does not take the key %s", version, current)
}

// program starts a program in the instance's folder, without privileges.
func program(name string, args ...string) func(testing.TB, *instance) {
	return func(tb testing.TB, i *instance) {
		tb.Helper()
		expanded := make([]string, len(args))
		for n, arg := range args {
			expanded[n] = i.expand(arg)
		}
		cmd := exec.Command(need(tb, name), expanded...)
		cmd.Dir = i.dir
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
		i.process = startCommand(tb, cmd)
		tb.Cleanup(func() {
			if !tb.Failed() {
				return
			}
			tb.Logf("%s printed:\n%s", name, i.out)
			logs, _ := filepath.Glob(filepath.Join(i.dir, "*.log"))
			for _, log := range logs {
				tb.Logf("%s:\n%s", log, readFile(tb, log))
			}
		})
	}
}

// nobody is the user and group that servers run as when the test is root's.
const nobody = 65534

// give makes a file the servers'.
func give(tb testing.TB, path string) {
	tb.Helper()
	if os.Getuid() != 0 {
		return
	}
	if err := os.Chown(path, nobody, nobody); err != nil {
		tb.Fatal(err)
	}
}

func send(signal os.Signal) func(testing.TB, *instance) {
	return func(tb testing.TB, i *instance) {
		tb.Helper()
		if err := i.Process.Signal(signal); err != nil {
			tb.Fatal(err)
		}
	}
}

// setTLSKey gives HAProxy the last key of its file, which is the next one: the
// one that was next before begins to encrypt.
func setTLSKey(tb testing.TB, i *instance) {
	tb.Helper()
	conn, err := net.Dial("unix", filepath.Join(i.dir, "haproxy.sock"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	file := filepath.Join(i.dir, "ticket.keys")
	lines := bytes.Fields(readFile(tb, file))
	if _, err := io.WriteString(conn, "set ssl tls-key "+file+" "+string(lines[len(lines)-1])+"\n"); err != nil {
		tb.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || !bytes.Contains(answer, []byte("TLS ticket key updated!")) {
		tb.Fatalf("HAProxy answers %q (%v)", answer, err)
	}
}

// startNode starts the server of the Node example, which asks for keys itself.
func startNode(tb testing.TB, i *instance) {
	tb.Helper()
	cert := filepath.Join(i.dir, "cert.pem")
	i.port = nodeServer(tb, i.service, cert, cert, "tickets")
}

// startGo serves in the test itself.
func startGo(tb testing.TB, i *instance) {
	tb.Helper()
	path := filepath.Join(i.dir, "cert.pem")
	cert, err := tls.LoadX509KeyPair(path, path)
	if err != nil {
		tb.Fatal(err)
	}
	i.tls = &tls.Config{Certificates: []tls.Certificate{cert}}
	setSessionTicketKeys(tb, i)
	listener, err := tls.Listen("tcp", "127.0.0.1:"+i.port, i.tls)
	if err != nil {
		tb.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: 30 * time.Second}
	done := make(chan struct{})
	go func() { _ = server.Serve(listener); close(done) }()
	tb.Cleanup(func() { _ = server.Close(); <-done })
}

func setSessionTicketKeys(tb testing.TB, i *instance) {
	tb.Helper()
	var keys [][32]byte
	for line := range bytes.FieldsSeq(readFile(tb, filepath.Join(i.dir, "ticket.keys"))) {
		key, err := base64.StdEncoding.AppendDecode(nil, line)
		if err != nil || len(key) != 32 {
			tb.Fatalf("key %d is no 32 bytes in base64", len(keys))
		}
		keys = append(keys, [32]byte(key))
	}
	i.tls.SetSessionTicketKeys(keys)
}
