package fleet

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/fleet/redistest"
)

// hostile is what a server that is broken, or somebody else's, may send.
var hostile = map[string]string{
	"unsolicited":          "+OK\r\n",
	"negative string":      "$-2\r\n",
	"negative array":       "*-7\r\n",
	"null map":             "%-1\r\n",
	"huge string":          "$9223372036854775807\r\n",
	"large string":         "$4000000000\r\n",
	"overflow":             "$99999999999999999999999\r\n",
	"huge array":           "*9223372036854775807\r\n",
	"large array":          "*4000000000\r\n",
	"many arrays":          "*1000\r\n" + strings.Repeat("*1000\r\n"+strings.Repeat("_\r\n", 1000), 300),
	"nested":               strings.Repeat("*1\r\n", 1<<20),
	"nested maps":          strings.Repeat("%1\r\n_\r\n", 1<<10),
	"no such kind":         "x\r\n",
	"stream":               "$?\r\n",
	"end of a stream":      ".\r\n",
	"attribute":            "|1\r\n+a\r\n+b\r\n",
	"endless line":         "+" + strings.Repeat("x", 1<<20),
	"endless number":       ":" + strings.Repeat("1", 100),
	"bare LF":              "+OK\n",
	"short string":         "$3\r\nabcd\r\n",
	"push in an array":     "*1\r\n>2\r\n+invalidate\r\n_\r\n",
	"subscription":         ">3\r\n+subscribe\r\n+x\r\n:1\r\n",
	"pattern subscription": ">3\r\n+psubscribe\r\n+x\r\n:1\r\n",
	"empty push":           ">0\r\n",
	"set":                  "~0\r\n",
	"negative of nothing":  ":-\r\n",
	"twice negative":       ":--1\r\n",
	"short message":        ">3\r\n+message\r\n+switch-master\r\n+short\r\n",
}

// fakeRedis answers each command by answer, the handshake as Redis does, until the test
// ends. It is a Sentinel as well, whose master is itself.
func fakeRedis(t *testing.T, answer func(command string) string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				commands := scanner{done: func(m *message) error {
					reply := "+OK\r\n"
					switch name := string(m.words[0]); name {
					case "HELLO":
						reply = "%2\r\n+version\r\n+7.0.0\r\n+proto\r\n:3\r\n"
					case "TIME":
						reply = answer(name) + fmt.Sprintf("*2\r\n:%d\r\n:0\r\n", time.Now().Unix())
					case "CLIENT":
					case "PING":
						reply = "+PONG\r\n"
					case "SUBSCRIBE":
						reply = strings.Repeat(">3\r\n+subscribe\r\n+x\r\n:1\r\n", m.count-1)
					case "UNSUBSCRIBE":
						reply = ">3\r\n+unsubscribe\r\n_\r\n:0\r\n"
					case "SENTINEL":
						if reply = "*0\r\n"; !strings.EqualFold(string(m.words[1]), "SENTINELS") {
							host, port, _ := net.SplitHostPort(l.Addr().String())
							reply = cmp.Or(answer("address"), fmt.Sprintf("*2\r\n+%s\r\n+%s\r\n", host, port))
						}
					case "CLUSTER":
						reply = "-ERR This instance has cluster support disabled\r\n"
					default:
						reply = answer(name)
					}
					_, err := io.WriteString(conn, reply)
					return err
				}}
				for in := bufio.NewReader(conn); ; {
					p := make([]byte, 4096)
					n, err := in.Read(p)
					if err != nil || commands.scan(p[:n]) != nil {
						return
					}
				}
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return "redis://" + l.Addr().String()
}

// Whatever a server sends, the node lives, misses, counts it and connects again.
func TestHostileReplies(t *testing.T) {
	t.Parallel()
	for name, reply := range hostile {
		for _, command := range []string{"TIME", "GETRANGE"} {
			t.Run(name+" to "+command, func(t *testing.T) {
				t.Parallel()
				answers := "$0\r\n\r\n"
				url := fakeRedis(t, func(c string) string {
					switch {
					case c != command && c == "TIME":
						return ""
					case c != command:
						return answers
					case c == "GETRANGE" && name == "unsolicited":
						return answers + reply
					}
					return reply
				})
				n, err := New(settings(url, newSeal(t)))
				if err != nil {
					t.Fatal(err)
				}
				defer n.Close()
				local := newLocal(t)
				n.Sessions(local, nil, func(time.Duration) {})
				redistest.Await(t, "a violation", func() error {
					_ = n.Connect(t.Context())
					if data, _, ok := n.sessions.Get(t.Context(), nil, id(1)); ok {
						t.Fatalf("found %q", data)
					}
					if n.Stats().Violations == 0 {
						return errors.New("none was counted")
					}
					return nil
				})
			})
		}
	}
}

