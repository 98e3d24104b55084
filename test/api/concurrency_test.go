package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
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

// 64 clients do everything at once for a while. A GET answers with a session
// that was stored whole under that ID, or with 404; nothing fails.
func TestConcurrentClients(t *testing.T) {
	t.Parallel()
	s := startService(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	transport := s.Client().Transport.(*http.Transport)
	transport.MaxIdleConnsPerHost = 64

	// The server closes no connection under a request, but the end of the test
	// does: what fails after it is no failure.
	request := func(method, path string, body []byte, contentType string) (answer, bool) {
		r, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return answer{}, false
		}
		r.Header.Set("Accept", "application/octet-stream, application/json")
		r.Header.Set("Content-Type", contentType)
		response, err := s.Client().Do(r)
		if err != nil {
			if ctx.Err() == nil {
				t.Error(err)
			}
			return answer{}, false
		}
		defer response.Body.Close()
		var read bytes.Buffer
		if _, err := read.ReadFrom(response.Body); err != nil {
			if ctx.Err() == nil {
				t.Error(err)
			}
			return answer{}, false
		}
		return answer{response, read.Bytes()}, true
	}
	var clients sync.WaitGroup
	for client := range 64 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(client)))
			for ctx.Err() == nil {
				id := fmt.Sprintf("%04x", random.IntN(100))
				path := "/sessions/" + id
				var got answer
				var ok bool
				var allowed []int
				switch n := random.IntN(100); {
				case n < 40:
					got, ok = request(http.MethodGet, path, nil, "")
					allowed = []int{200, 404}
					if ok && got.StatusCode == http.StatusOK && !isStamped(id, got.body) {
						t.Errorf("GET %s gives %d bytes that were never stored", path, len(got.body))
					}
				case n < 75:
					got, ok = request(http.MethodPut, path, stamped(id, random), typeBytes)
					allowed = []int{201, 204}
				case n < 85:
					got, ok = request(http.MethodDelete, path, nil, "")
					allowed = []int{204, 404}
				case n < 92:
					got, ok = request(http.MethodGet, "/sessions?limit=10", nil, "")
					allowed = []int{200}
				case n < 96:
					got, ok = request(http.MethodPost, "/ticket-keys", append(record(), record()...), typeBytes)
					allowed = []int{200}
				case n < 98:
					got, ok = request(http.MethodGet, "/ticket-keys?format=ats", nil, "")
					allowed = []int{200}
				default:
					got, ok = request(http.MethodGet, "/status", nil, "")
					allowed = []int{200}
				}
				if !ok {
					continue
				}
				if !slices.Contains(allowed, got.StatusCode) {
					t.Errorf("%s %s: %d %s", got.Request.Method, got.Request.URL.Path, got.StatusCode, got.body)
				}
			}
		})
	}
	clients.Wait()
	stats := s.cache.Stats()
	ends := stats.Replaced + stats.Removed + stats.Expired + stats.Flushed + stats.Evicted.Memory + stats.Evicted.Sessions
	if stats.Stored != uint64(stats.Entries)+ends {
		t.Errorf("stored %d, there are %d and %d have ended", stats.Stored, stats.Entries, ends)
	}
	t.Logf("%d stored, %d hits, generation %d", stats.Stored, stats.Hits, s.ring.Description().Generation)
}

// A listing that runs while others write has each session that stays exactly
// once.
func TestListingWhileOthersWrite(t *testing.T) {
	t.Parallel()
	s := startService(t)
	const stay = 300
	for i := range stay {
		s.put(fmt.Sprintf("/sessions/aa%04x", i), typeBytes, []byte("x")).want(t, 201)
	}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				path := fmt.Sprintf("/sessions/bb%04x", random.IntN(500))
				if random.IntN(2) == 0 {
					s.put(path, typeBytes, []byte("x"))
				} else {
					s.request(http.MethodDelete, path, nil)
				}
			}
		})
	}
	for range 5 {
		seen := map[string]int{}
		query := url.Values{"limit": {"37"}}
		for {
			page := decode[api.SessionPage](t, s.get("/sessions?"+query.Encode(), typeJSON))
			for _, session := range page.Sessions {
				seen[session.ID]++
			}
			if page.NextCursor == nil {
				break
			}
			query.Set("cursor", *page.NextCursor)
		}
		for i := range stay {
			if n := seen[fmt.Sprintf("aa%04x", i)]; n != 1 {
				t.Errorf("aa%04x is listed %d times", i, n)
			}
		}
	}
	close(stop)
	writers.Wait()
}
