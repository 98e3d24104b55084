package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The contenders.
const (
	sessapi     = "sessapi"
	withPolicy  = "sessapi, token and policy"
	localFleet  = "sessapi with Redis, local hits"
	localFleet3 = "three nodes with Redis, local hits"
	remoteFleet = "sessapi with Redis, remote hits"
	floorServer = "floor"
	webdis      = "webdis + Redis"
	etcd        = "etcd's JSON gateway"
	nginx       = "nginx + memcached"
	plainRedis  = "Redis, redis-benchmark"
)

const redisServer = "redis-server"

// lab is what the measures share.
type lab struct {
	dir, sessapi string // a directory for files, and the program
	duration     time.Duration
	sessions     int // in place of each row's own number, if not 0
}

// kind is what a request does.
type kind int

const (
	get kind = iota
	put
	head
	missing
	describe
	kinds
)

// contender is a server, which may be several processes, with sessions in it.
type contender struct {
	address   string
	others    []string // addresses of further nodes
	redis     string   // port of plain Redis; "" is HTTP
	processes []*exec.Cmd
	requests  [kinds]template // zero where it cannot do that
	store     template        // stores a session; zero when fill does
	fill      func(ids []string, data []byte) error
	// unwrap gets the session out of the body of an answer to get; nil is as it is.
	unwrap func(body []byte) ([]byte, error)
}

// template is a request. {id} in its path and body is the hex of the session's ID.
type template struct {
	method, path string
	header       string // lines, each with its CRLF
	body         string
}

