package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

// reportCurrent reports that a consumer holds the generation.
func reportCurrent(tb testing.TB, s *service, name string, generation uint64) answer {
	tb.Helper()
	return s.ask(tb, http.MethodPut, "/consumers/"+name,
		fmt.Appendf(nil, `{"kind":"nginx","generation":%d,"state":"current","expires_in_seconds":3600}`, generation),
		"Content-Type", "application/json")
}

// listed are the consumers that a node lists, as NAME=GENERATION.
func listed(tb testing.TB, s *service) (consumers []string) {
	tb.Helper()
	a := s.ask(tb, http.MethodGet, "/consumers", nil)
	var list api.Consumers
	if err := json.Unmarshal(a.body, &list); err != nil {
		tb.Fatalf("GET /consumers: %d %s", a.status, a.body)
	}
	for _, c := range list.Consumers {
		consumers = append(consumers, fmt.Sprintf("%s=%d", c.Name, c.Generation))
	}
	return consumers
}

// awaitConsumers waits until all nodes list the consumers.
func awaitConsumers(tb testing.TB, nodes []*service, want ...string) {
	tb.Helper()
	redistest.Await(tb, "the consumers everywhere", func() error {
		for i, s := range nodes {
			if got := listed(tb, s); !slices.Equal(got, want) {
				return fmt.Errorf("node %d has %v, want %v", i, got, want)
			}
		}
		return nil
	})
}

// activation is how rotations wait at a node.
func activation(tb testing.TB, s *service) *api.ActivationStatus {
	tb.Helper()
	var status api.Status
	if _, body := s.get(tb, "/status", "application/json"); json.Unmarshal(body, &status) != nil {
		tb.Fatalf("/status: %s", body)
	}
	return status.Consumers.Activation
}

// A rotation waits for a consumer that reports to another node, through an outage of
// Redis and the restart of a node, and is made as soon as the consumer has the keys.
func TestFleetActivatesAfterAll(t *testing.T) {
	t.Parallel()
	sealKey := newSealKey(t)
	redis := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	start := func() *service {
		return serve(t, "--redis="+redis.URL(), "--seal-key-file="+sealKey, "--redis-read-timeout=2s", "--cache-memory=8MiB",
			"--rotate-every=3s", "--ticket-lifetime=30s", "--activate-after=all", "--activate-timeout=1h")
	}
	a, b := start(), start()
	awaitWaiting := func(nodes ...*service) uint64 {
		t.Helper()
		redistest.Await(t, "a rotation to wait everywhere", func() error {
			for _, s := range nodes {
				if w := activation(t, s); !w.Waiting || w.Behind == nil || len(*w.Behind) != 1 || (*w.Behind)[0] != "edge/web" {
					return fmt.Errorf("%+v", w)
				}
			}
			return nil
		})
		return description(t, nodes[0]).Generation
	}
	if answer := reportCurrent(t, b, "edge/web", description(t, b).Generation); answer.status != http.StatusNoContent {
		t.Fatalf("%d %s", answer.status, answer.body)
	}
	held := awaitWaiting(a, b)
	has := func() string { return strings.Join(listed(t, a), " ") }
	before := has()

	redis.Kill()
	awaitLink(t, a, false)
	awaitLink(t, b, false)
	if answer := reportCurrent(t, b, "edge/web", held); answer.status != http.StatusServiceUnavailable || answer.header.Get("Retry-After") == "" {
		t.Errorf("a report without Redis: %d %s", answer.status, answer.body)
	}
	if after := has(); after != before || after == "" {
		t.Errorf("without Redis there are the consumers %s, were %s", after, before)
	}
	redis.Restart()
	awaitLink(t, a, true)
	awaitLink(t, b, true)
	if again := awaitWaiting(a, b); again != held {
		t.Errorf("there was a rotation in or after the outage: generation %d, was %d", again, held)
	}
	if again := awaitWaiting(a, b, start()); again != held {
		t.Errorf("a node that has just started rotated: generation %d, was %d", again, held)
	}

	redistest.Await(t, "a report", func() error {
		if answer := reportCurrent(t, b, "edge/web", held); answer.status != http.StatusNoContent {
			return fmt.Errorf("%d %s", answer.status, answer.body)
		}
		return nil
	})
	redistest.Await(t, "a rotation", func() error {
		if description(t, a).Generation == held {
			return errors.New("there is none")
		}
		return nil
	})
	if w := activation(t, a); w.Timeouts != 0 {
		t.Errorf("%+v", w)
	}
}
