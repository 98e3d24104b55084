package files

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// pollEvery is how often the files are read. They are small: reading them costs
// less than knowing of every way in which they can change.
const pollEvery = time.Second

// ErrPostponed reports that a changed file will be loaded soon, but not now. It is no
// failure.
var ErrPostponed = errors.New("postponed")

// Followed reloads files when their content changes. While reloading fails, the
// previous content stays in use; a failure that persists is counted and logged once.
// All methods are safe for concurrent use.
type Followed struct {
	name string
	log  *slog.Logger
	take func() (changed bool, err error)

	taking sync.Mutex // held while take runs

	mu     sync.Mutex // guards status, so that nobody waits for a slow disk to read it
	status Status
}

// Status is the state of followed files.
type Status struct {
	LastError string    // why their content cannot be taken now; empty when it can
	FailedAt  time.Time // when that was found; zero when LastError is empty
	Failures  uint64    // how often a failure was found or, with Reload, found again
}

// Follow loads the files by calling take, and returns its error if that fails. take
// loads the files, logs what it has loaded, and reports whether their content has
// changed since the last call. Calls of take never overlap. The name says in the log
// which files they are.
func Follow(log *slog.Logger, name string, take func() (changed bool, err error)) (*Followed, error) {
	if _, err := take(); err != nil {
		return nil, err
	}
	return &Followed{name: name, log: log, take: take}, nil
}

// Watch reloads the files within a second of each change, until ctx ends.
func (f *Followed) Watch(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		f.Check()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Check reloads the files now, if they have changed.
func (f *Followed) Check() { f.check(false) }

// Reload is Check on request, as by SIGHUP: it also logs that nothing has changed, and
// a failure that persists.
func (f *Followed) Reload() { f.check(true) }

func (f *Followed) check(tell bool) {
	f.taking.Lock()
	defer f.taking.Unlock()
	changed, err := f.take()
	switch {
	case err == nil:
		switch {
		case f.Status().LastError != "":
			f.log.Info("reload works again", slog.String("name", f.name))
		case tell && !changed:
			f.log.Info("unchanged", slog.String("name", f.name))
		}
		f.set(func(s *Status) { s.LastError, s.FailedAt = "", time.Time{} })
	case !tell && err.Error() == f.Status().LastError:
	case errors.Is(err, ErrPostponed):
		f.log.Warn("reload postponed; keeping the previous version until then", slog.String("name", f.name), slog.String("cause", err.Error()))
		f.set(func(s *Status) { s.LastError, s.FailedAt = err.Error(), time.Now() })
	default:
		f.log.Error("reload failed; keeping the previous version", slog.String("name", f.name), slog.String("error", err.Error()))
		f.set(func(s *Status) { s.LastError, s.FailedAt, s.Failures = err.Error(), time.Now(), s.Failures+1 })
	}
}

func (f *Followed) set(change func(*Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
}

// Status returns the state of the files.
func (f *Followed) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}
