package agent

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/sessapi/sessapi/internal/printable"
)

const (
	// maxOutput is how much of what a command prints is kept, in bytes.
	maxOutput = 4 << 10
	// pipeGrace is how long a process that has left the group of a command may hold
	// its output open.
	pipeGrace = time.Second
)

// runner runs a command to its end, or until its deadline. The error holds what the
// command printed.
type runner func(ctx context.Context, command []string) error

// runFor runs commands that may take so long. At the deadline all processes of the
// command's group are killed.
func runFor(timeout time.Duration) runner {
	return func(ctx context.Context, argv []string) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		command := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // it is the operator's own
		var out tail
		command.Stdout, command.Stderr = &out, &out
		endGroup(command)
		command.WaitDelay = pipeGrace
		err := command.Run()
		if err == nil || errors.Is(err, exec.ErrWaitDelay) { // it started something that goes on
			return nil
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("killed after %v", timeout)
		}
		text := oneLine(redacted(out.text()))
		if text != "" {
			text = ": " + text
		}
		return fmt.Errorf("%s: %w%s", argv[0], err, text)
	}
}

// tail keeps the end of what is written to it, which is where commands say what went
// wrong.
type tail struct {
	b   []byte
	cut bool // b begins anywhere
}

func (t *tail) Write(p []byte) (int, error) {
	t.cut = t.cut || len(t.b)+len(p) > maxOutput
	t.b = append(t.b, p[max(0, len(p)-maxOutput):]...)
	if excess := len(t.b) - maxOutput; excess > 0 {
		t.b = append(t.b[:0], t.b[excess:]...)
	}
	return len(p), nil
}

// text is what was kept, from the beginning of a word on: the rest of one might not be
// recognized as a secret.
func (t *tail) text() string {
	text := string(t.b)
	if t.cut {
		text = text[strings.IndexAny(text+" ", " \t\r\n"):]
	}
	return text
}

// encoded is text that may be a secret in hex or base64, if it is not a path.
var encoded = regexp.MustCompile(`[0-9A-Za-z+/]{22,}={0,2}`)

// redacted is text of another program without what may be a secret.
func redacted(text string) string {
	return encoded.ReplaceAllStringFunc(text, func(run string) string {
		if strings.ContainsFunc(run, unicode.IsUpper) || !strings.ContainsAny(run, "/") && strings.ContainsAny(run, "0123456789") {
			return "[…]"
		}
		return run
	})
}

// oneLine is text as one line that is safe to print.
func oneLine(text string) string { return printable.Text(strings.Join(strings.Fields(text), " ")) }
