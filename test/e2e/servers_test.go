package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

// server is a kind of TLS server. Its page in docs/servers has its configuration,
// the command that fetches its keys before it starts, and the one that keeps them
// up to date; the tests run all three.
type server struct {
	name string
	page string
	// command starts it. ${DIR} is the instance's folder, here and below.
	command []string
	// programs are scripts in place of programs that the page calls: they say which
	// of several servers on this machine is meant.
	programs map[string]string
	// extra goes to the end of a file of the page, or is one more file: what a
	// server needs to run without privileges beside an installed one.
	extra map[string]string
	// change is which of the page's commands for a change to run.
	change int
	// request makes the server close the connection; a request of HTTP if empty.
	request string
	// oneKey: its file has the key that encrypts and no other.
	oneKey bool
	// remembers: it keeps the keys of earlier files, until the last of the page's
	// commands for a change.
	remembers bool
	// bound: a server with another certificate does not resume its tickets.
	bound bool
	// nameless: its tickets do not begin with the name of a key.
	nameless bool
}

var servers = []server{
	{
		name: "nginx", page: "nginx", bound: true,
		command:  []string{"nginx", "-g", "daemon off;"},
		programs: map[string]string{"nginx": "nginx -e stderr -c ${DIR}/etc/nginx/nginx.conf"},
		extra: map[string]string{"etc/nginx/conf.d/unprivileged.conf": `
			access_log off;
			client_body_temp_path ${DIR}/temp;
			proxy_temp_path ${DIR}/temp;
			fastcgi_temp_path ${DIR}/temp;
			uwsgi_temp_path ${DIR}/temp;
			scgi_temp_path ${DIR}/temp;
		`},
	},
	{
		name: "HAProxy with a reload", page: "haproxy",
		command: []string{"haproxy", "-W", "-p", "${DIR}/run/haproxy.pid", "-f", "${DIR}/etc/haproxy/haproxy.cfg"},
	},
	{
		name: "HAProxy with its socket", page: "haproxy", change: 1,
		command: []string{"haproxy", "-f", "${DIR}/etc/haproxy/haproxy.cfg"},
		extra:   map[string]string{"bin/set-tls-keys.sh": string(must(os.ReadFile("../../examples/haproxy/set-tls-keys.sh")))},
	},
	{
		name: "Apache httpd", page: "httpd", oneKey: true,
		command:  []string{"apache2", "-D", "FOREGROUND", "-f", "${DIR}/etc/apache2/apache2.conf"},
		programs: map[string]string{"apachectl": "apache2 -f ${DIR}/etc/apache2/apache2.conf -k"},
	},
	{
		name: "Traffic Server", page: "trafficserver",
		command:  []string{"traffic_manager", "--nosyslog", "--run-root=${DIR}/runroot.yaml"},
		programs: map[string]string{"traffic_ctl": "traffic_ctl --run-root=${DIR}/runroot.yaml"},
		extra: map[string]string{
			"etc/trafficserver/records.config": `
CONFIG proxy.config.http.cache.http INT 0
CONFIG proxy.config.crash_log_helper STRING NULL
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT 1
`,
			"etc/trafficserver/storage.config": "# Nothing is cached.\n",
			"etc/trafficserver/ip_allow.yaml":  "ip_allow: [{apply: in, ip_addrs: 127.0.0.1, action: allow, methods: ALL}]\n",
			"runroot.yaml": `
bindir: /usr/bin
libdir: /usr/lib/trafficserver
sysconfdir: ${DIR}/etc/trafficserver
libexecdir: ${DIR}
localstatedir: ${DIR}
runtimedir: ${DIR}
logdir: ${DIR}
cachedir: ${DIR}
`,
		},
	},
	{name: "H2O", page: "h2o", command: []string{"h2o", "-c", "${DIR}/etc/h2o/h2o.conf"}},
	{name: "nghttpx", page: "nghttpx", command: []string{"nghttpx", "--conf=${DIR}/etc/nghttpx/nghttpx.conf"}},
	{
		name: "lighttpd", page: "lighttpd", oneKey: true, remembers: true,
		command: []string{"lighttpd", "-D", "-f", "${DIR}/etc/lighttpd/lighttpd.conf"},
	},
	{
		name: "dnsdist", page: "dnsdist", request: "\x00\x00",
		command:  []string{"dnsdist", "--supervised"},
		programs: map[string]string{"dnsdist": "dnsdist -C ${DIR}/etc/dnsdist/dnsdist.conf"},
	},
	{
		name: "Node.js", page: "node",
		command: []string{"node", "${DIR}/server.mjs"},
		extra:   map[string]string{"sessapi.mjs": string(must(os.ReadFile(nodeExample + "sessapi.mjs")))},
	},
	{name: "Go", page: "go", nameless: true, command: []string{"${DIR}/main"}},
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Two servers of each kind, set up as their page says, resume each other's tickets:
// before a rotation, while it spreads, and after it. A revoke ends that.
func TestServersShareTicketKeys(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	own, other := newPair(t), newPair(t)
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			p := readPage(t, server.page)
			a, b, c := launch(t, &server, s, p, own), launch(t, &server, s, p, own), launch(t, &server, s, p, other)
			a.follow(t)
			if server.oneKey { // and neither has the next key before its change
				b.follow(t)
			}
			versions := []string{"-tls1_2", "-tls1_3"}
			dir := t.TempDir()

			old := a.currentName(t)
			for _, version := range versions {
				ticket := filepath.Join(dir, "old"+version)
				if v := a.visit(t, version, "", ticket); v.Reused || !server.nameless && v.TicketName != old {
					t.Errorf("%s: the first visit: %+v, the current key is %s", version, v, old)
				}
				if v := b.visit(t, version, ticket, ""); !v.Reused {
					t.Errorf("%s: B does not resume the ticket of A", version)
				}
				if v := c.visit(t, version, ticket, ""); v.Reused == server.bound {
					t.Errorf("%s: with another certificate a ticket resumes: %t", version, v.Reused)
				}
			}

			s.update(t, http.MethodPost, "/ticket-keys/rotate")
			current := a.currentName(t)
			if current == old {
				t.Fatalf("the current key is still %s", old)
			}
			for _, version := range versions {
				ticket := filepath.Join(dir, "new"+version)
				a.awaitTicketName(t, version, current, filepath.Join(dir, "old"+version), ticket)
				if v := b.visit(t, version, ticket, ""); !server.oneKey && !v.Reused {
					t.Errorf("%s: B, which has the new key as the next one, does not resume the ticket of A", version)
				}
			}
			if !server.oneKey {
				b.follow(t)
			}
			for _, version := range versions {
				b.awaitTicketName(t, version, current, filepath.Join(dir, "old"+version), filepath.Join(dir, "last"+version))
				if v := b.visit(t, version, filepath.Join(dir, "new"+version), ""); !v.Reused {
					t.Errorf("%s: B does not resume the ticket of A after the rotation", version)
				}
			}

			s.update(t, http.MethodDelete, "/ticket-keys/"+current)
			next := a.currentName(t)
			for _, i := range []*instance{a, b} {
				for _, version := range versions {
					i.awaitRefusal(t, version, next, filepath.Join(dir, "new"+version))
				}
			}
		})
	}
}

