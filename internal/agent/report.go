package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/sessapi/sessapi/client"
)

const (
	// heartbeat is how often each target is reported without a change. reportLife is
	// how long the service trusts a report.
	heartbeat  = 30 * time.Second
	reportLife = 100 * time.Second
)

// Report is part of [source].
func (n *nodes) Report(ctx context.Context, name string, r Report) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return n.try(&n.told, func(c *client.Client) error {
		report := client.ConsumerReport{
			Kind: r.Kind, Generation: r.Generation, State: client.ConsumerReportState(r.State),
			ExpiresInSeconds: int64(reportLife.Seconds()),
		}
		if r.Detail != "" {
			report.Detail = &r.Detail
		}
		return c.ReportConsumer(ctx, n.host, name, report)
	})
}

// report reports each target when it changes, and as a heartbeat, until ctx ends. While
// the service is away, the newest state waits.
func (a *Agent) report(ctx context.Context) {
	told := make([]Report, len(a.targets))
	toldAt := make([]time.Time, len(a.targets))
	failures := 0
	var warned time.Time
	for {
		pause := heartbeat
		for i, t := range a.targets {
			r, known := t.Report()
			if !known || r == told[i] && time.Since(toldAt[i]) < heartbeat {
				continue
			}
			if err := a.source.Report(ctx, t.Name, r); err != nil {
				if ctx.Err() != nil {
					return
				}
				a.reportFailures.Add(1)
				pause = min(pause, retryPause(failures, err))
				failures++
				if time.Since(warned) >= warnEvery {
					warned = time.Now()
					a.log.Warn("cannot report to the service", slog.String("target", t.Name), slog.String("error", err.Error()), slog.Duration("retry_in", pause))
				}
				continue
			}
			told[i], toldAt[i] = r, time.Now()
			failures = 0
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-a.reportSoon:
			timer.Stop()
			if failures > 0 && !sleep(ctx, retryPause(failures, nil)) {
				return
			}
		case <-timer.C:
		}
	}
}
