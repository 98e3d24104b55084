package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
)

// names are the keys of a description, in their order.
func names(d api.TicketKeys) string {
	var b bytes.Buffer
	for _, k := range d.Keys {
		fmt.Fprintf(&b, "%s %s ", k.Role, k.Name)
	}
	return b.String()
}

// The service is killed again and again while clients push and rotate keys and
// store sessions. What is active after a restart is the last set that was
// acknowledged, or a later one that was under way. Now and then it is stopped in
// good order: the sessions of then come back as they were, after a crash, too.
func TestKilled(t *testing.T) {
	t.Parallel()
	const rounds = 30
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	stateFile, sealKey := filepath.Join(dir, "state"), filepath.Join(dir, "seal.key")
	run(t, sessapiPath, "seal-key", "new", "--out", sealKey)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: patience}
	defer client.CloseIdleConnections()

	var acknowledged api.TicketKeys     // the latest
	sessions := make(map[string][]byte) // of the last clean stop
	for round := range rounds {
		p := start(t, sessapiPath, "serve", "--listen=127.0.0.1:0", "--state-file", stateFile, "--seal-key-file", sealKey)
		url := "http://" + p.out.await(t, `"name":"main","address":"([^"]+)"`)[1]
		p.out.await(t, `"msg":"serving"`)
		request := func(method, path string, body []byte) (int, []byte, error) {
			r, err := http.NewRequestWithContext(t.Context(), method, url+path, bytes.NewReader(body))
			if err != nil {
				return 0, nil, err
			}
			r.Header.Set("Content-Type", "application/octet-stream")
			r.Header.Set("Accept", "application/octet-stream, application/json")
			response, err := client.Do(r)
			if err != nil {
				return 0, nil, err
			}
			defer response.Body.Close()
			answer, err := io.ReadAll(response.Body)
			return response.StatusCode, answer, err
		}
		var active api.TicketKeys
		_, answer, err := request(http.MethodGet, "/ticket-keys", nil)
		if err == nil {
			err = json.Unmarshal(answer, &active)
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case active.Generation < acknowledged.Generation:
			t.Fatalf("round %d: generation %d is active, %d was acknowledged", round, active.Generation, acknowledged.Generation)
		case active.Generation == acknowledged.Generation && names(active) != names(acknowledged):
			t.Fatalf("round %d: the keys of generation %d are not those that were acknowledged", round, active.Generation)
		}
		// No set is mixed: a push has 3 keys whose names begin alike.
		if active.Source == api.API {
			if n := len(slices.CompactFunc(slices.Clone(active.Keys), func(a, b api.TicketKey) bool { return a.Name[:8] == b.Name[:8] })); n != 1 || len(active.Keys) != 3 {
				t.Fatalf("round %d: a mixed set: %s", round, names(active))
			}
		}
		for id, want := range sessions {
			if status, got, err := request(http.MethodGet, "/sessions/"+id, nil); status != http.StatusOK || !bytes.Equal(got, want) {
				t.Fatalf("round %d: session %s: %d %v", round, id, status, err)
			}
		}
		acknowledged = active

		var mu sync.Mutex // guards acknowledged and stored
		stored := make(map[string][]byte)
		stop := make(chan struct{})
		var clients sync.WaitGroup
		for number := range 4 {
			clients.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(4*round+number+1)))
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					id := fmt.Sprintf("%02x%04x", number, i)
					session := stamped(id, random)
					if status, _, err := request(http.MethodPut, "/sessions/"+id, session); err != nil {
						return
					} else if status == http.StatusCreated || status == http.StatusNoContent {
						mu.Lock()
						stored[id] = session
						mu.Unlock()
					}
					path, body := "/ticket-keys/rotate", []byte(nil)
					if random.IntN(3) > 0 {
						path = "/ticket-keys"
						first := record()
						body = first
						for range 2 {
							body = append(body, append(slices.Clone(first[:4]), record()[4:]...)...)
						}
					}
					status, answer, err := request(http.MethodPost, path, body)
					if err != nil {
						return
					}
					var d api.TicketKeys
					if status != http.StatusOK || json.Unmarshal(answer, &d) != nil {
						t.Errorf("POST %s: %d %s", path, status, answer)
						return
					}
					mu.Lock()
					if d.Generation > acknowledged.Generation {
						acknowledged = d
					}
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(5+random.IntN(60)) * time.Millisecond) // a crash comes at any time
		if round%10 == 4 {
			close(stop)
			clients.Wait()
			p.stop(t, syscall.SIGTERM)
			maps.Copy(sessions, stored)
		} else {
			p.stop(t, syscall.SIGKILL)
			close(stop)
			clients.Wait()
		}
	}
	if len(sessions) == 0 || acknowledged.Source == api.Generated {
		t.Errorf("%d sessions were kept, generation %d is from %s", len(sessions), acknowledged.Generation, acknowledged.Source)
	}
}

// Sessions that were flushed stay away, whatever comes behind it.
func TestFlushIsDurable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stateFile, sealKey := filepath.Join(dir, "state"), filepath.Join(dir, "seal.key")
	run(t, sessapiPath, "seal-key", "new", "--out", sealKey)
	restart := func() *service {
		return serve(t, "--state-file", stateFile, "--seal-key-file", sealKey)
	}
	want := func(s *service, id string, status int) {
		t.Helper()
		if got, _ := s.get(t, "/sessions/"+id, "application/octet-stream"); got != status {
			t.Errorf("session %s: %d, want %d", id, got, status)
		}
	}
	s := restart()
	for _, id := range []string{"01", "02"} {
		if status, answer := s.do(t, http.MethodPut, "/sessions/"+id, []byte("session"), "Content-Type", "application/octet-stream"); status != http.StatusCreated {
			t.Fatalf("PUT: %d %s", status, answer)
		}
	}
	s.stop(t, syscall.SIGTERM)
	s = restart()
	want(s, "01", http.StatusOK)
	want(s, "02", http.StatusOK)
	if status, answer := s.do(t, http.MethodDelete, "/sessions", nil); status != http.StatusOK {
		t.Fatalf("DELETE: %d %s", status, answer)
	}
	s.stop(t, syscall.SIGKILL)
	s = restart()
	want(s, "01", http.StatusNotFound)
	want(s, "02", http.StatusNotFound)
}