// Go servers that share their sessions, as their page says, resume what another began:
// with TLS 1.3 once. Without the service they go on with full handshakes.
func TestGoServersShareSessions(t *testing.T) {
	need(t, "openssl")
	t.Parallel()
	s := serve(t)
	p := readPage(t, "go")
	line := regexp.MustCompile(`(?m)^.*FollowTicketKeys.*\n`)
	snippet := regexp.MustCompile(`(?m)^\tservice\.ShareSessions.*\n`).Find(readFile(t, "../../docs/servers/go.md"))
	if snippet == nil || !line.MatchString(p.files["main.go"]) {
		t.Fatal("go.md has no line to share sessions, or none in whose place it is")
	}
	p.files["main.go"] = line.ReplaceAllLiteralString(p.files["main.go"], string(snippet))
	server := &servers[slices.IndexFunc(servers, func(s server) bool { return s.page == "go" })]
	site := newPair(t)
	a, b := launch(t, server, s, p, site), launch(t, server, s, p, site)
	dir, versions := t.TempDir(), []string{"-tls1_2", "-tls1_3"}
	for _, version := range versions {
		first := filepath.Join(dir, "first"+version)
		redistest.Await(t, version, func() error { // on a busy machine a handshake may not wait for the service
			if v := a.visit(t, version, "", first); v.Reused {
				t.Fatalf("%s: the first visit resumes", version)
			}
			if v := b.visit(t, version, first, ""); !v.Reused {
				return errors.New("B does not resume the session of A")
			}
			if v := a.visit(t, version, first, ""); v.Reused == (version == "-tls1_3") {
				return fmt.Errorf("the same session again: resumed is %t", v.Reused)
			}
			return nil
		})
		b.visit(t, version, "", filepath.Join(dir, "last"+version))
	}
	s.stop(t, syscall.SIGTERM)
	for _, version := range versions {
		if v := a.visit(t, version, filepath.Join(dir, "last"+version), ""); v.Reused {
			t.Errorf("%s: A resumes without the service", version)
		}
	}
}