// Nor does a Sentinel, or the server that it names, end a node.
func TestHostileSentinel(t *testing.T) {
	t.Parallel()
	for command, replies := range map[string][]string{
		"ROLE":    {"*0\r\n", "*-1\r\n", "~0\r\n", "~1\r\n+master\r\n", "%0\r\n", "_\r\n", "+master\r\n"},
		"address": {"*0\r\n", "*1\r\n+a\r\n", "*3\r\n+a\r\n+b\r\n+c\r\n", "~0\r\n", "~2\r\n+a\r\n+1\r\n", "%0\r\n", "+a\r\n"},
	} {
		for _, reply := range replies {
			t.Run(fmt.Sprintf("%q to %s", reply, command), func(t *testing.T) {
				t.Parallel()
				url := fakeRedis(t, func(c string) string {
					if c == command {
						return reply
					}
					return ""
				})
				n, err := New(settings(url+"?master_set=m", newSeal(t)))
				if err != nil {
					t.Fatal(err)
				}
				defer n.Close()
				redistest.Await(t, "a violation", func() error {
					err := n.Connect(t.Context())
					if err == nil {
						t.Fatal("it is linked")
					}
					if n.Stats().Violations == 0 {
						return err
					}
					return nil
				})
			})
		}
	}
}

// A value of any size under a name of the service's costs no node more than a record.
func TestLargeValue(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	n := newNode(t, settings(server.URL(), newSeal(t)))
	always := func(cache.Tag, bool) bool { return true }
	for i, cond := range []cache.Condition{nil, always} {
		put(t, n, i, "one")
		server.Do("SETRANGE", n.sessionName(id(i)), "400000000", "x")
		await(t, n, i, "")
		o := lasting(time.Hour)
		o.If = cond
		// Redis may have been busy with the value for so long that it counts as away.
		redistest.Await(t, "another in its place", func() error {
			_, err := n.sessions.Put(t.Context(), id(i), []byte("two"), o)
			return err
		})
		await(t, n, i, "two")
	}
	server.Do("SETRANGE", n.keysName(), "400000000", "x")
	redistest.Await(t, "a refusal", func() error {
		if _, err := n.KeyStore(nil).Load(t.Context()); !errors.Is(err, errUnreadable) {
			return fmt.Errorf("loaded: %w", err)
		}
		return nil
	})
	if s := n.Stats(); s.Violations != 0 || s.RefusedSessions == 0 || s.RefusedKeys != 1 {
		t.Errorf("%+v", s)
	}
}

// conn is a connection that has read what is left of data.
type conn struct {
	net.Conn
	data *bytes.Reader
	most int // that a Read returns
}

func (c *conn) Read(p []byte) (int, error)  { return c.data.Read(p[:min(len(p), c.most)]) }
func (c *conn) Write(p []byte) (int, error) { return len(p), nil }
func (c *conn) Close() error                { return nil }

// pass reads data through a guard that has sent commands, and returns what came through.
func pass(data []byte, most int, commands ...string) (out []byte, err error) {
	g := newGuard(&conn{data: bytes.NewReader(data), most: most}, func(error) {})
	for _, c := range commands {
		words := strings.Fields(c)
		text := fmt.Sprintf("*%d\r\n", len(words))
		for _, w := range words {
			text += fmt.Sprintf("$%d\r\n%s\r\n", len(w), w)
		}
		for i := range len(text) { // however the library cuts it
			if _, err := g.Write([]byte(text[i : i+1])); err != nil {
				return nil, err
			}
		}
	}
	return io.ReadAll(g)
}

