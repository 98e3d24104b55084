package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/sessapi/sessapi/internal/api"
)

const (
	// wait is how long the service is asked to hold a request while nothing
	// changes, and grace how much longer its answer may take.
	wait  = 60 * time.Second
	grace = 15 * time.Second

	// interval is the least time from one request to the next: a service, or a
	// proxy before it, may not hold them.
	interval = time.Second

	// Failures in a row are each followed by twice the pause, from the first to
	// the longest.
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 30 * time.Second
	// settle is that after a change, for another may follow at once.
	settle = 50 * time.Millisecond
	// maxRetryAfter bounds what the service may ask for instead.
	maxRetryAfter = 5 * time.Minute

	seedSize = 32 // of crypto/tls's SetSessionTicketKeys, in bytes
	maxSeeds = 64 // as many as a set has keys
)

// Watch calls take with the active set in the format of a server, as [Client.Format]
// returns it. It calls take again after each change, until ctx ends, and returns the cause
// of the end. data is wiped when take returns.
//
//   - A request waits at the service for the next change, and returns at once when it
//     happens. If a proxy does not let it wait, Watch asks every second.
//   - A failure, also one of take, is logged and retried. The pause doubles with each failure
//     in a row. A random part of up to half is taken off, so that a fleet does not return all
//     at once. The pause is never shorter than the service asks for.
//   - The log tells a failing service from a failing take, and says when both work again.
func (c *Client) Watch(ctx context.Context, format string, key *int, take func(data []byte) error) error {
	return c.follow(ctx, format, func(etag string) (string, [][]byte, error) {
		newETag, data, err := c.fetch(ctx, wait+grace, format, key, etag, wait)
		return newETag, [][]byte{data}, err
	}, func(files [][]byte) error { return take(files[0]) })
}

// WatchFiles is [Client.Watch] for formats with one key in a file: take gets the result of
// [Client.Files].
func (c *Client) WatchFiles(ctx context.Context, format string, n int, take func(files [][]byte) error) error {
	return c.follow(ctx, format, func(etag string) (string, [][]byte, error) {
		return c.fetchFiles(ctx, wait+grace, format, n, etag, wait)
	}, take)
}

// Files returns the first n keys of the active set, or all if there are fewer, in a format
// with one key in a file. All are of one generation. The caller must wipe them.
func (c *Client) Files(ctx context.Context, format string, n int) ([][]byte, error) {
	_, files, err := c.fetchFiles(ctx, requestTimeout, format, n, "", 0)
	return files, err
}

// maxMoves is how often files are fetched anew because the set has changed meanwhile.
const maxMoves = 10

// fetchFiles is fetch for the first n files of one set.
func (c *Client) fetchFiles(ctx context.Context, timeout time.Duration, format string, n int, etag string, wait time.Duration) (newETag string, files [][]byte, err error) {
	for range maxMoves {
		newETag, first, err := c.fetch(ctx, timeout, format, new(0), etag, wait)
		if err != nil || etag != "" && newETag == etag {
			return newETag, nil, err
		}
		files, err := c.fetchOthers(ctx, format, n, newETag, [][]byte{first})
		if err == nil {
			return newETag, files, nil
		}
		wipe(files)
		if !errors.Is(err, errMoved) {
			return "", nil, err
		}
	}
	return "", nil, errMoved
}

var errMoved = errors.New("the keys changed while their files were fetched")

// fetchOthers appends the files after the first one.
func (c *Client) fetchOthers(ctx context.Context, format string, n int, etag string, files [][]byte) ([][]byte, error) {
	for i := 1; i < n; i++ {
		itsETag, data, err := c.fetch(ctx, requestTimeout, format, &i, "", 0)
		if e, ok := errors.AsType[*Error](err); ok && e.Code == string(api.ProblemCodeKeyNotFound) {
			return files, nil // the set has no more
		}
		if err != nil {
			return files, err
		}
		files = append(files, data)
		if itsETag != etag {
			return files, errMoved
		}
	}
	return files, nil
}

