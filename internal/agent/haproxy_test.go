package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
)

// Whatever keys a ring has, the pushes produce the wanted ring, and no fewer would.
func TestPushes(t *testing.T) {
	letters := []string{"a", "b", "c", "d"} // few, so that rings are alike
	r := rand.New(rand.NewPCG(1, 1))
	random := func() *ring {
		var k ring
		for i := range k {
			k[i] = []byte(letters[r.IntN(len(letters))])
		}
		return &k
	}
	text := func(keys [][]byte) string { return string(bytes.Join(keys, nil)) }
	for range 2000 {
		has, want := random(), random()
		got := pushes(has, want)
		if after := text(append(slices.Clone(has[:]), got...)[len(got):]); after != text(want[:]) {
			t.Fatalf("%s after %s is %s, not %s", text(got), text(has[:]), after, text(want[:]))
		}
		for n := range got {
			if text(append(slices.Clone(has[:]), want[ringSize-n:]...)[n:]) == text(want[:]) {
				t.Fatalf("%d pushes would do from %s to %s, not %d", n, text(has[:]), text(want[:]), len(got))
			}
		}
	}
}

// HAProxy closes the connection once it has run the commands that it read: nothing may be
// written after those.
func TestAskSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			line := make([]byte, 100)
			n, _ := conn.Read(line)
			_, _ = conn.Write(line[:n])
			_ = conn.Close()
		}
	}()
	const line = "set ssl tls-key #0 a;set ssl tls-key #0 b\n"
	for range 500 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		answer, err := askSocket(ctx, path, []byte(line))
		cancel()
		if err != nil || string(answer) != line {
			t.Fatalf("%q %v", answer, err)
		}
	}
}

func TestParseReferences(t *testing.T) {
	const two = "# id (file)\n0 (/etc/haproxy/tls.keys)\n1 (/other)\n2 (haproxy/tls.keys)\n\n"
	for _, test := range []struct{ answer, want, err string }{
		{two, "0 2", ""},
		{"# id (file)\n7 (/etc/haproxy/./tls.keys)\n", "7", ""},
		{"# id (file)\n0 (/other (1))\n", "", "there is /other (1)"},
		{"# id (file)\n\n", "", "no bind line of HAProxy has tls-ticket-keys /etc/haproxy/tls.keys"},
		{"", "", "no bind line"},
		{"Permission denied\n", "", `HAProxy answers "Permission denied"`},
		{"# id (file)\nx (/etc/haproxy/tls.keys)\n-1 (/etc/haproxy/tls.keys)\n1 (/etc/haproxy/tls.keys\n", "", "no bind line"},
		{"# id (file)\n0 (ls.keys)\n", "", "there is ls.keys"},
	} {
		ids, err := parseReferences([]byte(test.answer), "/etc/haproxy/tls.keys")
		if got := strings.Join(ids, " "); got != test.want {
			t.Errorf("%q: %q", test.answer, got)
		}
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%q: %v", test.answer, err)
		}
	}
}

func FuzzParseReferences(f *testing.F) {
	f.Add([]byte("# id (file)\n0 (/etc/haproxy/tls.keys)\n"))
	f.Add([]byte("Unknown command: 'show tls-keys'\n"))
	f.Add([]byte("0 ()\n1 (()\n2 tls.keys)\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		ids, err := parseReferences(answer, "/etc/haproxy/tls.keys")
		if (err == nil) != (len(ids) > 0) {
			t.Fatalf("%q %v", ids, err)
		}
		for _, id := range ids { // it becomes part of a command
			if _, err := strconv.ParseUint(id, 10, 31); err != nil {
				t.Fatalf("%q is no number", id)
			}
		}
	})
}

func showAnswer(id string, keys ...string) []byte {
	answer := "# id secret\n# " + id + " (/etc/haproxy/tls.keys)\n"
	for i, key := range keys {
		answer += id + "." + strconv.Itoa(i) + " " + key + "\n"
	}
	return []byte(answer + "\n")
}