// What Redis and Sentinels do send passes, however it is cut.
func TestGuardPasses(t *testing.T) {
	for _, test := range []struct {
		commands []string
		data     string
	}{
		{[]string{"GET a"}, "$3\r\nabc\r\n"},
		{[]string{"GET a"}, "$4\r\n\r\n\r\n\r\n"},
		{[]string{"GET a"}, "$0\r\n\r\n"},
		{[]string{"GET a", "TIME"}, "$-1\r\n*2\r\n$1\r\n1\r\n:2\r\n"},
		{[]string{"SCAN 0"}, "*2\r\n$1\r\n0\r\n*0\r\n"},
		{[]string{"HELLO 3"}, "%2\r\n+a\r\n*0\r\n+b\r\n%1\r\n,1.5\r\n#t\r\n"},
		{[]string{"X"}, "-ERR no\r\n"},
		{nil, ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n"},
		{[]string{"SUBSCRIBE a b", "PING"}, ">3\r\n+subscribe\r\n+a\r\n:1\r\n>3\r\n+subscribe\r\n+b\r\n:2\r\n>3\r\n+message\r\n+switch-master\r\n+m h 1 h 2\r\n+PONG\r\n"},
		{[]string{"UNSUBSCRIBE", "PING"}, ">3\r\n+unsubscribe\r\n_\r\n:0\r\n+PONG\r\n"},
		{[]string{"SENTINEL get-master-addr-by-name m"}, "*2\r\n$1\r\nh\r\n$1\r\n1\r\n"},
		{[]string{"SENTINEL get-master-addr-by-name m"}, "*-1\r\n"},
		{[]string{"SENTINEL get-master-addr-by-name m"}, "_\r\n"},
		{[]string{"SENTINEL get-master-addr-by-name m"}, "-ERR no\r\n"},
		{[]string{"ROLE"}, "-ERR no\r\n"},
		{[]string{"ROLE"}, "*3\r\n+master\r\n:0\r\n*0\r\n"},
		{[]string{"ROLE"}, "*5\r\n+slave\r\n+h\r\n:1\r\n+connect\r\n:-1\r\n"}, // not in step with its master yet
	} {
		for most := range 12 {
			if got, err := pass([]byte(test.data), most+1, test.commands...); err != nil || string(got) != test.data {
				t.Errorf("%q, %d at a time: %q, %v", test.data, most+1, got, err)
			}
		}
	}
	for _, test := range [][2]string{ // no reply of the library's making
		{"SENTINEL get-master-addr-by-name m", "*1\r\n+a\r\n"},
		{"SUBSCRIBE a", "+QUEUED\r\n"},
		{"PING", "+PONG\r\n+PONG\r\n"},
	} {
		if _, err := pass([]byte(test[1]), 100, test[0]); !errors.Is(err, errProtocol) {
			t.Errorf("%q to %q: %v", test[1], test[0], err)
		}
	}
}

// A guard allocates nothing for a command and its reply, and keeps no password.
func TestGuardKeepsNothing(t *testing.T) {
	in := &conn{data: new(bytes.Reader), most: 100}
	g := newGuard(in, func(err error) { t.Error(err) })
	command, reply, p := []byte("*2\r\n$3\r\nGET\r\n$1\r\na\r\n"), []byte("$1\r\nb\r\n"), make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		in.data.Reset(reply)
		_, _ = g.Write(command)
		_, _ = g.Read(p)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	for _, command := range []string{"*3\r\n$4\r\nauth\r\n$4\r\nuser\r\n$6\r\nsecret\r\n", "*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$4\r\nuser\r\n$6\r\nsecret\r\n"} {
		if _, err := g.Write([]byte(command)); err != nil {
			t.Fatal(err)
		}
		for _, w := range g.writing.message.words {
			if kept := string(w[:cap(w)]); strings.Contains(kept, "secret") || strings.Contains(kept, "user") {
				t.Errorf("kept %q", kept)
			}
		}
	}
}

// FuzzGuard: what a guard passes is the same however it is cut, and is within the bounds.
func FuzzGuard(f *testing.F) {
	for _, data := range hostile {
		if len(data) < 1<<12 {
			f.Add([]byte(data), uint8(3))
		}
	}
	f.Add([]byte("*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n>2\r\n+invalidate\r\n_\r\n"), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, most uint8) {
		commands := []string{"GET a", "SUBSCRIBE b", "GET c"}
		whole, wholeErr := pass(data, max(1, len(data)), commands...)
		cut, cutErr := pass(data, int(most)+1, commands...)
		if (wholeErr == nil) != (cutErr == nil) || wholeErr == nil && !bytes.Equal(whole, cut) {
			t.Fatalf("whole: %v, in parts: %v", wholeErr, cutErr)
		}
		if wholeErr == nil && !bytes.Equal(whole, data) {
			t.Fatalf("%q became %q", data, whole)
		}
		if !bytes.HasPrefix(data, cut) {
			t.Fatalf("%q became %q", data, cut)
		}
	})
}
