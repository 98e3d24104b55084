// Package consumers tracks which generation of the ticket keys each consumer holds.
//
// A consumer is anything that holds ticket keys and reports it. A [Table] keeps the
// last report of each. A name belongs to the identity that reported it until the report
// expires. Then the consumer is missing, and after [MissingFor] it is forgotten.
//
// Nodes that share a [Store] have the same table. Each keeps a copy. Of two records
// with the same name, the newer one wins.
package consumers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sessapi/sessapi/internal/keys"
)

const (
	// Max is the maximum number of consumers in a table.
	Max = 4096
	// MissingFor is how long a consumer is missing before it is forgotten.
	MissingFor = 24 * time.Hour
	// MinExpiry is the minimum of [Report.ExpiresIn].
	MinExpiry = 10 * time.Second
	// MaxExpiry is the maximum of [Report.ExpiresIn].
	MaxExpiry = time.Hour

	maxDetail = 256 // bytes
	// maxRecords limits a table, including the records of forgotten consumers.
	maxRecords = 2 * Max
)

var (
	// ErrNotFound reports that no consumer has this name.
	ErrNotFound = errors.New("consumers: no consumer with this name")
	// ErrTooMany reports a new consumer beyond [Max].
	ErrTooMany = fmt.Errorf("consumers: there are %d consumers already", Max)
	// ErrOwned reports a name that belongs to another identity.
	ErrOwned = errors.New("consumers: the name belongs to another identity")
)

// InvalidError describes an invalid name or report.
type InvalidError struct{ Field, Reason string }

func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }

// State is the state of a consumer.
type State string

// The states of consumers. Consumers report the first three.
const (
	Current  State = "current"  // holds the active generation
	Applying State = "applying" // is changing to other keys
	Failed   State = "failed"   // could not change
	Stale    State = "stale"    // reported current, but holds an older generation than the active one
	Missing  State = "missing"  // its report has expired
)

// States returns all states.
func States() []State { return []State{Current, Stale, Applying, Failed, Missing} }

// Report is what a consumer reports.
type Report struct {
	Kind       string        `json:"kind"`
	Generation uint64        `json:"generation"` // of the keys that it holds; 0 for none
	State      State         `json:"state"`
	Detail     string        `json:"detail,omitempty"`
	ExpiresIn  time.Duration `json:"expires_in"`
}

var wordPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

func (r *Report) check() error {
	switch {
	case !wordPattern.MatchString(r.Kind):
		return &InvalidError{"kind", wordReason}
	case r.State != Current && r.State != Applying && r.State != Failed:
		return &InvalidError{"state", "must be current, applying or failed"}
	case len(r.Detail) > maxDetail || !utf8.ValidString(r.Detail) || strings.ContainsFunc(r.Detail, unicode.IsControl):
		return &InvalidError{"detail", fmt.Sprintf("must be text of %d bytes at most, without control characters", maxDetail)}
	case r.ExpiresIn < MinExpiry || r.ExpiresIn > MaxExpiry:
		return &InvalidError{"expires_in_seconds", fmt.Sprintf("must be from %d to %d", MinExpiry/time.Second, MaxExpiry/time.Second)}
	}
	return nil
}

const wordReason = "must be 1 to 64 of letters, digits and ._:-"

// MakeName returns the name of the consumer target on host.
func MakeName(host, target string) (string, error) {
	if !wordPattern.MatchString(host) {
		return "", &InvalidError{"host", wordReason}
	}
	if !wordPattern.MatchString(target) {
		return "", &InvalidError{"target", wordReason}
	}
	return host + "/" + target, nil
}

// isName reports whether name is a possible result of MakeName.
func isName(name string) bool {
	host, target, found := strings.Cut(name, "/")
	return found && wordPattern.MatchString(host) && wordPattern.MatchString(target)
}

