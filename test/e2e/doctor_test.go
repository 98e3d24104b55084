package e2e_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

// report is what `sessapi doctor --json` writes.
type report struct {
	Nodes []struct {
		Address               string   `json:"address"`
		Protocols             []string `json:"protocols"`
		TicketKey             string   `json:"ticket_key"`
		TicketLifetimeSeconds int      `json:"ticket_lifetime_seconds"`
		ServiceKey            *struct {
			Role       string `json:"role"`
			Generation uint64 `json:"generation"`
		} `json:"service_key"`
		Error string `json:"error"`
	} `json:"nodes"`
	Resumptions []struct {
		From, To, Protocol, By string
		Resumed                bool
		FullMS                 float64 `json:"full_ms"`
		ResumedMS              float64 `json:"resumed_ms"`
	} `json:"resumptions"`
	Findings []finding `json:"findings"`
}

type finding struct {
	Code, Severity string
	Nodes          []string
	Text           string
}

// doctor examines ports of the loopback, whose certificates cert signs.
func doctor(tb testing.TB, cert string, ports []string, args ...string) (r report, code int) {
	tb.Helper()
	args = append([]string{"doctor", "--json", "--servername", "localhost"}, args...)
	if cert != "" {
		args = append(args, "--ca", cert)
	}
	for _, port := range ports {
		args = append(args, "127.0.0.1:"+port)
	}
	cmd := exec.CommandContext(tb.Context(), sessapiPath, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		code = failed.ExitCode()
	} else if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		tb.Fatalf("%v\n%s%s", err, out, &stderr)
	}
	if code == 0 && stderr.Len() > 0 {
		tb.Errorf("standard error: %s", &stderr)
	}
	return r, code
}

// finds holds the findings to those that are wanted: code and severity, and the
// indexes of the nodes.
func (r report) finds(tb testing.TB, code int, want ...wanted) {
	tb.Helper()
	wantCode := 0
	missing := slices.Clone(want)
	for _, f := range r.Findings {
		i := slices.IndexFunc(missing, func(w wanted) bool {
			var nodes []string
			for _, n := range w.nodes {
				nodes = append(nodes, r.Nodes[n].Address)
			}
			slices.Sort(f.Nodes)
			slices.Sort(nodes)
			return w.code == f.Code && w.severity == f.Severity && slices.Equal(f.Nodes, nodes) && strings.Contains(f.Text, w.text)
		})
		if i < 0 {
			tb.Errorf("found %+v", f)
			continue
		}
		missing = slices.Delete(missing, i, i+1)
		if f.Severity == "error" {
			wantCode = 1
		}
	}
	for _, w := range missing {
		tb.Errorf("not found: %+v", w)
	}
	if code != wantCode {
		tb.Errorf("exit code %d", code)
	}
	if tb.Failed() {
		tb.Logf("%+v", r)
	}
}

type wanted struct {
	code, severity string
	nodes          []int
	text           string
}

// agrees holds the report to what `openssl s_client` sees of the same pairs.
func (r report) agrees(tb testing.TB, instances ...*instance) {
	tb.Helper()
	find := func(address string) *instance {
		i := slices.IndexFunc(instances, func(i *instance) bool { return address == "127.0.0.1:"+i.port })
		if i < 0 {
			return nil
		}
		return instances[i]
	}
	sessions, compared := map[string]string{}, 0
	for _, x := range r.Resumptions {
		from, to := find(x.From), find(x.To)
		if from == nil || to == nil {
			continue
		}
		compared++
		version := "-tls1_" + strings.TrimPrefix(x.Protocol, "1.")
		var extra []string
		if x.By == "id" {
			extra = []string{"-no_ticket"}
		}
		key := x.From + version + x.By
		session, known := sessions[key]
		if !known {
			session = filepath.Join(tb.TempDir(), "session")
			first := from.visit(tb, version, "", session, extra...)
			if x.By == "ticket" && x.Protocol == "1.2" && first.TicketName == "" {
				session = "" // s_client would go by the ID
			} else if _, err := os.Stat(session); err != nil {
				session = "" // it gave none
			}
			sessions[key] = session
		}
		if got := session != "" && to.visit(tb, version, session, "", extra...).Reused; got != x.Resumed {
			tb.Errorf("openssl s_client resumes: %t; doctor: %+v", got, x)
		}
	}
	if compared == 0 {
		tb.Error("nothing to compare")
	}
}

