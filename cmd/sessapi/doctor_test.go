package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/logtest"
)

// With --watch, reports repeat until the process is told to stop.
func TestDoctorWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var stdout, stderr logtest.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run([]string{"doctor", "--watch=1ms", "--json", "127.0.0.1:1"}, environment{ctx: ctx, stdout: &stdout, stderr: &stderr})
	}()
	for deadline := time.Now().Add(time.Minute); strings.Count(stdout.String(), "\n") < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no third report: %s%s", &stdout, &stderr)
		}
	}
	cancel()
	if got := <-code; got != exitOK {
		t.Errorf("exit code %d: %s", got, &stderr)
	}
}