// raw is the request for a session.
func (t template) raw(host, id string) []byte {
	body := strings.ReplaceAll(t.body, "{id}", id)
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n%s", t.method, strings.ReplaceAll(t.path, "{id}", id), host, t.header)
	if t.method == http.MethodPut || t.method == http.MethodPost {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	return append(append(b.Bytes(), "\r\n"...), body...)
}

// start starts a contender, without sessions, and waits until it answers. Sessions
// are to be data.
func (l *lab) start(ctx context.Context, name string, sessions int, data []byte) (c *contender, err error) {
	dir, err := os.MkdirTemp(l.dir, "")
	if err != nil {
		return nil, err
	}
	c = &contender{}
	defer func() {
		if err != nil {
			c.stop()
			c = nil
		}
	}()
	port, err := freePort()
	if err != nil {
		return c, err
	}
	c.address = "127.0.0.1:" + port
	switch name {
	case floorServer:
		self, err := os.Executable()
		if err != nil {
			return c, err
		}
		c.contract("", data)
		c.store = c.requests[put]
		c.store.method = http.MethodPost
		return c, c.launch(ctx, dir, c.address, self, floorCommand, c.address)
	case sessapi:
		c.contract("", data)
		return c, c.launch(ctx, dir, c.address, l.sessapi, l.serve(c, sessions, len(data))...)
	case withPolicy:
		token, policy, err := l.policy(ctx, dir)
		if err != nil {
			return c, err
		}
		c.contract("Authorization: Bearer "+token+"\r\n", data)
		return c, c.launch(ctx, dir, c.address, l.sessapi, append(l.serve(c, sessions, len(data)), "--policy="+policy)...)
	case nginx:
		return c, c.nginx(ctx, dir, sessions)
	case etcd:
		return c, c.etcd(ctx, dir, data)
	}
	// The others have Redis behind them.
	redis, err := freePort()
	if err != nil {
		return c, err
	}
	if err := c.launch(ctx, dir, "127.0.0.1:"+redis, redisServer, "--port", redis, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"); err != nil {
		return c, err
	}
	switch name {
	case plainRedis:
		c.redis = redis
		return c, nil
	case webdis:
		return c, c.webdis(ctx, dir, port, redis, data)
	}
	c.contract("", data)
	keys := filepath.Join(dir, "seal-keys")
	out, err := exec.CommandContext(ctx, l.sessapi, "seal-key", "new").Output()
	if err != nil {
		return c, err
	}
	if err := os.WriteFile(keys, out, 0o600); err != nil {
		return c, err
	}
	args := append(l.serve(c, sessions, len(data)), "--redis=redis://127.0.0.1:"+redis, "--seal-key-file="+keys,
		"--redis-read-timeout=5s") // nothing counts as missing for a hiccup
	if name == remoteFleet { // hardly any session is local
		args = append(args, "--cache-max-sessions=1")
	}
	if name == localFleet3 {
		for range 2 {
			port, err := freePort()
			if err != nil {
				return c, err
			}
			other := "127.0.0.1:" + port
			c.others = append(c.others, other)
			if err := c.launch(ctx, dir, other, l.sessapi, append(args, "--listen="+other)...); err != nil {
				return c, err
			}
		}
	}
	return c, c.launch(ctx, dir, c.address, l.sessapi, args...)
}

// contract has the requests of sessapi, with a header of its own.
func (c *contender) contract(header string, data []byte) {
	const path = "/sessions/{id}"
	accept := header + "Accept: application/octet-stream\r\n"
	c.requests = [kinds]template{
		get:      {method: http.MethodGet, path: path, header: accept},
		put:      {method: http.MethodPut, path: path, header: header + "Content-Type: application/octet-stream\r\n", body: string(data)},
		head:     {method: http.MethodHead, path: path, header: accept},
		missing:  {method: http.MethodGet, path: "/sessions/0011", header: accept},
		describe: {method: http.MethodGet, path: path, header: header + "Accept: application/json\r\n"},
	}
	c.store = c.requests[put]
}

// serve is the command line of sessapi, as shipped but for sessions that outlive
// the measures and, where they need it, a larger cache.
func (l *lab) serve(c *contender, sessions, size int) []string {
	args := []string{"serve", "--listen=" + c.address, "--session-default-ttl=24h"}
	const shipped, each = 256 << 20, 80 // what a session of that size takes besides
	if need := sessions * (size + each); need > shipped/4*3 {
		args = append(args, "--cache-memory="+strconv.Itoa(need/4*5>>20)+"MiB")
	}
	return args
}

// policy makes a token that may read and write sessions, and the policy for it.
func (l *lab) policy(ctx context.Context, dir string) (token, file string, err error) {
	out, err := exec.CommandContext(ctx, l.sessapi, "token", "new", "--expires", "1d").Output()
	if err != nil {
		return "", "", err
	}
	// The token is the first line, and its entry for the policy the last.
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	token = lines[0]
	file = filepath.Join(dir, "policy.yaml")
	policy := "identities:\n  - name: edge\n    roles: [session-read, session-write]\n    tokens:\n      " + lines[len(lines)-1] + "\n"
	return token, file, os.WriteFile(file, []byte(policy), 0o600)
}

// webdis is Redis' commands as paths; .bin asks for the value as octets.
func (c *contender) webdis(ctx context.Context, dir, port, redis string, data []byte) error {
	number := func(s string) int { n, _ := strconv.Atoi(s); return n } // it is a port
	config, err := json.Marshal(map[string]any{
		"redis_host": "127.0.0.1", "redis_port": number(redis),
		"http_host": "127.0.0.1", "http_port": number(port),
		"threads": 1, "pool_size": 20, "daemonize": false, "database": 0,
		"verbosity": 0, "logfile": filepath.Join(dir, "webdis.log"),
	})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "webdis.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	c.requests[get] = template{method: http.MethodGet, path: "/GET/{id}.bin"}
	c.requests[put] = template{method: http.MethodPut, path: "/SETEX/{id}/86400", body: string(data)}
	c.store = c.requests[put]
	return c.launch(ctx, dir, c.address, "webdis", file)
}

// etcd takes keys and values as base64. The hex of an ID is base64 too, if of
// another key.
func (c *contender) etcd(ctx context.Context, dir string, data []byte) error {
	peer, err := freePort()
	if err != nil {
		return err
	}
	const header = "Content-Type: application/json\r\n"
	c.requests[get] = template{method: http.MethodPost, path: "/v3/kv/range", header: header, body: `{"key":"{id}"}`}
	c.requests[put] = template{
		method: http.MethodPost, path: "/v3/kv/put", header: header,
		body: `{"key":"{id}","value":"` + base64.StdEncoding.EncodeToString(data) + `"}`,
	}
	c.store = c.requests[put]
	c.unwrap = func(body []byte) ([]byte, error) {
		var answer struct {
			KVs []struct {
				Value []byte `json:"value"`
			} `json:"kvs"`
		}
		if err := json.Unmarshal(body, &answer); err != nil || len(answer.KVs) != 1 {
			return nil, fmt.Errorf("not one value: %w", err)
		}
		return answer.KVs[0].Value, nil
	}
	client, peerURL := "http://"+c.address, "http://127.0.0.1:"+peer
	return c.launch(ctx, dir, c.address, "etcd", "--data-dir=data", "--name=bench", "--log-level=error",
		"--quota-backend-bytes=8589934592", "--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peerURL, "--initial-advertise-peer-urls="+peerURL, "--initial-cluster=bench="+peerURL)
}

// nginx reads from memcached, and cannot write.
func (c *contender) nginx(ctx context.Context, dir string, sessions int) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	self, err := user.Current() // as root, memcached wants to be told a user
	if err != nil {
		return err
	}
	if err := c.launch(ctx, dir, "127.0.0.1:"+port, "memcached", "-l", "127.0.0.1", "-p", port, "-t", "1",
		"-m", strconv.Itoa(1024+sessions*512>>20), "-u", self.Username); err != nil {
		return err
	}
	config := `daemon off; master_process off; pid nginx.pid; error_log stderr crit;
events { worker_connections 4096; }
http {
	access_log off; keepalive_requests 1000000000; default_type application/octet-stream;
	client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
	upstream memcached { server 127.0.0.1:` + port + `; keepalive 64; }
	server {
		listen ` + c.address + `;
		location /sessions/ { set $memcached_key $uri; memcached_pass memcached; }
	}
}
`
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	c.requests[get] = template{method: http.MethodGet, path: "/sessions/{id}"}
	c.requests[missing] = template{method: http.MethodGet, path: "/sessions/0011"}
	c.fill = func(ids []string, data []byte) error { return fillMemcached("127.0.0.1:"+port, ids, data) }
	return c.launch(ctx, dir, c.address, "nginx", "-p", dir, "-e", "stderr", "-c", file)
}

func fillMemcached(address string, ids []string, data []byte) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for _, id := range ids {
		if _, err := fmt.Fprintf(conn, "set /sessions/%s 0 86400 %d\r\n%s\r\n", id, len(data), data); err != nil {
			return err
		}
		if line, err := answers.ReadString('\n'); err != nil || line != "STORED\r\n" {
			return fmt.Errorf("memcached answers %q: %w", line, err)
		}
	}
	return nil
}

