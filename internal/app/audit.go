package app

import (
	"context"
	"fmt"
	"os"

	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/metrics"
)

// openAudit must come first: other parts record what they open and reload.
func openAudit(a *App) (part, error) {
	path := a.cfg.AuditLog
	if path == "" {
		return part{}, nil
	}
	log, err := audit.Open(path)
	if err != nil {
		return part{}, fmt.Errorf("--audit-log: %w", err)
	}
	if info, err := os.Stat(path); path != audit.Stderr && err == nil && info.Mode().IsRegular() {
		files.WarnLoose(a.log, "audit log", path, info.Mode(), files.Trusted)
	}
	a.handlers.Audit = log
	return part{
		name: "audit_log",
		reload: func() {
			if err := log.Reopen(); err != nil {
				a.log.Error("cannot reopen the audit log; operations that need a record are refused until it can be reopened", "error", err.Error())
			}
		},
		stop:    func(context.Context) error { return log.Close() },
		health:  log.Health,
		metrics: func(m *metrics.Metrics) { m.AddAudit(log) },
	}, nil
}

// recordKeys records changes of the ticket keys that the service makes itself; nil
// without an audit log.
func (a *App) recordKeys(source string) keys.Record {
	if a.handlers.Audit == nil {
		return nil
	}
	return func(before, after keys.Description, failure error) error {
		e := handlers.KeyChange(before, after, failure)
		e.Operation, e.Source = "ticket keys", source
		return a.handlers.Audit.Record(e)
	}
}

// recordFile records that the content of a settings file is about to take effect.
func (a *App) recordFile(operation, source, detail string) error {
	if a.handlers.Audit == nil {
		return nil
	}
	return a.handlers.Audit.Record(audit.Event{Operation: operation, Outcome: audit.Applied, Source: source, Detail: detail})
}