// Each page has the same sections in the same order, and a row in the list.
func TestServerPages(t *testing.T) {
	sections := []string{"Configuration", "Keys at start", "Keys at a change", "How many keys", "What binds a ticket", "What goes wrong", "How to check"}
	index := string(readFile(t, "../../docs/servers/README.md"))
	files, err := filepath.Glob("../../docs/servers/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".md")
		if name == "README" {
			continue
		}
		if !strings.Contains(index, "]("+name+".md)") {
			t.Errorf("README.md does not list %s.md", name)
		}
		if got := readPage(t, name).sections; !slices.Equal(got, sections) {
			t.Errorf("%s.md has the sections %q", name, got)
		}
		if name != "envoy" && !slices.ContainsFunc(servers, func(s server) bool { return s.page == name }) {
			t.Errorf("nothing starts the server of %s.md", name)
		}
	}
}

// page is a page of docs/servers.
type page struct {
	sections []string
	files    map[string]string // the configuration, by path
	start    []string          // commands that fetch the keys before a start
	change   []string          // commands that keep them up to date
}

var (
	fence = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")
	// A configuration begins with a comment that has its path.
	configPath = regexp.MustCompile(`^(?:#|//|--) (/etc/\S+|\w+\.\w+)\n`)
)

func readPage(tb testing.TB, name string) page {
	tb.Helper()
	p := page{files: map[string]string{}}
	_, text, _ := strings.Cut(string(readFile(tb, "../../docs/servers/"+name+".md")), "\n## ")
	for section := range strings.SplitSeq(text, "\n## ") {
		title, body, _ := strings.Cut(section, "\n")
		p.sections = append(p.sections, title)
		for _, block := range fence.FindAllStringSubmatch(body, -1) {
			switch path := configPath.FindStringSubmatch(block[2]); {
			case path != nil:
				p.files[path[1]] = block[2]
			case block[1] == "sh" && title == "Keys at start":
				p.start = append(p.start, block[2])
			case block[1] == "sh" && title == "Keys at a change":
				p.change = append(p.change, block[2])
			}
		}
	}
	if len(p.files) == 0 {
		tb.Fatalf("%s.md has no configuration", name)
	}
	return p
}

func (s *service) update(tb testing.TB, method, path string) {
	tb.Helper()
	if status, body := s.do(tb, method, path, nil); status != http.StatusOK {
		tb.Fatalf("%s %s: %d %s", method, path, status, body)
	}
}

// instance is a server in a folder of its own, which has its /etc, /run and /var.
type instance struct {
	*server
	*service
	page page
	dir  string
	port string
	env  []string
	text *strings.Replacer // from the page to the instance
}

func newInstance(tb testing.TB, server *server, s *service, p page) *instance {
	tb.Helper()
	dir := shortDir(tb)
	give(tb, dir)
	i := &instance{server: server, service: s, page: p, dir: dir, port: freePort(tb)}
	i.env = append(os.Environ(),
		"PATH="+filepath.Join(dir, "bin")+":"+filepath.Dir(sessapiPath)+":"+os.Getenv("PATH"),
		"SESSAPI_SERVER=http://"+s.addr, "GORACE=atexit_sleep_ms=0")
	i.text = strings.NewReplacer("${DIR}", dir, "127.0.0.1:8440", s.addr, "127.0.0.1:5199", "127.0.0.1:"+freePort(tb))
	return i
}