// Record is the stored state of a consumer.
type Record struct {
	Report
	Identity   string    `json:"identity,omitempty"` // reporter; "" if nobody has an identity
	ReportedAt time.Time `json:"reported_at"`
	Since      time.Time `json:"since"` // when this state and generation were first reported
	ExpiresAt  time.Time `json:"expires_at"`
	// Forgotten marks a consumer that every node must forget. ReportedAt is then the
	// time of the deletion. The mark outlives every copy of an earlier report.
	Forgotten bool `json:"forgotten,omitempty"`
}

// Until returns when the record is dropped.
func (r Record) Until() time.Time { return r.ExpiresAt.Add(MissingFor) }

// known reports whether the consumer exists, perhaps as missing.
func (r Record) known(now time.Time) bool {
	return !r.ReportedAt.IsZero() && !r.Forgotten && now.Before(r.Until())
}

// live reports whether the consumer exists and is not missing.
func (r Record) live(now time.Time) bool { return !r.Forgotten && now.Before(r.ExpiresAt) }

// Store shares records with the tables of other nodes.
type Store interface {
	// Update replaces the record with the result of change, and returns it. change gets
	// the zero Record if there is none. It may be called several times. Its error ends
	// the update.
	Update(ctx context.Context, name string, change func(old Record) (Record, error)) (Record, error)
	// Known reports whether the table has everything that the others have reported.
	Known() bool
}

// Table keeps the consumers. It is safe for concurrent use.
type Table struct {
	now   func() time.Time
	store Store // nil without one

	mu        sync.Mutex // guards what follows
	records   map[string]Record
	consumers int    // records of consumers that are not forgotten
	changes   uint64 // of records

	woken chan struct{} // has a token after a change
}

// New returns an empty table. now is the clock. The nodes that share store should have
// the same time. store may be nil.
func New(now func() time.Time, store Store) *Table {
	return &Table{now: now, store: store, records: make(map[string]Record), woken: make(chan struct{}, 1)}
}

// Put stores a report. The error is [ErrOwned], [ErrTooMany], an [*InvalidError] or one
// of the store. After an error, nothing has changed.
func (t *Table) Put(ctx context.Context, name, identity string, r Report) error {
	if err := r.check(); err != nil {
		return err
	}
	return t.update(ctx, name, func(old Record) (Record, error) {
		now := t.wall()
		live := old.live(now)
		if live && old.Identity != identity {
			return Record{}, ErrOwned
		}
		fresh := Record{Report: r, Identity: identity, ReportedAt: after(now, old), Since: now, ExpiresAt: now.Add(r.ExpiresIn)}
		if live && old.State == r.State && old.Generation == r.Generation {
			fresh.Since = old.Since
		}
		return fresh, nil
	})
}

// Has reports whether a consumer has this name.
func (t *Table) Has(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.records[name].known(t.now())
}

// Delete forgets a consumer. The error is [ErrNotFound] or one of the store.
func (t *Table) Delete(ctx context.Context, name string) error {
	return t.update(ctx, name, func(old Record) (Record, error) {
		now := t.wall()
		if !old.known(now) {
			return Record{}, ErrNotFound
		}
		return Record{Report: Report{ExpiresIn: MaxExpiry}, ReportedAt: after(now, old), ExpiresAt: now.Add(MaxExpiry), Forgotten: true}, nil
	})
}

// wall returns the time without the monotonic clock, as stored.
func (t *Table) wall() time.Time { return t.now().Round(0).UTC() }

// after returns now, or a time just after the old record if that is later: a clock may
// be set back, and the clocks of nodes differ.
func after(now time.Time, old Record) time.Time {
	if !now.After(old.ReportedAt) {
		return old.ReportedAt.Add(1)
	}
	return now
}

// update changes a record, first in the store.
func (t *Table) update(ctx context.Context, name string, change func(old Record) (Record, error)) error {
	if t.store == nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		fresh, err := change(t.records[name])
		if err != nil {
			return err
		}
		if fresh.Forgotten { // no other table has a copy
			t.drop(name)
			return nil
		}
		return t.keep(name, fresh)
	}
	t.mu.Lock()
	err := t.room(name)
	t.mu.Unlock()
	if err != nil {
		return err
	}
	fresh, err := t.store.Update(ctx, name, func(old Record) (Record, error) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if known := t.records[name]; known.ReportedAt.After(old.ReportedAt) { // the store lost it
			old = known
		}
		return change(old)
	})
	if err == nil {
		t.Merge(name, fresh)
	}
	return err
}

