package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Processes of the same user neither read the memory of the service nor make a
// core of it, unless the operator lets them.
func TestNotDumpable(t *testing.T) {
	t.Parallel()
	needRoot(t, "it becomes another user")
	asNobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	for _, dumpable := range []bool{false, true} {
		cmd := exec.Command(sessapiPath, "serve", "--listen=127.0.0.1:0", "--dumpable="+strconv.FormatBool(dumpable))
		cmd.SysProcAttr = asNobody
		p := startCommand(t, cmd)
		p.out.await(t, `"msg":"serving"`)
		if warned := strings.Contains(p.out.String(), "--dumpable"); warned != dumpable {
			t.Errorf("dumpable %v: warned %v", dumpable, warned)
		}
		proc := filepath.Join("/proc", strconv.Itoa(p.Process.Pid))
		for _, file := range []string{"environ", "maps", "mem"} {
			read := exec.CommandContext(t.Context(), "sh", "-c", "exec 3<"+filepath.Join(proc, file))
			read.SysProcAttr = asNobody
			if err := read.Run(); (err == nil) != dumpable {
				t.Errorf("dumpable %v: %s opens: %v", dumpable, file, err == nil)
			}
		}
		limits, err := os.ReadFile(filepath.Join(proc, "limits"))
		if err != nil {
			t.Fatal(err)
		}
		if !dumpable {
			for line := range strings.Lines(string(limits)) {
				if fields := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && (fields[4] != "0" || fields[5] != "0") {
					t.Errorf("a core may be made: %s", line)
				}
			}
			if gcore, err := exec.LookPath("gcore"); err == nil {
				dump := exec.CommandContext(t.Context(), gcore, "-o", filepath.Join("/tmp", filepath.Base(filepath.Dir(sessapiPath))), strconv.Itoa(p.Process.Pid))
				dump.SysProcAttr = asNobody
				if out, err := dump.CombinedOutput(); err == nil {
					t.Errorf("gcore made a core: %s", out)
				}
			}
		}
		p.stop(t, syscall.SIGTERM)
	}
	// The other commands see secrets too.
	cmd := exec.CommandContext(t.Context(), sessapiPath, "keys", "inspect", "--format=ats", "-")
	cmd.SysProcAttr = asNobody
	cmd.Env = append(os.Environ(), "SESSAPI_DUMPABLE=true") // which is for the service
	stdin, err := cmd.StdinPipe()                           // that it waits for
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		read := exec.CommandContext(t.Context(), "sh", "-c", "exec 3</proc/"+strconv.Itoa(cmd.Process.Pid)+"/mem")
		read.SysProcAttr = asNobody
		if read.Run() != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the memory of sessapi keys can be read")
		}
	}
	_ = stdin.Close()
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 1 { // it has waited, and then found no keys
		t.Errorf("sessapi keys has ended: %v", cmd.ProcessState)
	}
}
