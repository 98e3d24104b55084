package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"
)

// SaveEvery is how often [Table.SaveWhenChanged] saves.
const SaveEvery = 10 * time.Second

// ErrInvalidState reports data that is not the state of a table.
var ErrInvalidState = errors.New("consumers: not a consumer state that this version can read")

const stateVersion = 1

// state is the stored form of a table.
type state struct {
	Version int               `json:"version"`
	SavedAt time.Time         `json:"saved_at"`
	Records map[string]Record `json:"records"`
}

// encode returns the state of the table, and the number of changes in it.
func (t *Table) encode() (data []byte, changes uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep()
	data, err := json.Marshal(state{stateVersion, t.now(), t.records})
	if err != nil { // a struct of texts, numbers and times always marshals
		panic(err)
	}
	return data, t.changes
}

// Save saves the state of the table.
func (t *Table) Save(save func(state []byte) error) error {
	data, _ := t.encode()
	return save(data)
}

// SaveWhenChanged saves changes every [SaveEvery] until ctx ends.
func (t *Table) SaveWhenChanged(ctx context.Context, save func(state []byte) error, log *slog.Logger) {
	tick := time.NewTicker(SaveEvery)
	defer tick.Stop()
	saved := t.changed()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if t.changed() == saved {
			continue
		}
		data, changes := t.encode()
		if err := save(data); err != nil {
			log.Error("cannot save the consumers; keeping the previous file", slog.String("error", err.Error()))
			continue
		}
		saved = changes
	}
}

func (t *Table) changed() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changes
}

// Restore adds the saved consumers. Consumers that were not missing at the time stay so
// for the duration of their reports. The error is [ErrInvalidState]. After an error,
// nothing is added.
func (t *Table) Restore(data []byte) error {
	var s state
	if json.Unmarshal(data, &s) != nil || s.Version != stateVersion {
		return ErrInvalidState
	}
	for name, r := range s.Records {
		if !isName(name) || !r.valid() {
			return ErrInvalidState
		}
	}
	now := t.wall()
	for name, r := range s.Records {
		// The clock may have been ahead.
		r.ReportedAt = earlier(r.ReportedAt, now)
		r.Since = earlier(r.Since, now)
		r.ExpiresAt = earlier(r.ExpiresAt, now.Add(r.ExpiresIn))
		t.Merge(name, r)
	}
	t.Revive(s.SavedAt)
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Encode returns the record in the form that a [Store] keeps.
func (r Record) Encode() []byte {
	data, err := json.Marshal(r)
	if err != nil { // a struct of texts, numbers and times always marshals
		panic(err)
	}
	return data
}

// DecodeRecord is the reverse of [Record.Encode]. The error is [ErrInvalidState].
func DecodeRecord(data []byte) (r Record, err error) {
	if json.Unmarshal(data, &r) != nil || !r.valid() {
		return Record{}, ErrInvalidState
	}
	return r, nil
}

// valid reports whether a table may hold the record.
func (r Record) valid() bool { return !r.ReportedAt.IsZero() && (r.Forgotten || r.check() == nil) }

// Revive makes the reports of consumers that were not missing at since start now: in
// between, the service could receive none.
func (t *Table) Revive(since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.wall()
	for name, r := range t.records {
		if again := now.Add(r.ExpiresIn); r.live(since) && again.After(r.ExpiresAt) {
			r.ExpiresAt = again
			t.records[name] = r
		}
	}
}
