package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/logtest"
)

// node is a node that describes one set and sends another.
func node(t *testing.T, generation uint64, described, sent keys.Set) *httptest.Server {
	t.Helper()
	description := client.TicketKeys{Generation: generation, Source: "generated", UpdatedAt: time.Now()}
	add := func(role keys.Role, k keys.Key) {
		description.Keys = append(description.Keys, client.TicketKey{
			Name: k.Name().String(), Role: client.TicketKeyRole(role), Bits: client.TicketKeyBits(k.Bits()), Fingerprint: k.Fingerprint(),
			CreatedAt: time.Now(),
		})
	}
	add(keys.RoleCurrent, described.Keys[0])
	add(keys.RoleNext, *described.Next)
	for _, k := range described.Keys[1:] {
		add(keys.RolePrevious, k)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+strconv.FormatUint(generation, 10)+`"`)
		if r.Header.Get("If-None-Match") == w.Header().Get("ETag") {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if r.URL.Query().Get("format") == "" {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(description)
			return
		}
		i, _ := strconv.Atoi(r.URL.Query().Get("key"))
		data, err := keys.NGINX.AppendKey(nil, sent, i)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(data)
	}))
	t.Cleanup(s.Close)
	return s
}

// emptyService has no keys.
type emptyService struct{ modelService }

func (*emptyService) Next(context.Context, uint64, uint64) (*update, error) { return nil, nil }

func TestOnceWithoutKeys(t *testing.T) {
	a := newAgent(&Config{}, &emptyService{}, reach{}, 0, slog.New(slog.DiscardHandler))
	if err := a.Once(t.Context()); err == nil || !strings.Contains(err.Error(), "no ticket keys") {
		t.Error(err)
	}
}

func TestNodes(t *testing.T) {
	set, other := keys.Generate(256, 4), keys.Generate(256, 4)
	defer set.Wipe()
	defer other.Wipe()
	good, mixed, gone := node(t, 7, set, set), node(t, 8, set, other), node(t, 9, set, set)
	gone.Close()

	service := Service{Addresses: words{gone.URL, mixed.URL, good.URL}}
	clients, err := service.clients()
	if err != nil {
		t.Fatal(err)
	}
	n := &nodes{clients: clients, addresses: service.Addresses, host: "host"}

	// A node that does not answer, or whose keys differ from its description, is
	// skipped.
	for _, want := range []string{gone.URL + ": ", mixed.URL + ": the keys changed while they were fetched"} {
		if u, err := n.Next(t.Context(), 0, 0); u != nil || err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v %v, want %s", u, err, want)
		}
	}
	u, err := n.Next(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if u.generation != 7 || len(u.set.Keys) != len(set.Keys) || !u.set.Next.Equal(*set.Next) {
		t.Errorf("generation %d, %d keys", u.generation, len(u.set.Keys))
	}
	for i, k := range u.set.Keys {
		if !k.Equal(set.Keys[i]) {
			t.Errorf("key %d is another", i)
		}
	}
	// The node that answered is asked again.
	if u, err := n.Next(t.Context(), 7, 7); u != nil || err != nil {
		t.Errorf("%v %v", u, err)
	}
	_, err = n.Next(t.Context(), 10, 10)
	if older, ok := errors.AsType[*olderError](err); !ok || older.has != 7 || older.inForce != 10 {
		t.Errorf("%v", err)
	}
}

// deadService has two nodes. Both fail, each for its own reason.
type deadService struct{ calls int }

func (*deadService) Nodes() int { return 2 }

func (s *deadService) Next(context.Context, uint64, uint64) (*update, error) {
	s.calls++
	return nil, fmt.Errorf("node %d: %w", s.calls%2, errDown)
}

func (*deadService) Report(context.Context, string, Report) error { return errDown }

// While the service is away, the log says so once for each node, and then every minute.
func TestOutageLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Buffer
		s := &deadService{}
		a := newAgent(&Config{}, s, reach{}, 0, slog.New(slog.NewTextHandler(&log, nil)))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		a.Run(ctx)
		if n := strings.Count(log.String(), "cannot get ticket keys"); n < 10 || n > 12 || s.calls < 100 {
			t.Errorf("%d lines about %d failures:\n%s", n, s.calls, log.String())
		}
	})
}

// The first request after an error does not wait for a change; every other does.
func TestNodesAnswerAgain(t *testing.T) {
	var prefer []string
	var broken bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		prefer = append(prefer, r.Header.Get("Prefer"))
		if broken {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNotModified)
	}))
	defer s.Close()
	service := Service{Addresses: words{s.URL}}
	clients, err := service.clients()
	if err != nil {
		t.Fatal(err)
	}
	n := &nodes{clients: clients, addresses: service.Addresses}
	for _, broken = range []bool{false, true, true, false, false} {
		if _, err := n.Next(t.Context(), 7, 7); (err != nil) != broken {
			t.Errorf("%v", err)
		}
	}
	if got := strings.Join(prefer, ","); got != "wait=20,wait=20,,,wait=20" {
		t.Errorf("%q", got)
	}
}
