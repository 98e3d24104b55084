package e2e_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tours show what happens. Each block of commands runs in one shell, as a reader
// would paste it, and prints what the block after it says.
func TestTours(t *testing.T) {
	for _, tour := range []struct {
		document, section string
		needs             []string
	}{
		{"../../README.md", "Try it", []string{"nginx"}},
		{nodeExample + "README.md", "By session ticket", []string{"node"}},
		{nodeExample + "README.md", "By session ID", []string{"node", "curl"}},
	} {
		t.Run(tour.section, func(t *testing.T) {
			t.Parallel()
			for _, program := range append(tour.needs, "bash", "openssl") {
				need(t, program)
			}
			s := serve(t)
			text := section(t, string(readFile(t, tour.document)), tour.section)
			text = strings.NewReplacer("8443", freePort(t), "8444", freePort(t), "127.0.0.1:8440", s.addr).Replace(text)
			folder := t.TempDir()
			if err := os.CopyFS(folder, os.DirFS(nodeExample)); err != nil {
				t.Fatal(err)
			}
			shell := newShell(t, folder, "SESSAPI_SERVER=http://"+s.addr)
			blocks := fence.FindAllStringSubmatch(text, -1)
			for n, block := range blocks {
				if block[1] != "sh" || strings.HasPrefix(block[2], "make ") { // the command is built, and serves
					continue
				}
				want := ""
				if n+1 < len(blocks) && blocks[n+1][1] == "text" {
					want = blocks[n+1][2]
				}
				shell.expect(t, block[2], want)
			}
			left, err := os.ReadDir(folder)
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range left {
				if _, err := os.Stat(filepath.Join(nodeExample, file.Name())); err != nil {
					t.Errorf("the tour leaves %s behind", file.Name())
				}
			}
		})
	}
}

// section is a section of a document, without its title.
func section(tb testing.TB, text, title string) string {
	tb.Helper()
	_, text, ok := strings.Cut(text, "\n## "+title+"\n")
	if !ok {
		tb.Fatalf("no section %q", title)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// shell is one that reads commands as they come.
type shell struct {
	*process
	in io.Writer
}

func newShell(tb testing.TB, dir string, env ...string) *shell {
	tb.Helper()
	cmd := exec.Command("bash")
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "PATH="+filepath.Dir(sessapiPath)+":"+os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"), env...)
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s := &shell{process: startCommand(tb, cmd), in: in}
	tb.Cleanup(func() { // of a tour that does not come to its own
		pids, _ := filepath.Glob(filepath.Join(dir, "tour", "*", "nginx.pid"))
		for _, file := range pids {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(readFile(tb, file)))); err == nil {
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
		}
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	})
	return s
}

var (
	// varies is what differs each time: key names, fingerprints, generations, ports.
	varies = regexp.MustCompile(`[0-9a-f]{32}|\d{5,}`)
	exited = regexp.MustCompile(`\[exit (\d+)\]\n`)
)

// expect runs commands and compares what they print. Commands that begin with a
// sleep run again until they print it: how long to sleep is for a reader to see.
func (s *shell) expect(tb testing.TB, commands, want string) {
	tb.Helper()
	var got string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		got = s.run(tb, commands, deadline)
		if varies.ReplaceAllString(got, "…") == varies.ReplaceAllString(want, "…") {
			return
		}
		if !strings.HasPrefix(commands, "sleep ") {
			break
		}
	}
	tb.Fatalf("%s\nprints\n%s\nnot\n%s", commands, got, want)
}

// run runs commands and returns what they print.
func (s *shell) run(tb testing.TB, commands string, deadline time.Time) string {
	tb.Helper()
	before := len(s.out.String())
	if _, err := io.WriteString(s.in, "{\n"+commands+"} </dev/null\necho \"[exit $?]\"\n"); err != nil {
		tb.Fatal(err)
	}
	for ; time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		out := s.out.String()[before:]
		if end := exited.FindStringSubmatchIndex(out); end != nil {
			if out[end[2]:end[3]] != "0" {
				tb.Fatalf("%s\nexits with %s", commands, out)
			}
			return out[:end[0]]
		}
	}
	tb.Fatalf("%s\ngoes on and on:\n%s", commands, s.out.String()[before:])
	return ""
}
