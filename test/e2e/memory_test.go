package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// TestSecretsInMemory looks for secrets in all of the memory of the service. Those
// that are over are nowhere: not in the memory of the cache, nor in Go's heap once
// net/http has used the buffers of its connections again. Those that live are in
// the one place that keeps them. Logs and metrics never have them.
func TestSecretsInMemory(t *testing.T) {
	t.Parallel()
	program := buildCommand(t) // the race detector keeps copies
	p := start(t, program, "serve", "--listen=127.0.0.1:0", "--dumpable", "--log-level=debug", "--access-log=on", "--cache-memory=16MiB")
	addr := p.out.await(t, `"name":"main","address":"([^"]+)"`)[1]
	p.out.await(t, `"msg":"serving"`)
	s := &service{process: p, addr: addr, url: "http://" + addr}

	const typeBytes = "application/octet-stream"
	random := func(n int) []byte { b := make([]byte, n); _, _ = rand.Read(b); return b }
	do := func(want int, method, path string, body []byte) []byte {
		t.Helper()
		status, answer := s.do(t, method, path, body, "Content-Type", typeBytes, "Accept", typeBytes)
		if status != want {
			t.Fatalf("%s %s: %d", method, path, status)
		}
		return answer
	}
	dropped, active, deleted, live := random(48), random(48), random(160), random(160)
	do(200, "POST", "/ticket-keys", dropped)
	if !bytes.Equal(do(200, "GET", "/ticket-keys?format=ats", nil), dropped) {
		t.Fatal("other keys are exported")
	}
	do(200, "GET", "/ticket-keys?format=nginx", nil)
	do(200, "POST", "/ticket-keys", active)
	do(201, "PUT", "/sessions/01", deleted)
	do(200, "GET", "/sessions/01", nil)
	do(204, "DELETE", "/sessions/01", nil)
	do(201, "PUT", "/sessions/02", live)
	do(200, "GET", "/sessions/02", nil)
	_, metrics := s.get(t, "/metrics", "text/plain")
	secrets := map[string][]byte{
		"dropped HMAC secret": dropped[16:32], "dropped AES key": dropped[32:48], "deleted session": deleted[:32],
		"active HMAC secret": active[16:32], "active AES key": active[32:48], "live session": live[:32],
	}
	for name, secret := range secrets {
		if bytes.Contains(metrics, secret) || strings.Contains(p.out.String(), string(secret)) || strings.Contains(p.out.String(), fmt.Sprintf("%x", secret)) {
			t.Errorf("the %s is in metrics or log", name)
		}
	}
	// Which buffers net/http uses again, and when, is up to the garbage collector.
	var wrong []string
	for range 20 {
		overwriteBuffers(t, s)
		copies := map[string]int{}
		scanMemory(t, p.Process.Pid, func(memory []byte) {
			for name, secret := range secrets {
				copies[name] += bytes.Count(memory, secret)
			}
		})
		wrong = nil
		for name := range secrets {
			want := 0
			if strings.HasPrefix(name, "active") || strings.HasPrefix(name, "live") {
				want = 1
			}
			if copies[name] != want {
				wrong = append(wrong, fmt.Sprintf("%d copies of the %s in memory, want %d", copies[name], name, want))
			}
		}
		if wrong == nil {
			break
		}
	}
	for _, text := range wrong {
		t.Error(text)
	}

	// What a debugger dumps is without the memory of the cache.
	core := dumpCore(t, p.Process.Pid)
	for name, secret := range secrets {
		want := 0
		if strings.HasPrefix(name, "active") {
			want = 1
		}
		if n := bytes.Count(core, secret); n > want {
			t.Errorf("%d copies of the %s in a core dump, want at most %d", n, name, want)
		}
	}
	if !bytes.Contains(core, active[16:32]) {
		t.Error("the active key is not in the core dump: it is none of the service")
	}
}

// dumpCore is a core dump of the process, which goes on.
func dumpCore(t *testing.T, pid int) []byte {
	t.Helper()
	prefix := filepath.Join(t.TempDir(), "core")
	out, err := exec.CommandContext(t.Context(), need(t, "gcore"), "-o", prefix, strconv.Itoa(pid)).CombinedOutput()
	core, readErr := os.ReadFile(fmt.Sprintf("%s.%d", prefix, pid))
	if readErr != nil && os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skipf("gcore may not, without root: %v", err)
	}
	if readErr != nil {
		t.Fatalf("gcore: %v\n%s", errors.Join(err, readErr), out)
	}
	return core
}

// overwriteBuffers makes larger requests than those before over more connections,
// several times.
func overwriteBuffers(t *testing.T, s *service) {
	http.DefaultClient.CloseIdleConnections() // whose buffers wait for them
	other := bytes.Repeat([]byte{0xee}, 15<<10)
	for range 3 {
		transport := &http.Transport{MaxIdleConnsPerHost: 64}
		client := http.Client{Transport: transport}
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for range 20 {
					for _, method := range []string{http.MethodPut, http.MethodGet} {
						request, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("%s/sessions/ff%02x", s.url, i), bytes.NewReader(other))
						if err != nil {
							t.Error(err)
							return
						}
						request.Header.Set("Content-Type", "application/octet-stream")
						request.Header.Set("Accept", "application/octet-stream")
						response, err := client.Do(request)
						if err != nil {
							t.Error(err)
							return
						}
						_, _ = bufio.NewReader(response.Body).WriteTo(&bytes.Buffer{})
						_ = response.Body.Close()
					}
				}
			})
		}
		wg.Wait()
		transport.CloseIdleConnections()
	}
}

// scanMemory reads all memory of a process, a part at a time.
func scanMemory(t *testing.T, pid int, part func([]byte)) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if errors.Is(err, fs.ErrNotExist) && os.Getenv("CI") != "true" {
		t.Skip("needs the /proc of Linux")
	}
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	read := 0
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "[v") { // the kernel's own pages
			continue
		}
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil {
			t.Fatal(err)
		}
		if mode[0] != 'r' {
			continue
		}
		buf := make([]byte, to-from)
		n, _ := memory.ReadAt(buf, from) // parts of it may be there no more
		part(buf[:n])
		read += n
	}
	if read < 16<<20 {
		t.Fatalf("only %d bytes of memory were read", read)
	}
}
