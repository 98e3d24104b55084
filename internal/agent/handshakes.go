package agent

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"sync"
)

// Handshakes counts the TLS handshakes of clients since the server started, as it counts
// them itself.
type Handshakes struct {
	Frontend      string // the part of the server that made them
	Full, Resumed uint64
}

// handshakeCounter is a holder of a server that counts handshakes.
type handshakeCounter interface {
	Handshakes(ctx context.Context) ([]Handshakes, error)
}

// Handshakes asks the servers for their handshakes, and returns them by the name of the
// target. Targets are missing whose server does not count, or does not answer in time.
func (a *Agent) Handshakes() map[string][]Handshakes {
	ctx, cancel := context.WithTimeout(context.Background(), socketTimeout)
	defer cancel()
	var mu sync.Mutex
	all := make(map[string][]Handshakes)
	var asking sync.WaitGroup
	for _, t := range a.targets {
		if counter, ok := t.holder.(handshakeCounter); ok {
			asking.Go(func() {
				if counts, err := counter.Handshakes(ctx); err == nil {
					mu.Lock()
					defer mu.Unlock()
					all[t.Name] = counts
				}
			})
		}
	}
	asking.Wait()
	return all
}

// Handshakes asks HAProxy for those of its frontends.
func (h *haproxyHolder) Handshakes(ctx context.Context) ([]Handshakes, error) {
	answer, err := h.ask(ctx, []byte("show stat -1 1 -1\n"))
	if err != nil {
		return nil, err
	}
	return parseHandshakes(answer)
}

var (
	frontendPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,256}$`)
	errNoHandshakes = errors.New("HAProxy does not tell its handshakes")
)

// parseHandshakes reads the answer to "show stat", CSV with a line of names. It omits
// frontends without a handshake, which may be without TLS.
func parseHandshakes(answer []byte) ([]Handshakes, error) {
	lines, err := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(answer, []byte("# ")))).ReadAll()
	if err != nil || len(lines) == 0 {
		return nil, errNoHandshakes
	}
	frontend, full, resumed := slices.Index(lines[0], "pxname"), slices.Index(lines[0], "ssl_sess"), slices.Index(lines[0], "ssl_reused_sess")
	if frontend < 0 || full < 0 || resumed < 0 { // before HAProxy 2.4
		return nil, errNoHandshakes
	}
	var all []Handshakes
	for _, line := range lines[1:] {
		h := Handshakes{Frontend: line[frontend]}
		var fullErr, resumedErr error
		h.Full, fullErr = strconv.ParseUint(line[full], 10, 64)
		h.Resumed, resumedErr = strconv.ParseUint(line[resumed], 10, 64)
		known := slices.ContainsFunc(all, func(other Handshakes) bool { return other.Frontend == h.Frontend })
		if fullErr != nil || resumedErr != nil || known || !frontendPattern.MatchString(h.Frontend) {
			return nil, errNoHandshakes
		}
		if h.Full+h.Resumed > 0 {
			all = append(all, h)
		}
	}
	return all, nil
}
