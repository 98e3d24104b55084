package e2e_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

const nodeExample = "../../examples/node/"

// nodeServer starts the HTTPS server of the Node example and returns its port.
func nodeServer(tb testing.TB, s *service, cert, key, mode string) string {
	tb.Helper()
	p := start(tb, need(tb, "node"), nodeExample+"server.mjs", "--port", "0", "--cert", cert, "--key", key,
		"--mode", mode, "--sessapi", s.url, "--timeout-ms", "5000", "--every-ms", "50")
	return p.out.await(tb, `"port":(\d+)`)[1]
}

// visit is what the client of the Node example saw.
type visit struct {
	Reused     bool   `json:"reused"`
	Protocol   string `json:"protocol"`
	TicketName string `json:"ticketName"`
}

// nodeClient makes one request to the server at the port, with the session in
// one file, if any, and leaves the new one in another, if any.
func nodeClient(tb testing.TB, port, sessionIn, sessionOut string, args ...string) (v visit) {
	tb.Helper()
	args = append([]string{nodeExample + "client.mjs", "--port", port}, args...)
	if sessionIn != "" {
		args = append(args, "--session-in", sessionIn)
	}
	if sessionOut != "" {
		args = append(args, "--session-out", sessionOut)
	}
	if err := json.Unmarshal([]byte(run(tb, need(tb, "node"), args...)), &v); err != nil {
		tb.Fatal(err)
	}
	return v
}

// Two servers that know each other only through sessapi resume each other's
// sessions by ID.
func TestNodeSharesSessions(t *testing.T) {
	t.Parallel()
	s := serve(t)
	cert, key := certificate(t, "/CN=localhost")
	a, b := nodeServer(t, s, cert, key, "sessions"), nodeServer(t, s, cert, key, "sessions")
	session := filepath.Join(t.TempDir(), "session")

	if v := nodeClient(t, a, "", session); v.Reused || v.Protocol != "TLSv1.2" || v.TicketName != "" {
		t.Fatalf("the first visit: %+v", v)
	}
	if v := nodeClient(t, b, session, ""); !v.Reused {
		t.Errorf("B does not resume what A began: %+v", v)
	}

	_, body := s.get(t, "/sessions", "application/json")
	var page api.SessionPage
	if err := json.Unmarshal(body, &page); err != nil || len(page.Sessions) != 1 {
		t.Fatalf("sessapi has %s (%v)", body, err)
	}
	id := page.Sessions[0].ID
	var described api.Session
	if _, body = s.get(t, "/sessions/"+id, "application/json"); json.Unmarshal(body, &described) != nil ||
		described.Openssl == nil || !described.Openssl.IDMatches {
		t.Errorf("a server's session is described as %s", body)
	}

	if status, _ := s.do(t, http.MethodDelete, "/sessions/"+id, nil); status != http.StatusNoContent {
		t.Fatalf("DELETE: %d", status)
	}
	for _, port := range []string{a, b} {
		if v := nodeClient(t, port, session, ""); v.Reused {
			t.Error("a deleted session resumes")
		}
	}
}

// Two servers with the ticket keys of sessapi resume each other's tickets, as
// long as the key of the ticket is in the set.
func TestNodeSharesTicketKeys(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.2", "1.3"} {
		t.Run("TLS "+version, func(t *testing.T) {
			s := serve(t)
			cert, key := certificate(t, "/CN=localhost")
			a, b := nodeServer(t, s, cert, key, "tickets"), nodeServer(t, s, cert, key, "tickets")
			session := filepath.Join(t.TempDir(), "session")
			visit := func(port, in, out string) visit { return nodeClient(t, port, in, out, "--tls", version) }

			// The keys that sessapi made itself work from the start.
			_, raw := s.get(t, "/ticket-keys?format=ats", "application/octet-stream")
			first := visit(a, "", session)
			if first.Reused || first.Protocol != "TLSv"+version || first.TicketName != hex.EncodeToString(raw[:16]) {
				t.Fatalf("the first visit: %+v, the current key is %x", first, raw[:16])
			}
			if v := visit(b, session, ""); !v.Reused {
				t.Errorf("B does not resume the ticket of A: %+v", v)
			}

			// A new key with the old one behind it: old tickets resume, and are
			// replaced by ones under the new key.
			fresh := make([]byte, 48)
			_, _ = rand.Read(fresh)
			push(t, s, append(bytes.Clone(fresh), raw[:48]...))
			awaitTicketName(t, visit, a, fresh[:16])
			awaitTicketName(t, visit, b, fresh[:16])
			if v := visit(b, session, ""); !v.Reused || v.TicketName != hex.EncodeToString(fresh[:16]) {
				t.Errorf("a ticket under the previous key: %+v", v)
			}

			// Without the old key its tickets are worth nothing.
			other := make([]byte, 48)
			_, _ = rand.Read(other)
			push(t, s, other)
			awaitTicketName(t, visit, a, other[:16])
			awaitTicketName(t, visit, b, other[:16])
			for _, port := range []string{a, b} {
				if v := visit(port, session, ""); v.Reused || v.TicketName != hex.EncodeToString(other[:16]) {
					t.Errorf("a ticket under a dropped key: %+v", v)
				}
			}
		})
	}
}

func push(tb testing.TB, s *service, set []byte) {
	tb.Helper()
	if status, body := s.do(tb, http.MethodPost, "/ticket-keys", set, "Content-Type", "application/octet-stream"); status != http.StatusOK {
		tb.Fatalf("POST /ticket-keys: %d %s", status, body)
	}
}

// awaitTicketName waits until the server at the port makes tickets under the
// key of the name: it polls.
func awaitTicketName(tb testing.TB, visit func(port, in, out string) visit, port string, name []byte) {
	tb.Helper()
	redistest.Await(tb, "the new key", func() error {
		if got := visit(port, "", "").TicketName; got != hex.EncodeToString(name) {
			return fmt.Errorf("the server at port %s encrypts with %s, not %x", port, got, name)
		}
		return nil
	})
}