var (
	// The instance has no privileges to give up, nor files to give away.
	pageUser = regexp.MustCompile(`(?mi)^ *(user|group|server\.username|server\.groupname)[ =:].*\n| --owner \S+`)
	// httpd binds tickets to its ServerName, which is one for all instances.
	pagePort = regexp.MustCompile(`(ServerName .*)|\b(443|853)\b`)
	pagePath = regexp.MustCompile(`(^|[^\w./}])(/(?:etc|run|var)/[\w./{}-]*)`)
)

// adapt makes text of the page fit the instance: its ports and its folders.
func (i *instance) adapt(text string) string {
	text = pageUser.ReplaceAllString(text, "")
	text = pagePort.ReplaceAllStringFunc(text, func(s string) string {
		if strings.HasPrefix(s, "ServerName") {
			return s
		}
		return i.port
	})
	return i.text.Replace(pagePath.ReplaceAllString(text, "${1}"+i.dir+"$2"))
}

// pair is a certificate and its key, as PEM.
type pair struct{ cert, key []byte }

func newPair(tb testing.TB) pair {
	tb.Helper()
	cert, key := certificate(tb, "/CN=localhost")
	return pair{readFile(tb, cert), readFile(tb, key)}
}

// launch sets up a server as its page says, fetches the keys and starts it.
func launch(tb testing.TB, server *server, s *service, p page, site pair) *instance {
	tb.Helper()
	i := newInstance(tb, server, s, p)
	i.write(tb, "etc/ssl/site.crt", site.cert)
	i.write(tb, "etc/ssl/site.key", site.key)
	i.write(tb, "etc/ssl/site.pem", slices.Concat(site.cert, site.key))
	for path, text := range i.page.files {
		adapted := i.adapt(text)
		for _, name := range regexp.MustCompile(regexp.QuoteMeta(i.dir)+`/[\w./{}-]*`).FindAllString(adapted, -1) {
			i.mkdir(tb, filepath.Dir(name))
		}
		path = strings.TrimPrefix(path, "/")
		i.write(tb, path, []byte(adapted+i.text.Replace(i.extra[path])))
	}
	for path, text := range i.extra {
		if _, ok := i.page.files["/"+path]; !ok {
			i.write(tb, path, []byte(i.text.Replace(text)))
		}
	}
	for name, command := range i.programs {
		program, args, _ := strings.Cut(i.text.Replace(command), " ")
		i.write(tb, "bin/"+name, []byte("#!/bin/sh\nexec "+need(tb, program)+" "+args+" \"$@\"\n"))
	}
	i.mkdir(tb, filepath.Join(i.dir, "run/sessapi"))
	i.mkdir(tb, filepath.Join(i.dir, "var/www"))
	for _, command := range i.page.start {
		i.run(tb, command)
	}
	// H2O, Traffic Server and lighttpd do not see a change within the second in
	// which they read the file before. Where keys rotate by the hour that was long ago.
	keys, err := filepath.Glob(filepath.Join(i.dir, "run/sessapi/*"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, key := range keys {
		if err := os.Chtimes(key, time.Time{}, time.Now().Add(-time.Minute)); err != nil {
			tb.Fatal(err)
		}
	}
	if i.page.files["main.go"] != "" {
		build := exec.Command("go", "build", "-o", filepath.Join(i.dir, "main"), filepath.Join(i.dir, "main.go"))
		if output, err := build.CombinedOutput(); err != nil {
			tb.Fatalf("%v\n%s", err, output)
		}
	}
	program, args := i.command[0], slices.Clone(i.command[1:])
	for n := range args {
		args[n] = i.text.Replace(args[n])
	}
	if _, ok := i.programs[program]; ok {
		program = filepath.Join(i.dir, "bin", program)
	} else {
		program = need(tb, i.text.Replace(program))
	}
	i.begin(tb, exec.Command(program, args...))
	awaitListening(tb, "127.0.0.1:"+i.port)
	return i
}

// follow keeps the keys of the instance up to date until the test ends.
func (i *instance) follow(tb testing.TB) {
	tb.Helper()
	if len(i.page.change) > 0 {
		i.begin(tb, i.shell("exec "+i.adapt(i.page.change[i.change])))
	}
}

// run runs a command of the page to its end.
func (i *instance) run(tb testing.TB, command string) {
	tb.Helper()
	p := i.begin(tb, i.shell(i.adapt(command)))
	p.wait(tb)
	if p.err != nil {
		tb.Fatalf("%s: %v\n%s", command, p.err, p.out)
	}
}

func (*instance) shell(command string) *exec.Cmd { return exec.Command("sh", "-c", command) }

// begin starts a command in the instance's folder, without privileges, that is
// stopped when the test ends.
func (i *instance) begin(tb testing.TB, cmd *exec.Cmd) *process {
	tb.Helper()
	cmd.Dir, cmd.Env = i.dir, i.env
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	p := startCommand(tb, cmd)
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("%s printed:\n%s", cmd, p.out)
		}
	})
	return p
}

