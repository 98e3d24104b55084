package fleet

import (
	"sync"

	"github.com/sessapi/sessapi/internal/cache"
)

// table knows the reads and writes of sessions that are under way, so that
//   - reads of one session at a time make one call of Redis;
//   - what a read brought does not get into the local cache when the session has
//     changed since Redis was asked, and what a write stored does not when
//     another write came between;
//   - a read that begins after a change does not wait for one from before it.
type table struct {
	local *cache.Cache

	mu      sync.Mutex // guards what follows, and is held for every write to local
	entries map[cache.ID]*entry
	trusted bool // what Redis answers may be kept: it tells of changes
}

// entry is what is under way for one session.
type entry struct {
	fetch     *flight // that further reads may join; nil without one
	writes    int
	disturbed bool // another write came between, of this node or another
}

// flight is a read of Redis.
type flight struct {
	done    chan struct{} // closed when it is over; then what follows is set
	waiting int           // who has not taken a copy yet; guarded by the table, then by mu
	stale   bool          // the session has changed since; guarded by the table

	mu    sync.Mutex
	data  []byte // a copy for those who wait; the last one wipes it
	entry cache.Entry
	ok    bool
}

func (t *table) init(local *cache.Cache) {
	t.local, t.entries = local, make(map[cache.ID]*entry)
}

// at returns the entry of a session. The table is locked.
func (t *table) at(id cache.ID) *entry {
	e := t.entries[id]
	if e == nil {
		e = new(entry)
		t.entries[id] = e
	}
	return e
}

// release drops an entry that nothing is under way for. The table is locked.
func (t *table) release(id cache.ID, e *entry) {
	if e.fetch == nil && e.writes == 0 {
		delete(t.entries, id)
	}
}

// detach has later reads ask Redis again, and what the one under way brings is
// not kept. The table is locked.
func (e *entry) detach() {
	if e.fetch != nil {
		e.fetch.stale = true
		e.fetch = nil
	}
}

// join returns the read of the session that is under way, or starts one: then it
// is the caller's to make and to land.
func (t *table) join(id cache.ID) (f *flight, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.at(id)
	if e.fetch != nil {
		e.fetch.waiting++
		return e.fetch, false
	}
	e.fetch = &flight{done: make(chan struct{})}
	return e.fetch, true
}

// land ends a read with what it brought, which stays the caller's.
func (t *table) land(id cache.ID, f *flight, data []byte, described cache.Entry, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !f.stale {
		e := t.entries[id]
		if ok && t.trusted && e.writes == 0 {
			t.keep(id, data, described)
		}
		e.fetch = nil
		t.release(id, e)
	}
	f.entry, f.ok = described, ok
	if f.waiting > 0 && ok {
		f.data = append([]byte(nil), data...)
	}
	close(f.done)
}

// wait appends what the read brings to dst.
func (f *flight) wait(dst []byte) (data []byte, e cache.Entry, ok bool) {
	<-f.done
	f.mu.Lock()
	defer f.mu.Unlock()
	dst = append(dst, f.data...)
	if f.waiting--; f.waiting == 0 {
		clear(f.data)
	}
	return dst, f.entry, f.ok
}

// keep puts a session into the local cache. The table is locked.
func (t *table) keep(id cache.ID, data []byte, e cache.Entry) {
	_, _ = t.local.Put(id, data, cache.PutOptions{ // one that has expired meanwhile is not kept
		StoredAt: e.StoredAt.UTC(), ExpiresAt: e.ExpiresAt.UTC(), Mark: e.Mark, Tag: e.Tag,
	})
}

// drop removes a session from the local cache. The table is locked.
func (t *table) drop(id cache.ID) {
	_ = t.local.Delete(id, nil) // it need not be there
}

// begin starts a write of the session.
func (t *table) begin(id cache.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.at(id)
	e.detach()
	if e.writes++; e.writes > 1 {
		e.disturbed = true
	}
	t.drop(id)
}

// end ends a write. data is what is stored now; nil for nothing, or when that is
// not known.
func (t *table) end(id cache.ID, data []byte, described cache.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id]
	e.detach()
	if e.writes--; e.writes == 0 {
		if data != nil && !e.disturbed && t.trusted {
			t.keep(id, data, described)
		}
		e.disturbed = false
	}
	t.release(id, e)
}

// invalidate is told that another node has changed the session.
func (t *table) invalidate(id cache.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[id]; e != nil {
		e.detach()
		e.disturbed = e.writes > 0
		t.release(id, e)
	}
	t.drop(id)
}

// disturbAll is told that any session may have changed.
func (t *table) disturbAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, e := range t.entries {
		e.detach()
		e.disturbed = e.writes > 0
		t.release(id, e)
	}
}

// distrust is told that changes may not be heard of, until trust is called.
func (t *table) distrust() {
	t.disturbAll()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trusted = false
}

// trust is told that from now on every change is heard of.
func (t *table) trust() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trusted = true
}
