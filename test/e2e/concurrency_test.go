package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/api"
)

// stamped is a session that says what ID it is of, and proves that it is whole.
func stamped(id string, random *rand.Rand) []byte {
	n := 8 + len(id) + random.IntN(2000)
	body := make([]byte, n, n+sha256.Size)
	binary.BigEndian.PutUint64(body, random.Uint64())
	copy(body[8:], id)
	for i := 8 + len(id); i < len(body); i++ {
		body[i] = byte(random.Uint32())
	}
	sum := sha256.Sum256(body)
	return append(body, sum[:]...)
}

func isStamped(id string, session []byte) bool {
	n := len(session) - sha256.Size
	if n < 8+len(id) {
		return false
	}
	sum := sha256.Sum256(session[:n])
	return bytes.Equal(sum[:], session[n:]) && string(session[8:8+len(id)]) == id
}

// 64 clients do everything at once for a while, against the command with the
// race detector in it. A GET answers with a session that was stored whole under
// that ID, or with 404; nothing fails, and in the end the figures add up.
func TestConcurrentClients(t *testing.T) {
	s := serve(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()

	// request returns false when the time is up.
	request := func(method, path string, body []byte) (status int, answer []byte, ok bool) {
		r, err := http.NewRequestWithContext(ctx, method, "http://"+s.addr+path, bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0, nil, false
		}
		r.Header.Set("Accept", "application/octet-stream, application/json")
		r.Header.Set("Content-Type", "application/octet-stream")
		response, err := client.Do(r)
		if err == nil {
			answer, err = io.ReadAll(response.Body)
			_ = response.Body.Close()
		}
		if err != nil {
			if ctx.Err() == nil {
				t.Error(err)
			}
			return 0, nil, false
		}
		return response.StatusCode, answer, true
	}
	var clients sync.WaitGroup
	for number := range 64 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(number)))
			for ctx.Err() == nil {
				id := fmt.Sprintf("%04x", random.IntN(100))
				method, path, body := http.MethodGet, "/sessions/"+id, []byte(nil)
				allowed := []int{http.StatusOK, http.StatusNotFound}
				switch n := random.IntN(100); {
				case n < 40:
				case n < 75:
					method, body = http.MethodPut, stamped(id, random)
					allowed = []int{http.StatusCreated, http.StatusNoContent}
				case n < 85:
					method = http.MethodDelete
					allowed = []int{http.StatusNoContent, http.StatusNotFound}
				case n < 92:
					path = "/sessions?limit=10"
				case n < 96:
					method, path, body = http.MethodPost, "/ticket-keys", append(record(), record()...)
				case n < 98:
					path = "/ticket-keys?format=ats"
				default:
					path = "/status"
				}
				status, answer, ok := request(method, path, body)
				if ok && !slices.Contains(allowed, status) {
					t.Errorf("%s %s: %d %s", method, path, status, answer)
				}
				if ok && method == http.MethodGet && path == "/sessions/"+id && status == http.StatusOK && !isStamped(id, answer) {
					t.Errorf("GET %s gives %d bytes that were never stored", path, len(answer))
				}
			}
		})
	}
	clients.Wait()
	addUp := func() bool {
		var status api.Status
		if _, body := s.get(t, "/status", "application/json"); json.Unmarshal(body, &status) != nil {
			t.Fatalf("%s", body)
		}
		c := status.Cache
		return *c.Stored > 0 && *c.Hits > 0 && *c.Stored == uint64(*c.Entries)+*c.Replaced+*c.Removed+*c.Expired+*c.Evicted
	}
	// The service may be at the last requests yet, whose clients have gone.
	for deadline := time.Now().Add(patience); !addUp(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the figures do not add up: %s", s.out)
		}
	}
	s.stop(t, syscall.SIGTERM)
	if s.err != nil || strings.Contains(s.out.String(), "DATA RACE") {
		t.Errorf("%v:\n%s", s.err, s.out)
	}
}
