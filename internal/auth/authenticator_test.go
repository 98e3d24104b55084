package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// from returns a request from an address with a token.
func from(addr, token string) *http.Request {
	r := bearing("Bearer " + token)
	r.RemoteAddr = addr
	return r
}

func isLimited(err error) bool {
	_, ok := errors.AsType[*LimitedError](err)
	return ok
}

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, token := policyWith(t, "")
		a := New(func() *Policy { return p }, time.Now)
		const bad, other = "192.0.2.1:1", "192.0.2.2:1"
		wrong, _ := NewToken()
		for i := range burst {
			if _, err := a.Authenticate(from(bad, wrong)); isLimited(err) {
				t.Fatalf("limited after %d", i)
			}
		}
		_, err := a.Authenticate(from(bad, token))
		limited, ok := errors.AsType[*LimitedError](err)
		if !ok || limited.RetryAfter != interval || limited.RetryAfterSeconds() != 3 {
			t.Fatalf("a right token behind the limit: %v", err)
		}
		if _, err := a.Authenticate(from("192.0.2.1:2", token)); !isLimited(err) {
			t.Errorf("from another port: %v", err)
		}
		if _, err := a.Authenticate(from("[::ffff:192.0.2.1]:1", token)); !isLimited(err) {
			t.Errorf("as IPv6: %v", err)
		}
		if _, err := a.Authenticate(from(other, token)); err != nil {
			t.Errorf("another source: %v", err)
		}
		time.Sleep(limited.RetryAfter)
		if _, err := a.Authenticate(from(bad, token)); err != nil {
			t.Errorf("after the wait: %v", err)
		}
		if _, err := a.Authenticate(from(bad, wrong)); isLimited(err) {
			t.Errorf("the failure that is free again: %v", err)
		}
		if _, err := a.Authenticate(from(bad, token)); !isLimited(err) {
			t.Errorf("after it: %v", err)
		}
		time.Sleep(burst * interval)
		for range burst {
			if _, err := a.Authenticate(from(bad, wrong)); isLimited(err) {
				t.Error("not all is paid back")
			}
		}
		if got := a.Failures(Limited); got != 4 {
			t.Errorf("%d limited", got)
		}
		if got := a.Failures(Unknown); got != 2*burst+1 {
			t.Errorf("%d unknown", got)
		}
		// Requests without credentials do not count as attempts.
		for range 2 * burst {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = other
			_, err := a.Authenticate(r)
			wantReason(t, "without credentials", err, Missing)
		}
		if _, err := a.Authenticate(from(other, token)); err != nil {
			t.Errorf("after requests without credentials: %v", err)
		}
	})
}

func TestLimitOfIPv6(t *testing.T) {
	p, token := policyWith(t, "")
	a := New(func() *Policy { return p }, time.Now)
	for i := range burst {
		_, _ = a.Authenticate(from(fmt.Sprintf("[2001:db8::%x]:1", i), "x"))
	}
	if _, err := a.Authenticate(from("[2001:db8::ffff]:1", token)); !isLimited(err) {
		t.Errorf("the same /64: %v", err)
	}
	if _, err := a.Authenticate(from("[2001:db8:0:1::1]:1", token)); err != nil {
		t.Errorf("another /64: %v", err)
	}
}

// The limit agrees with a model that keeps every failure, and the table stays within
// its limit.
func TestLimitModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SESSAPI_TEST_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SESSAPI_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	now := time.Unix(0, 0)
	p, token := policyWith(t, "")
	a := New(func() *Policy { return p }, func() time.Time { return now })
	debt := map[string]time.Duration{} // of each source, until all is paid back
	for range 20000 {
		step := time.Duration(random.IntN(1000)) * time.Millisecond
		now = now.Add(step)
		for source := range debt {
			debt[source] = max(debt[source]-step, 0)
		}
		source := fmt.Sprintf("192.0.2.%d:1", random.IntN(3))
		sent := token
		if random.IntN(3) > 0 {
			sent = "x"
		}
		_, err := a.Authenticate(from(source, sent))
		if want := debt[source] > (burst-1)*interval; isLimited(err) != want {
			t.Fatalf("%v with a debt of %v", err, debt[source])
		}
		if !isLimited(err) && sent != token {
			debt[source] += interval
		}
	}
	for i := range 3 * maxSources {
		_, _ = a.Authenticate(from(fmt.Sprintf("10.%d.%d.1:1", i>>8, i&0xff), "x"))
		if len(a.sources) > maxSources {
			t.Fatalf("%d sources are kept", len(a.sources))
		}
	}
}

