package main

import (
	"context"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/logtest"
)

// serve runs the service on a free port until the test ends. It returns the address, a
// channel that reloads the service, and a function that stops it and returns the exit
// code.
func serve(t *testing.T, args ...string) (address string, reload chan<- os.Signal, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var stderr logtest.Buffer
	signals, code := make(chan os.Signal), make(chan int, 1)
	go func() {
		code <- run(append([]string{"serve", "--listen=127.0.0.1:0", "--dumpable"}, args...),
			environment{ctx: ctx, reload: signals, stdout: io.Discard, stderr: &stderr})
	}()
	stop = sync.OnceValue(func() int { cancel(); return <-code })
	t.Cleanup(func() { stop() })
	for deadline := time.Now().Add(time.Minute); !strings.Contains(stderr.String(), `"msg":"serving"`); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not serve: %s", &stderr)
		}
	}
	return regexp.MustCompile(`"address":"([^"]+)"`).FindStringSubmatch(stderr.String())[1], signals, stop
}

// A complete run of serve: it exits with 0 when told to stop.
func TestServeStops(t *testing.T) {
	_, _, stop := serve(t)
	if got := stop(); got != exitOK {
		t.Errorf("exit code %d", got)
	}
}

// Ctrl-C ends a command that waits for typed text. Text typed before is read.
func TestInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		terminal, keyboard := io.Pipe()
		defer keyboard.Close()
		env := environment{ctx: ctx, stdin: terminal}
		done := make(chan error)
		go func() {
			_, err := readInput(env, "-", 100)
			done <- err
		}()
		if _, err := io.WriteString(keyboard, "half a line"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	env := environment{ctx: t.Context(), stdin: iotest.OneByteReader(strings.NewReader("a line\n"))}
	if data, err := readInput(env, "-", 100); string(data) != "a line\n" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}
