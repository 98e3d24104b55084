package agent

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/printable"
)

// haproxy is HAProxy. It reads its file at startup. While running, it accepts keys on
// its stats socket, or rereads the file on a reload in master-worker mode.
var haproxy = kind{
	format:      keys.HAProxy,
	needsReload: true,
	reloadHint:  "there is neither a socket nor a reload; add socket: PATH of a stats socket of level admin",
	sockets:     true,
	spacing:     5 * time.Second, // it loses a signal that arrives during a reload
	holder: func(t *Target, h *fileHolder, ask asker, _ func()) holder {
		if t.Socket == "" {
			return h
		}
		h.reload = nil // the keys go over the socket
		return &haproxyHolder{fileHolder: h, socket: t.Socket, askSocket: ask, reload: t.Reload}
	},
}

const (
	// ringSize is how many keys HAProxy uses: the last three of a file, which are
	// previous, current and next.
	ringSize = 3

	socketTimeout = 2 * time.Second
	// maxAnswer bounds an answer on the socket, in bytes.
	maxAnswer = 1 << 20
)

// ring is the keys of one reference to a file, in base64.
type ring [ringSize][]byte

func (r *ring) wipe() {
	for _, key := range r {
		clear(key)
	}
}

// haproxyHolder is HAProxy with a stats socket. It starts with the keys of its file,
// and then uses the ring of each reference to the file.
type haproxyHolder struct {
	*fileHolder
	socket    string
	askSocket asker
	reload    *Reload // for a change that the socket cannot make; nil for none
}

// Holds reports whether the file and all rings have the wanted keys.
func (h *haproxyHolder) Holds(ctx context.Context, w *wanted) (bool, error) {
	if same, err := h.fileHolder.Holds(ctx, w); err != nil || !same {
		return false, err
	}
	want, err := ringOf(w.files[0])
	if err != nil {
		return false, err
	}
	holds := true
	err = h.eachRing(ctx, func(_ string, has *ring) error {
		holds = holds && len(pushes(has, want)) == 0
		return nil
	})
	return holds, err
}

// Apply writes the file, and pushes the keys that the rings lack.
func (h *haproxyHolder) Apply(ctx context.Context, w *wanted) error {
	if err := h.fileHolder.Apply(ctx, w); err != nil {
		return err
	}
	want, err := ringOf(w.files[0])
	if err != nil {
		return err
	}
	resize := false
	err = h.eachRing(ctx, func(id string, has *ring) error {
		if len(has[0]) != len(want[0]) {
			resize = true
			return nil
		}
		return h.push(ctx, id, pushes(has, want))
	})
	switch {
	case err != nil || !resize:
		return err
	case h.reload == nil:
		return errors.New("HAProxy has keys of another size, which only a reload changes: reload it, or add a reload to the target")
	}
	if err := h.reloadServer(ctx, h.reload); err != nil {
		return err
	}
	// The old process answers on the socket until the new one has started.
	for end := time.Now().Add(h.spacing); time.Now().Before(end) && sleep(ctx, proveAgain); {
		if holds, err := h.Holds(ctx, w); err == nil && holds {
			return nil
		}
	}
	return ctx.Err()
}

// ringOf is the part of the file that HAProxy uses: its last three lines.
func ringOf(content []byte) (*ring, error) {
	lines := bytes.Fields(content)
	if len(lines) < ringSize {
		return nil, fmt.Errorf("the file has %d keys, HAProxy needs %d", len(lines), ringSize)
	}
	return (*ring)(lines[len(lines)-ringSize:]), nil
}

// pushes returns the fewest keys to push, in order, that turn one ring into another. A
// push drops the first key and appends the new one.
func pushes(has, want *ring) [][]byte {
	for n := range ringSize {
		same := 1
		for i := range ringSize - n {
			same &= subtle.ConstantTimeCompare(has[n+i], want[i])
		}
		if same == 1 {
			return want[ringSize-n:]
		}
	}
	return want[:]
}