// variant is a kind of server, with pairs of old and new text for its page.
type variant struct {
	server
	edits []string
}

// kind is one of the servers, edited.
func kind(name string, edits ...string) variant {
	return variant{servers[slices.IndexFunc(servers, func(s server) bool { return s.name == name })], edits}
}

// serve128 is a service whose keys are of 128 bits, in which every layout is.
func serve128(tb testing.TB) *service {
	tb.Helper()
	s := serve(tb)
	set := make([]byte, 3*48)
	_, _ = rand.Read(set)
	push(tb, s, set)
	s.update(tb, http.MethodPost, "/ticket-keys/rotate")
	return s
}

// launchAll starts a server for each, with the keys of the service.
func launchAll(tb testing.TB, s *service, site pair, variants ...variant) (instances []*instance, ports []string) {
	tb.Helper()
	for _, v := range variants {
		p := readPage(tb, v.page)
		edit := strings.NewReplacer(v.edits...)
		for path, text := range p.files {
			p.files[path] = edit.Replace(text)
		}
		for n, command := range p.start {
			p.start[n] = edit.Replace(command)
		}
		i := launch(tb, &v.server, s, p, site)
		instances, ports = append(instances, i), append(ports, i.port)
	}
	return instances, ports
}

// site is a pair, and its certificate as a file.
func site(tb testing.TB) (cert string, both pair) {
	tb.Helper()
	both = newPair(tb)
	cert = filepath.Join(tb.TempDir(), "site.crt")
	if err := os.WriteFile(cert, both.cert, 0o600); err != nil {
		tb.Fatal(err)
	}
	return cert, both
}

// Nothing is found on two servers with the same keys, of whatever kind; one more with
// the keys of another fleet is found.
func TestDoctorKeys(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	cert, own := site(t)
	for _, s := range servers {
		if s.change > 0 { // the same server with other ways to change its keys
			continue
		}
		k := kind(s.name)
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			s := serve128(t)
			instances, ports := launchAll(t, s, own, k, k)
			r, code := doctor(t, cert, ports, "--server", s.url)
			r.finds(t, code)
			current, generation := instances[0].currentName(t), description(t, s).Generation
			for _, n := range r.Nodes {
				if !k.nameless && (n.TicketKey != current || n.ServiceKey == nil || n.ServiceKey.Role != "current" || n.ServiceKey.Generation != generation) {
					t.Errorf("the key is %s of generation %d; %+v", current, generation, n)
				}
				if n.TicketLifetimeSeconds <= 0 || !slices.Equal(n.Protocols, []string{"1.2", "1.3"}) {
					t.Errorf("%+v", n)
				}
			}
			for _, x := range r.Resumptions {
				if x.By == "ticket" && (!x.Resumed || x.FullMS <= 0 || x.ResumedMS <= 0) {
					t.Errorf("%+v", x)
				}
			}

			strays, strayPorts := launchAll(t, serve128(t), own, k)
			ports = append(ports, strayPorts...)
			r, code = doctor(t, cert, ports)
			r.finds(t, code, wanted{"ticket_keys_differ", "error", []int{2}, ""})
			r.agrees(t, append(instances, strays...)...)
			if !k.nameless {
				r, code = doctor(t, cert, ports, "--server", s.url)
				r.finds(t, code, wanted{"unknown_key", "error", []int{2}, ""})
			}
		})
	}
}

// A node that has the halves of its key the wrong way round is found.
func TestDoctorSwappedLayout(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	cert, own := site(t)
	for name, formats := range map[string][]string{
		"nginx":          {"--format nginx", "--format httpd"},
		"Apache httpd":   {"--format httpd", "--format nginx"},
		"Traffic Server": {"--format ats", "--format nginx"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve128(t)
			instances, ports := launchAll(t, s, own, kind(name), kind(name), kind(name, formats...))
			r, code := doctor(t, cert, ports, "--server", s.url)
			r.finds(t, code, wanted{"swapped_layout", "error", []int{2}, ""})
			r.agrees(t, instances[1:]...)
			r, code = doctor(t, cert, ports, "--protocol", "1.2") // which does not show what was decrypted
			r.finds(t, code, wanted{"not_resumed_with_same_key", "error", []int{2}, "swapped"})
		})
	}
}