// keep stores the record of a consumer if there is room. The table is locked.
func (t *Table) keep(name string, r Record) error {
	if err := t.room(name); err != nil {
		return err
	}
	t.drop(name)
	t.records[name] = r
	t.consumers++
	return nil
}

// drop drops a record. The table is locked.
func (t *Table) drop(name string) {
	if old, found := t.records[name]; found && !old.Forgotten {
		t.consumers--
	}
	delete(t.records, name)
	t.changes++
	select {
	case t.woken <- struct{}{}:
	default: // there is a token already
	}
}

// room returns [ErrTooMany] if there is no room for the consumer. The table is locked.
func (t *Table) room(name string) error {
	if old, found := t.records[name]; found && !old.Forgotten || t.consumers < Max {
		return nil
	}
	if t.sweep(); t.consumers < Max {
		return nil
	}
	return ErrTooMany
}

// sweep drops outdated records. The table is locked.
func (t *Table) sweep() {
	now := t.now()
	for name, r := range t.records {
		if !now.Before(r.Until()) {
			t.drop(name)
		}
	}
}

// Merge adds a record from the store, unless the table has a newer one.
func (t *Table) Merge(name string, r Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, found := t.records[name]; found && !r.ReportedAt.After(old.ReportedAt) {
		return
	}
	if !r.Forgotten {
		_ = t.keep(name, r) // beyond the limit, only the store keeps it
		return
	}
	if t.drop(name); len(t.records) < maxRecords {
		t.records[name] = r
	}
}

// Records returns all records, including those of forgotten consumers.
func (t *Table) Records() map[string]Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep()
	return maps.Clone(t.records)
}

// Consumer describes a consumer now.
type Consumer struct {
	Name string
	Record
	Behind bool // whether its generation is older than the active one
}

// List describes all consumers by name, compared with the active set.
func (t *Table) List(active keys.Description) []Consumer {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep()
	now := t.now()
	list := make([]Consumer, 0, len(t.records))
	for name, r := range t.records {
		if !r.Forgotten {
			list = append(list, describe(name, r, active, now))
		}
	}
	slices.SortFunc(list, func(a, b Consumer) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Behind returns the consumers that do not hold the active set and are not missing, and
// whether the table has all consumers.
func (t *Table) Behind(active keys.Description) (names []string, known bool) {
	for _, c := range t.List(active) {
		if c.State != Current && c.State != Missing {
			names = append(names, c.Name)
		}
	}
	return names, t.store == nil || t.store.Known()
}

// describe compares the record of a consumer with the active set.
func describe(name string, r Record, active keys.Description, now time.Time) Consumer {
	c := Consumer{Name: name, Record: r, Behind: r.Generation < active.Generation}
	switch {
	case !r.live(now):
		c.State, c.Since = Missing, r.ExpiresAt
	case r.State == Current && c.Behind:
		c.State, c.Since = Stale, overtaken(r.Generation, active)
	}
	return c
}

// overtaken returns when the oldest key was made that a consumer of the generation does
// not hold. A generation is the time of a change in milliseconds.
func overtaken(generation uint64, active keys.Description) time.Time {
	since := active.UpdatedAt
	for _, k := range active.Keys {
		if uint64(max(0, k.CreatedAt.UnixMilli())) > generation && k.CreatedAt.Before(since) {
			since = k.CreatedAt
		}
	}
	return since
}

// Count returns the number of consumers in each state. It has every state.
func Count(list []Consumer) map[State]int {
	count := make(map[State]int)
	for _, state := range States() {
		count[state] = 0
	}
	for _, c := range list {
		count[c.State]++
	}
	return count
}