// launch starts a program on core 0 and waits until it takes connections.
func (c *contender) launch(ctx context.Context, dir, address, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", "0", program}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &output
	if err := cmd.Start(); err != nil {
		return err
	}
	c.processes = append(c.processes, cmd)
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var conn net.Conn
		if conn, err = net.Dial("tcp", address); err == nil {
			return conn.Close()
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // so that all of its output is there
	return fmt.Errorf("%s: %w\n%s", program, err, output.Bytes())
}

func (c *contender) stop() {
	for _, cmd := range c.processes {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed, and says so
	}
}

// cpu is the processor time that the processes have used (proc(5): utime and
// stime, in hundredths of a second), and how much of it Redis has.
func (c *contender) cpu() (sum, redis time.Duration, err error) {
	for _, cmd := range c.processes {
		before := sum
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			return 0, 0, err
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, field := range fields[11:13] {
			ticks, err := strconv.Atoi(field)
			if err != nil {
				return 0, 0, err
			}
			sum += time.Duration(ticks) * 10 * time.Millisecond
		}
		if slices.Contains(cmd.Args, redisServer) {
			redis += sum - before
		}
	}
	return sum, redis, nil
}

// freePort is a port that nobody listens to at the moment.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "", err
	}
	return port, l.Close()
}