func TestParseRing(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(make([]byte, 80))
	for _, test := range []struct {
		answer []byte
		ok     bool
	}{
		{showAnswer("4", key, key, key), true},
		{showAnswer("4", key, key), false},
		{showAnswer("4", key, key, key, key), false},
		{showAnswer("3", key, key, key), false},
		{showAnswer("4", key, "?", key), false},
		{[]byte("'show tls-keys' unable to locate referenced filename\n\n"), false},
		{nil, false},
	} {
		r, err := parseRing(test.answer, "4")
		if (err == nil) != test.ok || test.ok && string(r[2]) != key {
			t.Errorf("%q: %v", test.answer, err)
		}
		if err != nil && strings.Contains(err.Error(), key) {
			t.Error("the error has a key in it")
		}
	}
}

func FuzzParseRing(f *testing.F) {
	key := base64.StdEncoding.EncodeToString(make([]byte, 80))
	f.Add(showAnswer("0", key, key, key))
	f.Add(showAnswer("0", key, "", key))
	f.Add([]byte("0.0 a\n0.1 b\n0.2 c\n0.3 d\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		r, err := parseRing(answer, "0")
		if err != nil {
			return
		}
		for _, key := range r { // it is compared, and never becomes part of a command
			if !base64Text.Match(key) {
				t.Fatalf("%q is no base64", key)
			}
		}
	})
}

// Keys of another size reach HAProxy by one reload, after the test command. The agent
// waits until the new process answers.
func TestHAProxyResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		set := keys.Generate(256, 3)
		defer set.Wipe()
		target := Target{
			Kind: "haproxy", File: filepath.Join(dir, "keys"), Socket: filepath.Join(dir, "socket"),
			Test: words{"test"}, Reload: &Reload{Command: words{"reload"}},
		}
		if err := target.check(); err != nil {
			t.Fatal(err)
		}
		w := target.wants(1, set)
		defer w.wipe()
		small := base64.StdEncoding.EncodeToString(make([]byte, 48))
		var ran []string
		var reloaded time.Time
		by := reach{
			run: func(time.Duration) runner {
				return func(_ context.Context, command []string) error {
					if ran = append(ran, command[0]); command[0] == "reload" {
						reloaded = time.Now()
					}
					return nil
				}
			},
			ask: func(_ context.Context, _ string, line []byte) ([]byte, error) {
				switch {
				case string(line) == "show tls-keys\n":
					return []byte("0 (" + target.File + ")\n"), nil
				case reloaded.IsZero() || time.Since(reloaded) < 3*time.Second:
					return showAnswer("0", small, small, small), nil
				}
				return showAnswer("0", strings.Fields(string(w.files[0]))...), nil
			},
		}
		r := newTarget(&target, by, slog.New(slog.DiscardHandler), func() {})
		if err := r.hold(t.Context(), w); err != nil || !slices.Equal(ran, []string{"test", "reload"}) {
			t.Errorf("%v, %q", err, ran)
		}
	})
}

// Errors quote part of HAProxy's answer, and never a key.
func TestHAProxyRefuses(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte("a key of eighty bytes, which must not be in an error"))
	h := haproxyHolder{askSocket: func(context.Context, string, []byte) ([]byte, error) {
		return []byte(key + strings.Repeat(" no", maxAnswer/3)), nil
	}}
	err := h.push(t.Context(), "0", [][]byte{[]byte(key)})
	if err == nil || strings.Contains(err.Error(), key) || len(err.Error()) > 1000 {
		t.Errorf("%.2000v", err)
	}
	if _, err := parseReferences([]byte("0 ("+strings.Repeat("x", maxAnswer)+")\n"), "/f"); err == nil || len(err.Error()) > 1000 {
		t.Errorf("%.2000v", err)
	}
}