// A node without tickets is found, whatever it does instead.
func TestDoctorNoTickets(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	cert, own := site(t)
	for name, off := range map[string][]string{
		"nginx":                 {"ssl_protocols ", "ssl_session_tickets off; ssl_protocols "},
		"HAProxy with a reload": {"tls-ticket-keys /run/sessapi/haproxy.keys", "no-tls-tickets"},
		"Apache httpd":          {"SSLSessionTicketKeyFile /run/sessapi/httpd.key", "SSLSessionTickets off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			instances, ports := launchAll(t, serve128(t), own, kind(name), kind(name, off...))
			r, code := doctor(t, cert, ports)
			r.finds(t, code, wanted{"no_tickets", "error", []int{1}, ""})
			r.agrees(t, instances...)
		})
	}
}

// A node that missed a rotation is found: by what its tickets show, and by what the
// service knows.
func TestDoctorStaleKey(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	cert, own := site(t)
	s := serve128(t)
	instances, ports := launchAll(t, s, own, kind("nginx"), kind("nginx"), kind("nginx"))
	instances[0].follow(t)
	instances[1].follow(t)
	// Once, the third still decrypts with the new key: it had it as the next one.
	rotate := func() {
		s.update(t, http.MethodPost, "/ticket-keys/rotate")
		instances[0].awaitCurrent(t)
		instances[1].awaitCurrent(t)
	}
	rotate()
	r, code := doctor(t, cert, ports)
	r.finds(t, code, wanted{"ticket_keys_differ", "warning", []int{2}, ""})
	generation := strconv.FormatUint(description(t, s).Generation, 10)
	if status, body := s.do(t, http.MethodPut, "/consumers/127.0.0.1/web", []byte(`{"kind": "nginx", "generation": `+generation+`, "state": "current", "expires_in_seconds": 600}`), "Content-Type", "application/json"); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, body)
	}
	r, code = doctor(t, cert, ports, "--server", s.url)
	r.finds(t, code, wanted{"stale_key", "warning", []int{2}, "Consumer 127.0.0.1/web reports that it holds the newest keys"})
	// Twice, it does not any more.
	rotate()
	r, code = doctor(t, cert, ports)
	r.finds(t, code, wanted{"stale_key", "error", []int{2}, ""})
	r.agrees(t, instances...)
	r, code = doctor(t, cert, ports, "--server", s.url)
	r.finds(t, code, wanted{"stale_key", "error", []int{2}, ""})
}

// awaitCurrent waits until an instance encrypts with the service's current key.
func (i *instance) awaitCurrent(tb testing.TB) {
	tb.Helper()
	want := i.currentName(tb)
	redistest.Await(tb, "the current key", func() error {
		if got := i.visit(tb, "-tls1_3", "", "").TicketName; got != want {
			return fmt.Errorf("it encrypts with %s, not %s", got, want)
		}
		return nil
	})
}

// Session IDs count where there are no tickets.
func TestDoctorSessionIDs(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	cert, key := certificate(t, "/CN=localhost")
	s, other := serve(t), serve(t)
	var instances []*instance
	var ports []string
	for _, service := range []*service{s, s, other} {
		port := nodeServer(t, service, cert, key, "sessions")
		ports = append(ports, port)
		instances = append(instances, &instance{server: &server{}, port: port})
	}
	r, code := doctor(t, cert, ports[:2])
	r.finds(t, code)
	r.agrees(t, instances...)
	r, code = doctor(t, cert, ports)
	r.finds(t, code, wanted{"id_cache_not_shared", "error", []int{2}, ""})
	r.agrees(t, instances...)
}

// A node that does not speak TLS 1.3 is found.
func TestDoctorProtocolMissing(t *testing.T) {
	t.Parallel()
	cert, own := site(t)
	s := serve128(t)
	instances, ports := launchAll(t, s, own, kind("nginx"), kind("nginx", "TLSv1.2 TLSv1.3", "TLSv1.2"))
	r, code := doctor(t, cert, ports)
	r.finds(t, code, wanted{"protocol_missing", "error", []int{1}, "TLS 1.3"})
	r.agrees(t, instances...)
}

