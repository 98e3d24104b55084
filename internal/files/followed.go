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

// ErrPostponed is why content is not taken now, but will be soon: nothing failed.
var ErrPostponed = errors.New("postponed")

// Followed has the content of files taken when it changes. While that fails, what
// was taken before stays, and a failure that goes on is counted and logged once.
// All methods are safe for concurrent use.
type Followed struct {
	name string
	log  *slog.Logger
	take func() (changed bool, err error)

	taking sync.Mutex // held while take runs

	mu     sync.Mutex // guards status, so that nobody waits for a slow disk to read it
	status Status
}

// Status is how files are doing.
type Status struct {
	LastError string    // why their content cannot be taken now; empty when it can
	FailedAt  time.Time // when that was found; zero when LastError is empty
	Failures  uint64    // how often a failure was found or, with Reload, found again
}

// Follow returns files that take reads, of which one call runs at a time. It has
// taken them once; when that failed, its error is returned. take tells whether
// their content is another than it took before, and logs what it has taken. The
// name says in the log which files they are.
func Follow(log *slog.Logger, name string, take func() (changed bool, err error)) (*Followed, error) {
	if _, err := take(); err != nil {
		return nil, err
	}
	return &Followed{name: name, log: log, take: take}, nil
}

// Watch has the files taken whenever they change, within a second, until ctx ends.
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

// Check has the files taken now if they have changed.
func (f *Followed) Check() { f.check(false) }

// Reload is Check for who asked for it, and so is told also that nothing has
// changed, or of a failure that goes on.
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

// Status returns how the files are doing.
func (f *Followed) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}