func TestSource(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:80":          "192.0.2.1",
		"[::ffff:192.0.2.1]:80": "192.0.2.1",
		"[fe80::1%eth0]:80":     "fe80::1",
		"@":                     "unknown",
	} {
		if got := SourceOf(from(addr, "")).String(); got != want {
			t.Errorf("%s is %s, want %s", addr, got, want)
		}
	}
	for addr, want := range map[string]string{
		"192.0.2.1:80":          "192.0.2.1",
		"[2001:db8:1::1:2]:443": "2001:db8:1::/64",
		"@":                     "unknown",
	} {
		if got := SourceOf(from(addr, "")).Network().String(); got != want {
			t.Errorf("the network of %s is %s, want %s", addr, got, want)
		}
	}
}

// wrapped is a connection that wraps another.
type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

type wrappingListener struct{ net.Listener }

func (l wrappingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return wrapped{conn}, err
}

// The kernel reports the peer's user on a Unix socket.
func TestPeer(t *testing.T) {
	p, err := Parse(fmt.Appendf(nil, "identities: [{name: me, roles: [admin], uids: [%d]}]", os.Getuid()))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		identity, err := p.Identify(r, time.Now())
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, identity.Name, " ", SourceOf(r))
	}))
	_ = server.Listener.Close()
	server.Listener = wrappingListener{listener}
	server.Config.ConnContext = ConnContext
	server.Start()
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	response, err := client.Get("http://localhost/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var name, source string
	if _, err := fmt.Fscan(response.Body, &name, &source); err != nil || name != "me" || source != fmt.Sprint("uid:", os.Getuid()) {
		t.Errorf("%s %q %q %v", response.Status, name, source, err)
	}
}

// Looking up a token allocates nothing and takes far less than a microsecond.
func TestAllocations(t *testing.T) {
	p, token := policyWith(t, ", expires: 2100-01-01T00:00:00Z")
	a := New(func() *Policy { return p }, time.Now)
	_, _ = a.Authenticate(from("192.0.2.9:1", "x")) // so that sources are searched, too
	r, wrong := from("192.0.2.1:1", token), from("192.0.2.1:1", strings.Repeat("x", tokenSize))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := a.Authenticate(r); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = p.Identify(wrong, time.Now()) }); n != 0 {
		t.Errorf("%v allocations of a wrong token", n)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	p, token := policyWith(b, ", expires: 2100-01-01T00:00:00Z")
	for _, somebodyFails := range []bool{false, true} {
		b.Run(fmt.Sprintf("somebody_fails=%v", somebodyFails), func(b *testing.B) {
			a := New(func() *Policy { return p }, time.Now)
			if somebodyFails {
				_, _ = a.Authenticate(from("192.0.2.9:1", "x"))
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				r := from("192.0.2.1:1", token)
				for pb.Next() {
					if _, err := a.Authenticate(r); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// Changes of a file are followed. A broken file is reported once and changes nothing.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	if _, err := OpenFile(path, logger, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	write("identities: []")
	if _, err := OpenFile(path, logger, nil); err == nil {
		t.Error("a broken file was opened")
	}
	write(identity("a", "    uids: [1]"))
	if err := os.Chmod(path, 0o664); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path, logger, nil)
	if err != nil || f.Policy().Identities() != 1 || strings.Count(log.String(), "chmod go-w") != 1 {
		t.Fatalf("%v %s", err, &log)
	}
	write(identity("a", "    uids: [1]") + "\n  - {name: b, roles: [admin], uids: [2]}")
	f.Check()
	if got := f.Policy(); got.Identities() != 2 || f.Status().Failures != 0 {
		t.Errorf("after a change: %d identities, %d failures", got.Identities(), f.Status().Failures)
	}
	good := f.Policy()
	write("identities: [")
	f.Check()
	if f.Policy() != good || f.Status().Failures != 1 || f.Status().LastError == "" {
		t.Errorf("after a broken one: %d failures", f.Status().Failures)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f.Check()
	if f.Policy() != good || f.Status().Failures != 2 {
		t.Errorf("without a file: %d failures", f.Status().Failures)
	}
	f.Reload()
	if f.Status().Failures != 3 {
		t.Errorf("asked again: %d failures", f.Status().Failures)
	}
	write(identity("a", "    uids: [1]") + "\n  - {name: b, roles: [admin], uids: [2]}")
	f.Check()
	if f.Policy() != good || f.Status().LastError != "" {
		t.Error("a file that is restored is another policy, or still broken")
	}
	f.Reload()
	if !strings.Contains(log.String(), "msg=unchanged path=") {
		t.Error("a reload says nothing")
	}

	// A policy that cannot be recorded does not become active.
	f.record = func(int) error { return errors.New("the disk is full") }
	write(identity("a", "    uids: [1]"))
	if f.Check(); f.Policy() != good {
		t.Error("a policy holds that is not recorded")
	}
	recorded := 0
	f.record = func(identities int) error { recorded = identities; return nil }
	if f.Check(); f.Policy().Identities() != 1 || recorded != 1 {
		t.Errorf("recorded %d identities", recorded)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path, logger, nil); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
}
