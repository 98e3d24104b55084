package e2e_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
)

// record is a ticket key as Traffic Server's key file has it.
func record() []byte {
	b := make([]byte, 48)
	_, _ = rand.Read(b)
	return b
}

func description(tb testing.TB, s *service) (d api.TicketKeys) {
	tb.Helper()
	_, body := s.get(tb, "/ticket-keys", "application/json")
	if err := json.Unmarshal(body, &d); err != nil {
		tb.Fatal(err)
	}
	return d
}

// awaitKey waits until the key of the record encrypts.
func awaitKey(tb testing.TB, s *service, record []byte) (d api.TicketKeys) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if d = description(tb, s); d.Keys[0].Name == hex.EncodeToString(record[:16]) {
			return d
		}
	}
	tb.Fatalf("the key %x does not become current: %+v", record[:16], d)
	return d
}

// Of key file and API the most recent update wins, whichever it was, and no
// update needs a restart.
func TestTicketKeyFileAndAPI(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ticket.key")
	write := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(path+".new", content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	first, pushed, second := record(), record(), record()
	write(first)
	s := serve(t, "--ticket-key-file="+path)
	if d := awaitKey(t, s, first); d.Source != api.File {
		t.Errorf("the set at start is from %s", d.Source)
	}

	// The API after the file: also when the unchanged file is reloaded.
	push(t, s, pushed)
	before := awaitKey(t, s, pushed)
	write(first)
	if err := s.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.out.await(t, `"msg":"unchanged","path":"[^"]+","name":"ticket key file"`)
	write(first[:47])
	s.out.await(t, `"msg":"reload failed; keeping the previous version","path":"[^"]+","name":"ticket key file"`)
	if d := description(t, s); d.Generation != before.Generation || d.Source != api.API {
		t.Errorf("an unchanged or broken file overrode the API: %+v", d)
	}
	_, status := s.get(t, "/status", "application/json")
	if !bytes.Contains(status, []byte(`"last_error":`)) {
		t.Errorf("the broken file is not in the status: %s", status)
	}

	// The file after the API, in place and by SIGHUP.
	if err := os.WriteFile(path, append(bytes.Clone(second), first...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if d := awaitKey(t, s, second); d.Source != api.File || len(d.Keys) != 2 {
		t.Errorf("the file is taken as %+v", d)
	}
	if _, status := s.get(t, "/status", "application/json"); bytes.Contains(status, []byte(`"last_error":`)) {
		t.Errorf("the repaired file is still broken in the status: %s", status)
	}
	for _, secret := range [][]byte{first, pushed, second} {
		for _, form := range []string{string(secret[16:32]), hex.EncodeToString(secret[16:32]), hex.EncodeToString(secret[32:])} {
			if strings.Contains(s.out.String(), form) {
				t.Error("a key is in the log")
			}
		}
	}
}

// SIGTERM is a clean stop.
func TestSIGTERM(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.stop(t, syscall.SIGTERM)
	if s.err != nil || !strings.Contains(s.out.String(), `"msg":"stopping"`) {
		t.Errorf("%v:\n%s", s.err, s.out)
	}
}

// A client that does not come to the end of its headers, or of its body, is cut
// off, and others are served meanwhile.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for name, request := range map[string]string{
		"headers": "GET /status HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
		"body":    "PUT /sessions/01 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: 9\r\n\r\nslow",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slowClient(t, s, request)
		})
	}
}

func slowClient(t *testing.T, s *service, request string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	if status, _ := s.get(t, "/status", "application/json"); status != 200 {
		t.Errorf("another client gets %d", status)
	}
	if err := conn.SetReadDeadline(time.Now().Add(40 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("the connection stays open: %v", err)
	}
}
