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
	// maxOutput is how much of a command's output is kept, in bytes.
	maxOutput = 4 << 10
	// pipeGrace is how long a background process may keep the output of a command
	// open after the command has ended.
	pipeGrace = time.Second
)

// runner runs a command to its end or its deadline. The error contains the command's
// output.
type runner func(ctx context.Context, command []string) error

// runFor returns a runner with this timeout. At the deadline it kills the command's
// process group.
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
		if err == nil || errors.Is(err, exec.ErrWaitDelay) { // it left a process running
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

// tail keeps the end of the output, where commands say what went wrong.
type tail struct {
	b   []byte
	cut bool // b may begin within a word
}

func (t *tail) Write(p []byte) (int, error) {
	t.cut = t.cut || len(t.b)+len(p) > maxOutput
	t.b = append(t.b, p[max(0, len(p)-maxOutput):]...)
	if excess := len(t.b) - maxOutput; excess > 0 {
		t.b = append(t.b[:0], t.b[excess:]...)
	}
	return len(p), nil
}

// text returns the output from the start of a word: part of a word might not be
// recognized as a secret.
func (t *tail) text() string {
	text := string(t.b)
	if t.cut {
		text = text[strings.IndexAny(text+" ", " \t\r\n"):]
	}
	return text
}

// encoded matches text that may be a secret in hex or base64, or a path.
var encoded = regexp.MustCompile(`[0-9A-Za-z+/]{22,}={0,2}`)

// redacted removes everything that may be a secret from another program's text.
func redacted(text string) string {
	return encoded.ReplaceAllStringFunc(text, func(run string) string {
		if strings.ContainsFunc(run, unicode.IsUpper) || !strings.ContainsAny(run, "/") && strings.ContainsAny(run, "0123456789") {
			return "[…]"
		}
		return run
	})
}

// oneLine returns text as one line that is safe to print.
func oneLine(text string) string { return printable.Text(strings.Join(strings.Fields(text), " ")) }