// write puts a file in place that the instance alone can read and, if it is a
// program, run.
func (i *instance) write(tb testing.TB, name string, data []byte) {
	tb.Helper()
	path := filepath.Join(i.dir, name)
	i.mkdir(tb, filepath.Dir(path))
	if err := os.WriteFile(path, data, 0o700); err != nil {
		tb.Fatal(err)
	}
	give(tb, path)
}

// mkdir makes a folder of the instance.
func (i *instance) mkdir(tb testing.TB, path string) {
	tb.Helper()
	if _, err := os.Stat(path); err == nil {
		return
	}
	i.mkdir(tb, filepath.Dir(path))
	if err := os.Mkdir(path, 0o700); err != nil {
		tb.Fatal(err)
	}
	give(tb, path)
}

// currentName is the name of the key that encrypts.
func (i *instance) currentName(tb testing.TB) string {
	tb.Helper()
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
func (i *instance) visit(tb testing.TB, version, sessionIn, sessionOut string, extra ...string) (v visit) {
	tb.Helper()
	args := append([]string{"s_client", "-connect", "127.0.0.1:" + i.port, version, "-ign_eof"}, extra...)
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
	if i.request != "" {
		cmd.Stdin = strings.NewReader(i.request)
	}
	out, err := cmd.CombinedOutput()
	status := regexp.MustCompile(`\n(New|Reused), TLSv1`).FindSubmatch(out)
	tickets := ticketName.FindAllSubmatch(out, -1)
	if status == nil {
		tb.Fatalf("%s: no session (%v)\n%s", version, err, redact(string(out)))
	}
	v.Reused = string(status[1]) == "Reused"
	if len(tickets) > 0 {
		v.TicketName = strings.NewReplacer(" ", "", "-", "").Replace(string(tickets[len(tickets)-1][1]))
	}
	return v
}

// changeDeadline is longer than any server takes to look at its file again:
// lighttpd does every 64 seconds, and skips it when it is busy just then.
const changeDeadline = 5 * time.Minute

// awaitTicketName visits anew until the instance makes tickets under the current
// key, and leaves such a one in the file newTicket. All the while the old ticket
// has to resume.
func (i *instance) awaitTicketName(tb testing.TB, version, current, oldTicket, newTicket string) {
	tb.Helper()
	for deadline := time.Now().Add(changeDeadline); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		first := i.visit(tb, version, "", newTicket)
		resumes := i.visit(tb, version, oldTicket, "").Reused
		if forgets := i.oneKey && !i.remembers; !resumes && !forgets {
			tb.Errorf("%s: after the rotation a ticket under the previous key does not resume", version)
		} else if i.nameless || first.TicketName == current {
			if resumes && forgets {
				tb.Errorf("%s: a ticket resumes without its key", version)
			}
			return
		}
	}
	tb.Fatalf("%s: the server does not take the key %s", version, current)
}

// awaitRefusal visits until the instance has the next key, and not that of the
// ticket any more.
func (i *instance) awaitRefusal(tb testing.TB, version, next, ticket string) {
	tb.Helper()
	var v visit
	for deadline := time.Now().Add(changeDeadline); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		v = i.visit(tb, version, ticket, "")
		switch {
		case !v.Reused && (i.nameless || v.TicketName == next):
			return
		case i.remembers && i.visit(tb, version, "", "").TicketName == next:
			i.run(tb, i.page.change[len(i.page.change)-1])
		}
	}
	tb.Fatalf("%s: a visit with a ticket under a revoked key: %+v, the current key is %s", version, v, next)
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
