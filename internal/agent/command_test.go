package agent

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// At its deadline a command ends, together with all processes that it started.
func TestCommandIsKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	err := runFor(3*time.Second)(t.Context(), []string{"sh", "-c", "echo begun; sleep 1000 & echo $! >" + file + "; wait"})
	if err == nil || !strings.Contains(err.Error(), "killed after 3s: begun") {
		t.Error(err)
	}
	pid, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); exec.Command("kill", "-0", strings.TrimSpace(string(pid))).Run() == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what the command started goes on")
		}
	}
}

// The kept output of a command is limited, on one line, and without possible keys.
func TestCommandOutput(t *testing.T) {
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(i*37 + 11)
	}
	for _, test := range []struct{ script, want, not string }{
		{"exit 3", "sh: exit status 3", ""},
		{"echo one; echo two >&2; exit 1", "exit status 1: one two", ""},
		{"printf 'a\\033[2Jb'; exit 1", "a\uFFFD[2Jb", "\x1b"},
		{"yes begin | head -c 60000; echo end; exit 1", "begin end", strings.Repeat("begin ", 1000)},
		{"echo key " + base64.StdEncoding.EncodeToString(secret) + " is bad; exit 1", "key […] is bad", base64.StdEncoding.EncodeToString(secret)},
		{"echo key " + hex.EncodeToString(secret) + "; exit 1", "key […]", hex.EncodeToString(secret)},
		{"echo " + base64.StdEncoding.EncodeToString(secret) + strings.Repeat(" a", (maxOutput-10)/2) + "; exit 1", "a a", base64.StdEncoding.EncodeToString(secret)[44-9:]},
		{"echo cannot open /usr/local/etc/nginx/conf/site; exit 1", "cannot open /usr/local/etc/nginx/conf/site", ""},
	} {
		err := runFor(20*time.Second)(t.Context(), []string{"sh", "-c", test.script})
		if err == nil || !strings.Contains(err.Error(), test.want) || test.not != "" && strings.Contains(err.Error(), test.not) {
			t.Errorf("%q: %.300v", test.script, err)
		}
		if err != nil && len(err.Error()) > maxOutput+200 {
			t.Errorf("%q: an error of %d bytes", test.script, len(err.Error()))
		}
	}
}

// A command that leaves a background process has succeeded.
func TestCommandLeavesServer(t *testing.T) {
	if err := runFor(20*time.Second)(t.Context(), []string{"sh", "-c", "sleep 3 & exit 0"}); err != nil {
		t.Error(err)
	}
}
