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
	etag, failures := "", 0
	for {
		began := time.Now()
		fetched := false
		newETag, data, err := c.fetch(ctx, wait+grace, format, key, etag, wait)
		if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusNotModified && etag != "" {
			newETag, err = etag, nil
		}
		if err == nil && newETag != etag {
			fetched = true
			err = take(data)
		}
		clear(data)
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