func wipe(files [][]byte) {
	for _, data := range files {
		clear(data)
	}
}

// follow fetches over and over until ctx ends, and calls take with each new set. fetch
// gets the ETag of the set that was taken last.
func (c *Client) follow(ctx context.Context, format string, fetch func(etag string) (string, [][]byte, error), take func(files [][]byte) error) error {
	etag, failures := "", 0
	for {
		began := time.Now()
		fetched := false
		newETag, files, err := fetch(etag)
		if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusNotModified && etag != "" {
			newETag, err = etag, nil
		}
		if err == nil && newETag != etag {
			fetched = true
			err = take(files)
		}
		wipe(files)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pause := interval - time.Since(began)
		if err == nil {
			if newETag != etag {
				pause = min(pause, settle)
			}
			if failures > 0 {
				c.log.Info("the ticket keys are up to date again", slog.String("format", format), slog.Int("failures", failures))
			}
			etag, failures = newETag, 0
		} else {
			pause = backoff(failures, err)
			failures++
			log := c.log.With(slog.String("format", format), slog.Duration("retry_in", pause), slog.String("error", err.Error()))
			if fetched {
				log.Warn("cannot apply the ticket keys")
			} else {
				log.Warn("cannot fetch the ticket keys; keeping the last ones")
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// backoff is the pause after err, which so many failures came before.
func backoff(failures int, err error) time.Duration {
	longest := min(firstBackoff<<min(failures, 16), maxBackoff)
	pause := longest - rand.N(longest/2)
	if e, ok := errors.AsType[*Error](err); ok {
		pause = max(pause, min(e.RetryAfter, maxRetryAfter))
	}
	return pause
}

// FollowTicketKeys keeps the session ticket keys of config equal to those of the service,
// as [Client.Watch] does, until ctx ends, and returns the cause of the end. config encrypts
// with the current key and decrypts with all keys. Only Go servers resume these tickets: the
// keys are derived from those of the set.
//
// Before the first keys arrive, config keeps its own, which may be Go's automatic keys.
// Afterwards Go no longer rotates keys. If the service does not answer, the last keys stay,
// however long that takes.
//
// config must be the configuration that serves the connections. ServeTLS and
// ListenAndServeTLS of [http.Server] serve with a copy of its TLSConfig, which the keys do
// not reach: give the server a TLSConfig whose GetConfigForClient returns config.
// [tls.NewListener] serves with config itself. [Client.ShareSessions] also reaches copies.
func (c *Client) FollowTicketKeys(ctx context.Context, config *tls.Config) error {
	return c.Watch(ctx, "go", nil, func(data []byte) error {
		seeds, err := parseSeeds(data)
		defer clear(seeds)
		if err != nil {
			return err
		}
		config.SetSessionTicketKeys(seeds)
		return nil
	})
}

// parseSeeds reads the format go: seeds for SetSessionTicketKeys, each a line of
// base64, the first of which encrypts. The caller must wipe them, also those
// that come with an error.
func parseSeeds(data []byte) ([][seedSize]byte, error) {
	seeds := make([][seedSize]byte, 0, maxSeeds)
	var buf [seedSize + 1]byte // with what base64 has room for in its padding
	defer clear(buf[:])
	for line := range bytes.Lines(data) {
		if len(seeds) == maxSeeds {
			return seeds, fmt.Errorf("the service sent more than %d keys", maxSeeds)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) != base64.StdEncoding.EncodedLen(seedSize) {
			return seeds, fmt.Errorf("line %d of the service's keys has %d characters, not %d bytes in base64", len(seeds)+1, len(line), seedSize)
		}
		if n, err := base64.StdEncoding.Strict().Decode(buf[:], line); err != nil || n != seedSize {
			return seeds, fmt.Errorf("line %d of the service's keys is not %d bytes in base64", len(seeds)+1, seedSize)
		}
		seeds = append(seeds, [seedSize]byte(buf[:seedSize]))
	}
	if len(seeds) == 0 {
		return nil, errors.New("the service sent no keys")
	}
	return seeds, nil
}
