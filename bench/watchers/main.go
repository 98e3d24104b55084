// Command watchers measures what clients cost that wait for new ticket keys, and
// how soon they get them. It builds the service, starts it on loopback, and holds
// one connection for each client, or for some:
//
//	go run ./watchers -n 10000
//	go run ./watchers -n 10000 -http2
//	go run ./watchers -n 10000 -http2 -streams 16
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	idleTime = 10 * time.Second // for which the processor time is taken
	rounds   = 5
)

func main() {
	n := flag.Int("n", 1000, "clients that wait")
	secure := flag.Bool("http2", false, "speak HTTP/2 over TLS rather than HTTP/1.1")
	streams := flag.Int("streams", 1, "clients that share a connection of HTTP/2, as behind a proxy")
	flag.Parse()
	if err := measure(*n, *streams, *secure); err != nil {
		fmt.Fprintln(os.Stderr, "watchers:", err)
		os.Exit(1)
	}
}

func measure(n, streams int, secure bool) error {
	s, err := start(n, secure)
	if err != nil {
		return err
	}
	defer s.stop()
	idle, err := s.resident()
	if err != nil {
		return err
	}
	etag, err := s.rotate()
	if err != nil {
		return err
	}
	clients := make([]*client, n)
	for i := range clients {
		if i%streams != 0 {
			clients[i] = clients[i-1]
			continue
		}
		if clients[i], err = s.dial(); err != nil {
			return err
		}
		defer clients[i].conn.Close()
	}
	var p50, p99, last []float64
	for round := range rounds {
		answered := make([]time.Time, n)
		failures := make([]error, n)
		var running sync.WaitGroup
		for i, c := range clients {
			running.Go(func() { answered[i], failures[i] = c.wait(etag) })
		}
		if err := s.awaitWaiting(n); err != nil {
			return err
		}
		if round == 0 {
			before := s.cpu()
			time.Sleep(idleTime)
			used := s.cpu() - before
			held, err := s.resident()
			if err != nil {
				return err
			}
			fmt.Printf("%d clients wait: %.1f MiB above idle (%.1f KiB each), %.2f %% of a core\n",
				n, float64(held-idle)/(1<<20), float64(held-idle)/float64(n)/(1<<10), 100*used.Seconds()/idleTime.Seconds())
		}
		from := time.Now()
		next, err := s.rotate()
		if err != nil {
			return err
		}
		running.Wait()
		if err := errors.Join(failures...); err != nil {
			return err
		}
		etag = next
		slices.SortFunc(answered, time.Time.Compare)
		after := func(i int) float64 { return float64(answered[i].Sub(from).Microseconds()) / 1000 }
		p50, p99, last = append(p50, after(n/2)), append(p99, after(n*99/100)), append(last, after(n-1))
	}
	for _, figures := range [][]float64{p50, p99, last} {
		slices.Sort(figures)
	}
	fmt.Printf("answered after an update, medians of %d rounds: half within %.1f ms, 99 %% within %.1f ms, all within %.1f ms\n",
		rounds, p50[rounds/2], p99[rounds/2], last[rounds/2])
	return nil
}

// service is the process that is measured.
type service struct {
	cmd     *exec.Cmd
	address string
	url     string
	dir     string
	tls     *tls.Config // nil without
	http    *http.Client
}

func start(n int, secure bool) (*service, error) {
	dir, err := os.MkdirTemp("", "watchers")
	if err != nil {
		return nil, err
	}
	s := &service{dir: dir, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	binary := filepath.Join(dir, "sessapi")
	build := exec.Command("go", "build", "-o", binary, "./cmd/sessapi")
	build.Dir, build.Stderr = "..", os.Stderr
	if err := build.Run(); err != nil {
		return s, err
	}
	s.cmd = exec.Command(binary, "serve", "--listen=127.0.0.1:0", "--log-format=text", fmt.Sprint("--max-connections=", n+100))
	if secure {
		if err := s.useTLS(); err != nil {
			return s, err
		}
	}
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		return s, err
	}
	if err := s.cmd.Start(); err != nil {
		return s, err
	}
	listening := regexp.MustCompile(`msg=listening.* address=(\S+)`)
	log := bufio.NewScanner(stderr)
	for log.Scan() {
		if match := listening.FindStringSubmatch(log.Text()); match != nil {
			s.address, s.url = match[1], "http://"+match[1]
			if secure {
				s.url = "https://" + match[1]
			}
			go func() { _, _ = io.Copy(io.Discard, stderr) }()
			time.Sleep(time.Second) // what the start leaves to do
			return s, nil
		}
	}
	return s, errors.New("the service does not listen")
}

// useTLS gives the service a certificate, which the clients trust.
func (s *service) useTLS() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	cert, certKey := filepath.Join(s.dir, "cert.pem"), filepath.Join(s.dir, "key.pem")
	if err := errors.Join(os.WriteFile(cert, certPEM, 0o600), os.WriteFile(certKey, keyPEM, 0o600)); err != nil {
		return err
	}
	s.cmd.Args = append(s.cmd.Args, "--tls-cert="+cert, "--tls-key="+certKey)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	s.tls = &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
	s.http.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool}
	return nil
}

func (s *service) stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait()
	}
	_ = os.RemoveAll(s.dir)
}

// resident is the resident memory of the service in bytes.
func (s *service) resident() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	match := regexp.MustCompile(`(?m)^Rss:\s+(\d+) kB`).FindSubmatch(b)
	if match == nil {
		return 0, errors.New("smaps_rollup has no Rss")
	}
	kib, err := strconv.ParseInt(string(match[1]), 10, 64)
	return kib << 10, err
}

// cpu is the processor time that the service has used (proc(5): utime and stime,
// in hundredths of a second).
func (s *service) cpu() time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func (s *service) rotate() (etag string, err error) {
	response, err := s.http.Post(s.url+"/ticket-keys/rotate", "", nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	return response.Header.Get("ETag"), nil
}

// awaitWaiting returns when the service holds n requests.
func (s *service) awaitWaiting(n int) error {
	want := fmt.Sprintf("\nsessapi_ticket_keys_waiting_requests %v\n", float64(n))
	for range 300 {
		response, err := s.http.Get(s.url + "/metrics")
		if err != nil {
			return err
		}
		b, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte(want)) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("the clients do not all wait")
}

// client is a connection that waits for keys.
type client struct {
	conn *http.ClientConn
	url  string
}

func (s *service) dial() (*client, error) {
	transport := &http.Transport{TLSClientConfig: s.tls, Protocols: new(http.Protocols), ReadBufferSize: 1 << 10}
	transport.Protocols.SetHTTP1(s.tls == nil)
	transport.Protocols.SetHTTP2(s.tls != nil)
	scheme, _, _ := strings.Cut(s.url, ":")
	conn, err := transport.NewClientConn(context.Background(), scheme, s.address)
	return &client{conn, s.url}, err
}

// wait asks for another set than that of the ETag, and returns when the answer came.
func (c *client) wait(etag string) (time.Time, error) {
	request, err := http.NewRequest(http.MethodGet, c.url+"/ticket-keys?format=ats", nil)
	if err != nil {
		return time.Time{}, err
	}
	request.Header.Set("If-None-Match", etag)
	request.Header.Set("Prefer", "wait=300")
	response, err := c.conn.RoundTrip(request)
	at := time.Now()
	if err != nil {
		return at, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return at, err
	}
	if response.StatusCode != http.StatusOK {
		return at, fmt.Errorf("status %d", response.StatusCode)
	}
	return at, nil
}
