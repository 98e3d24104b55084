package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const exposedVariable = "SESSAPI_TEST_EXPOSED"

// TestExposedProcess is the process that [TestExposed] starts. It prints whether the
// kernel made it dumpable and whether it considers itself exposed, and runs until its
// input ends.
func TestExposedProcess(t *testing.T) {
	if os.Getenv(exposedVariable) == "" {
		t.Skip("is run by TestExposed")
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("dumpable %t, exposed %t\n", dumpable == 1, exposed())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// A process is exposed if its user can read its executable and has another process. A
// process with an unreadable executable is non-dumpable from the start.
func TestExposed(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("starting processes of another user needs root")
		}
		t.Skip("starting processes of another user needs root")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "sessapi")
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(program, binary, 0o755), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	uid := 20000 + uint32(os.Getpid()%40000) // unused, even if this test runs twice at a time
	start := func() (said string, stop func()) {
		t.Helper()
		process := exec.Command(program, "-test.run=^TestExposedProcess$")
		process.Dir, process.Env = "/", []string{exposedVariable + "=1"}
		process.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		in, inErr := process.StdinPipe()
		out, outErr := process.StdoutPipe()
		if err := errors.Join(inErr, outErr, process.Start()); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, err := out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n]), func() {
			_ = in.Close()
			_, _ = io.Copy(io.Discard, out)
			_ = process.Wait()
		}
	}
	for _, test := range []struct {
		mode os.FileMode
		want [2]string // of the first process and of another beside it
	}{
		{0o755, [2]string{"dumpable true, exposed false\n", "dumpable true, exposed true\n"}},
		{0o711, [2]string{"dumpable false, exposed false\n", "dumpable false, exposed false\n"}},
	} {
		if err := os.Chmod(program, test.mode); err != nil {
			t.Fatal(err)
		}
		first, stopFirst := start()
		second, stopSecond := start()
		if got := [2]string{first, second}; got != test.want {
			t.Errorf("mode %v: %q, want %q", test.mode, got, test.want)
		}
		stopSecond()
		stopFirst()
	}
}