// A bad certificate is found, and does not hide that sessions resume.
func TestDoctorCertificate(t *testing.T) {
	t.Parallel()
	own := expiredPair(t)
	path := filepath.Join(t.TempDir(), "expired.pem")
	if err := os.WriteFile(path, own.cert, 0o600); err != nil {
		t.Fatal(err)
	}
	_, ports := launchAll(t, serve128(t), own, kind("nginx"), kind("nginx"))
	r, code := doctor(t, path, ports)
	r.finds(t, code, wanted{"certificate", "error", []int{0, 1}, "expired"})
	for _, x := range r.Resumptions {
		if x.By == "ticket" && !x.Resumed {
			t.Errorf("%+v", x)
		}
	}
	r, code = doctor(t, path, ports, "--servername", "elsewhere.example")
	r.finds(t, code, wanted{"certificate", "error", []int{0, 1}, ""})
}

// expiredPair is one of localhost that has expired.
func expiredPair(tb testing.TB) pair {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}
}

// What is no TLS server at all is found, and said so.
func TestDoctorUnreachable(t *testing.T) {
	t.Parallel()
	cert, own := site(t)
	_, nginx := launchAll(t, serve128(t), own, kind("nginx"))
	answering := func(with string) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					_, _ = io.WriteString(conn, with)
					_, _ = io.Copy(io.Discard, conn)
				}()
			}
		}()
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		return port
	}
	ports := []string{nginx[0], answering(""), answering("SSH-2.0-\x1b[31mevil\r\n"), freePort(t)}
	r, code := doctor(t, cert, ports, "--timeout", "10s")
	r.finds(t, code,
		wanted{"unreachable", "error", []int{1}, "no answer in time"},
		wanted{"unreachable", "error", []int{2}, "no TLS"},
		wanted{"unreachable", "error", []int{3}, "refused"})
}

// Servers with the same keys that bind sessions to something else are told from those
// with other secrets.
func TestDoctorOtherContext(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	own, other := newPair(t), newPair(t)
	for name, test := range map[string]struct {
		edits []string
		site  pair
		text  string
	}{
		"Apache httpd":   {[]string{"ServerName www.", "ServerName other."}, own, "ServerName"},
		"nginx":          {nil, other, "Their certificates differ"},
		"Traffic Server": {[]string{"ssl_cert_name=site.crt", "ssl_cert_name=./site.crt"}, own, "ssl_multicert.config"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve128(t)
			instances, ports := launchAll(t, s, own, kind(name), kind(name))
			others, otherPorts := launchAll(t, s, test.site, kind(name, test.edits...))
			r, code := doctor(t, "", append(ports, otherPorts...), "--insecure", "--server", s.url)
			r.finds(t, code, wanted{"not_resumed_with_same_key", "error", []int{2}, test.text})
			r.agrees(t, instances[1], others[0])
		})
	}
}

// Two processes with keys of their own behind one address are found.
func TestDoctorTwoProcesses(t *testing.T) {
	t.Parallel()
	cert, own := site(t)
	_, ports := launchAll(t, serve128(t), own, kind("nginx", "listen 443 ssl", "listen 127.0.0.1:443 ssl reuseport"))
	launchAll(t, serve128(t), own, kind("nginx", "listen 443 ssl", "listen 443 ssl; listen 127.0.0.1:"+ports[0]+" ssl reuseport"))
	r, code := doctor(t, cert, ports)
	r.finds(t, code, wanted{"ticket_keys_differ", "error", []int{0}, "differently from one try to the next"})
}

// Tickets that live longer than the service keeps their keys are found, once its set
// does not grow any more.
func TestDoctorLifetime(t *testing.T) {
	t.Parallel()
	cert, own := site(t)
	s := serve(t, "--rotate-every=5m", "--ticket-lifetime=1s")
	s.update(t, http.MethodPost, "/ticket-keys/rotate")
	_, ports := launchAll(t, s, own, kind("HAProxy with a reload"))
	r, code := doctor(t, cert, ports, "--server", s.url)
	r.finds(t, code)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Second) { // keys of one second seem to be made at one time
		made := map[int64]bool{}
		d := description(t, s)
		for _, k := range d.Keys {
			made[k.CreatedAt.Unix()] = true
		}
		if len(made) == len(d.Keys) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the set only grows: %+v", d)
		}
		s.update(t, http.MethodPost, "/ticket-keys/rotate")
	}
	_, ports = launchAll(t, s, own, kind("HAProxy with a reload"))
	r, code = doctor(t, cert, ports, "--server", s.url)
	r.finds(t, code, wanted{"lifetime_beyond_keys", "warning", []int{0}, "2h"})
}