// push pushes keys to the reference with this number.
func (h *haproxyHolder) push(ctx context.Context, id string, pushed [][]byte) error {
	if len(pushed) == 0 {
		return nil
	}
	line := make([]byte, 0, 1<<10) // enough: growing it would leave copies of secrets behind
	defer func() { clear(line) }()
	for _, key := range pushed {
		line = append(line, "set ssl tls-key #"+id+" "...)
		line = append(append(line, key...), ';')
	}
	line[len(line)-1] = '\n'
	answer, err := h.ask(ctx, line)
	if err != nil {
		return err
	}
	defer clear(answer)
	if done := bytes.Count(answer, []byte("TLS ticket key updated!")); done != len(pushed) {
		return fmt.Errorf("HAProxy took %d of %d keys: %s", done, len(pushed), excerpt(string(answer)))
	}
	return nil
}

// excerpt is the part of an answer that an error quotes, without possible secrets.
func excerpt(answer string) string { return printable.Short(redacted(answer)) }

// eachRing calls do with each reference to the file. It fails if there is none.
func (h *haproxyHolder) eachRing(ctx context.Context, do func(id string, has *ring) error) error {
	list, err := h.ask(ctx, []byte("show tls-keys\n"))
	if err != nil {
		return err
	}
	ids, err := parseReferences(list, h.paths[0])
	if err != nil {
		return err
	}
	for _, id := range ids {
		answer, err := h.ask(ctx, []byte("show tls-keys #"+id+"\n"))
		if err != nil {
			return err
		}
		has, err := parseRing(answer, id)
		clear(answer)
		if err == nil {
			err = do(id, has)
			has.wipe()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ask sends a line of commands and returns the answer, which the caller wipes.
func (h *haproxyHolder) ask(ctx context.Context, line []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, socketTimeout)
	defer cancel()
	answer, err := h.askSocket(ctx, h.socket, line)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", h.socket, withoutAddress(err))
	}
	return answer, nil
}

// withoutAddress removes the address, which the caller adds, from an error of a
// connection.
func withoutAddress(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Err
	}
	return err
}

// askSocket writes the line at once: HAProxy closes the connection after the last command
// that it has read, and fails a write that comes later.
func askSocket(ctx context.Context, path string, line []byte) ([]byte, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(line); err != nil {
		return nil, err
	}
	return files.ReadAll(conn, 4<<10, maxAnswer) // the first is enough for a ring
}

// parseReferences reads the answer to "show tls-keys", lines of NUMBER (FILE), and
// returns the numbers of those that use the file. HAProxy may know the file by a
// relative path.
func parseReferences(answer []byte, file string) ([]string, error) {
	var ids, others []string
	for line := range strings.Lines(string(answer)) {
		id, name, ok := strings.Cut(strings.TrimSpace(line), " (")
		name, closed := strings.CutSuffix(name, ")")
		if _, err := strconv.ParseUint(id, 10, 31); err != nil || !ok || !closed {
			continue
		}
		if sameFile(name, file) {
			ids = append(ids, id)
		} else {
			others = append(others, name)
		}
	}
	if len(ids) > 0 {
		return ids, nil
	}
	if len(others) > 0 {
		return nil, fmt.Errorf("no bind line of HAProxy has tls-ticket-keys %s; there is %s", file, printable.Short(strings.Join(others, ", ")))
	}
	if first, _, _ := strings.Cut(string(answer), "\n"); !strings.HasPrefix(first, "#") && first != "" {
		return nil, fmt.Errorf("HAProxy answers %q", excerpt(first))
	}
	return nil, fmt.Errorf("no bind line of HAProxy has tls-ticket-keys %s", file)
}

func sameFile(name, file string) bool {
	if filepath.IsAbs(name) {
		return filepath.Clean(name) == filepath.Clean(file)
	}
	return strings.HasSuffix(filepath.Clean(file), "/"+filepath.Clean(name))
}

var base64Text = regexp.MustCompile(`^[A-Za-z0-9+/]+={0,2}$`)

// parseRing reads the answer to "show tls-keys #ID", lines of ID.INDEX BASE64.
func parseRing(answer []byte, id string) (*ring, error) {
	var r ring
	n := 0
	for line := range bytes.Lines(answer) {
		fields := bytes.Fields(line)
		if len(fields) != 2 || string(fields[0]) != id+"."+strconv.Itoa(n) {
			continue
		}
		if n == ringSize || !base64Text.Match(fields[1]) {
			n = -1
			break
		}
		r[n] = bytes.Clone(fields[1])
		n++
	}
	if n != ringSize {
		r.wipe()
		return nil, errors.New("HAProxy does not show the three keys of its file; the socket needs level admin")
	}
	return &r, nil
}
