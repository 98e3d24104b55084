package app

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/config"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/fleet"
	"github.com/sessapi/sessapi/internal/handlers"
	"github.com/sessapi/sessapi/internal/metrics"
	"github.com/sessapi/sessapi/internal/seal"
	"github.com/sessapi/sessapi/internal/state"
	"github.com/sessapi/sessapi/internal/tracing"
)

func openSealKeys(a *App) (_ part, err error) {
	a.sealKeys, err = readSealKeys(a.cfg, a.log)
	return part{}, err
}

// readSealKeys reads the seal keys; nil without a file. It warns if other users can
// read the file.
func readSealKeys(c config.Config, log *slog.Logger) (*seal.Keys, error) {
	if c.SealKeyFile == "" {
		return nil, nil
	}
	sealKeys, mode, err := seal.ReadKeys(c.SealKeyFile)
	if err != nil {
		return nil, fmt.Errorf("--seal-key-file: %w", err)
	}
	files.WarnLoose(log, "seal key file", c.SealKeyFile, mode, files.Secret)
	return sealKeys, nil
}

func openState(a *App) (part, error) {
	if a.cfg.StateFile == "" {
		return part{}, nil
	}
	file, err := state.Open(a.cfg.StateFile, a.sealKeys, a.log)
	if err != nil {
		return part{}, fmt.Errorf("--state-file: %w", err)
	}
	a.state = file
	return part{
		name:    "state_file",
		stop:    func(context.Context) error { return file.Close() },
		health:  file.Health,
		status:  func(s *api.Status) { s.StateFile = &api.StateFileStatus{Failing: file.Failing()} },
		metrics: func(m *metrics.Metrics) { m.AddState(file) },
	}, nil
}

// openCache creates the session cache. Unless the fleet has the sessions, they are
// restored from the state file and saved to it.
func openCache(a *App) (part, error) {
	if !a.cfg.Cache {
		return part{}, nil
	}
	var observer cache.Observer = a.handlers.Events
	if a.cfg.Redis != "" {
		observer = fleet.OfCopies(observer)
	}
	sessions, err := cache.New(cache.Config{
		Memory:          int64(a.cfg.CacheMemory),
		MaxSessions:     a.cfg.CacheMaxSessions,
		MaxSessionBytes: int(a.cfg.SessionMaxBytes),
		Observer:        observer,
	})
	if err != nil {
		return part{}, fmt.Errorf("--cache-memory: %w", err)
	}
	a.handlers.Cache, a.handlers.Sessions = sessions, handlers.Local(sessions)
	a.log.Info("session cache", "bytes", int64(a.cfg.CacheMemory),
		"memory_locked", sessions.Locked(), "memory_dumpable", sessions.Dumpable())
	p := part{
		name:    "session_cache",
		stop:    func(context.Context) error { sessions.Close(); return nil },
		metrics: func(m *metrics.Metrics) { m.AddCache(sessions) },
	}
	if a.state == nil || a.cfg.Redis != "" {
		return p, nil
	}
	restored, err := a.state.RestoreSessions(sessions, a.cfg.SessionMaxTTL)
	if err != nil {
		return p, fmt.Errorf("--state-file: %w", err)
	}
	a.log.Info("sessions restored", "sessions", restored)
	p.run = func(ctx context.Context) { a.state.KeepSessions(ctx, sessions) }
	p.stop = func(ctx context.Context) error {
		err := within(ctx, func() error { return a.state.SaveSessions(ctx, sessions) })
		sessions.Close()
		return err
	}
	return p, nil
}

// flushing also removes the sessions of the state file, which may be from before the
// service joined a fleet.
type flushing struct {
	handlers.Sessions
	file *state.File
}

// Flush is part of [handlers.Sessions].
func (s flushing) Flush(ctx context.Context) (removed int, err error) {
	ctx, span := tracing.Start(ctx, "flush sessions")
	defer func() { span.End(err) }()
	return s.file.FlushSessions(func() (int, error) { return s.Sessions.Flush(ctx) })
}
