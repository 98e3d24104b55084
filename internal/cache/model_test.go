package cache_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

// TestModel runs random operations on caches of all shapes, each against a
// plain model. SESSAPI_TEST_SEED repeats a run, SESSAPI_TEST_STEPS makes it
// longer or shorter.
func TestModel(t *testing.T) {
	seed := envUint(t, "SESSAPI_TEST_SEED", rand.Uint64())
	steps := int(envUint(t, "SESSAPI_TEST_STEPS", 300_000))
	t.Logf("SESSAPI_TEST_SEED=%d SESSAPI_TEST_STEPS=%d", seed, steps)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	ops := bufio.NewReader(rand.NewChaCha8(key))
	const runs = 16
	for range runs {
		synctest.Test(t, func(t *testing.T) { runModel(t, ops, steps/runs) })
	}
}

func envUint(t *testing.T, name string, value uint64) uint64 {
	if s := os.Getenv(name); s != "" {
		var err error
		if value, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return value
}

// FuzzOperations runs the operations that are written in its input.
func FuzzOperations(f *testing.F) {
	f.Add([]byte{})
	for seed := range byte(4) {
		ops := make([]byte, 400)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(ops)
		f.Add(ops)
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		synctest.Test(t, func(t *testing.T) { runModel(t, bytes.NewReader(ops), 2000) })
	})
}

// record is what the model knows of a session.
type record struct {
	data               []byte
	storedAt, expireAt time.Time
	mark               uint8
}

// model holds every session that was stored, until it is known to have ended.
// It knows all ends but evictions: those it finds out later, and then compares
// their number.
type model struct {
	*testing.T
	c    *cache.Cache
	cfg  cache.Config
	ops  io.ByteReader
	done bool // the operations have come to an end

	alive   map[cache.ID]*record
	expired []*record // those not yet known to be wiped
	want    cache.Stats
	lost    uint64 // sessions evicted or expired
	serial  uint64
	buf     []byte
}

// runModel runs up to so many steps, in a synctest bubble.
func runModel(t *testing.T, ops io.ByteReader, steps int) {
	m := &model{T: t, ops: ops, alive: map[cache.ID]*record{}}
	m.cfg = cache.Config{Memory: cache.MinMemory, MaxSessionBytes: 300, Now: time.Now}
	shape := m.next()
	if shape&1 != 0 {
		m.cfg.MaxSessionBytes = cache.MaxSize
	} else if shape&2 != 0 {
		m.cfg.MaxSessions = 1 + int(shape>>2)
	}
	var err error
	if m.c, err = cache.New(m.cfg); err != nil {
		t.Fatal(err)
	}
	defer m.c.Close()
	if shape&4 != 0 {
		m.c.Shrink(1000 + 40*int(shape))
	}
	for i := 0; i < steps && !m.done; i++ {
		m.step()
		if i%512 == 0 {
			m.check()
		}
	}
	m.reconcile()
	m.check()
}

func (m *model) check() {
	if err := m.c.CheckMemory(); err != nil {
		m.Fatal(err)
	}
}

// next returns the next byte of the operations, 0 at their end.
func (m *model) next() byte {
	b, err := m.ops.ReadByte()
	if err != nil {
		m.done = true
	}
	return b
}

func (m *model) step() {
	before := m.c.Stats()
	mayEvict := false
	switch op := m.next(); {
	case op < 100:
		m.get(m.id())
	case op < 200:
		mayEvict = m.put(m.id())
	case op < 225:
		m.delete(m.id())
	case op < 245:
		m.sleep()
	case op < 253:
		m.reconcile()
	default:
		if m.next() < 32 {
			m.flush()
		}
	}

	st := m.c.Stats()
	if st.Bytes > m.cfg.Memory || m.cfg.MaxSessions > 0 && st.Entries > m.cfg.MaxSessions {
		m.Fatalf("over its bounds: %+v", st)
	}
	if uint64(st.Entries)+ends(st) != st.Stored {
		m.Fatalf("sessions are not accounted for: %+v", st)
	}
	if st.Evicted.Sessions != before.Evicted.Sessions &&
		(!mayEvict || before.Entries != m.cfg.MaxSessions || st.Evicted.Sessions != before.Evicted.Sessions+1) {
		m.Fatalf("evicted for the number of sessions, before %+v, after %+v", before, st)
	}
	if st.Evicted.Memory != before.Evicted.Memory && (!mayEvict || st.Bytes < m.cfg.Memory*3/4-2*cache.MaxSize) {
		m.Fatalf("evicted for memory, before %+v, after %+v", before, st)
	}
	m.want.Evicted, m.want.Expired = st.Evicted, st.Expired // see reconcile
	m.want.Entries, m.want.Bytes, m.want.DataBytes = st.Entries, st.Bytes, st.DataBytes
	m.want.Capacity, m.want.MaxSessions = m.cfg.Memory, m.cfg.MaxSessions
	m.want.Contended, m.want.Idle = st.Contended, st.Idle // see reconcile
	if st.Idle.Count != st.Evicted.Memory+st.Evicted.Sessions {
		m.Fatalf("%d idle times of %+v evicted", st.Idle.Count, st.Evicted)
	}
	if m.want.Sizes = st.Sizes; st.Sizes.Count != m.want.Stored {
		m.Fatalf("%d sizes of %d sessions stored", st.Sizes.Count, m.want.Stored)
	}
	if st != m.want {
		m.Fatalf("have %+v\nwant %+v", st, m.want)
	}
}

// id returns one of some hundred IDs of all lengths.
func (m *model) id() cache.ID {
	b := m.next()
	id, err := cache.MakeID(bytes.Repeat([]byte{b}, 1+int(b)%32))
	if err != nil {
		m.Fatal(err)
	}
	return id
}

// live returns what the model has under the ID.
func (m *model) live(id cache.ID) *record {
	r := m.alive[id]
	if r != nil && !time.Now().Before(r.expireAt) {
		m.expire(id)
		return nil
	}
	return r
}

func (m *model) expire(id cache.ID) {
	m.expired = append(m.expired, m.alive[id])
	m.lost++
	delete(m.alive, id)
}

// evicted notes that the cache does not have what the model has.
func (m *model) evicted(id cache.ID) {
	m.wiped(m.alive[id])
	m.lost++
	delete(m.alive, id)
}

// wiped looks for what is left of a session in the memory, now and then: it
// takes as long as many operations.
func (m *model) wiped(r *record) {
	if m.serial%16 == 0 && len(r.data) >= patternSize && m.c.Holds(r.data[:patternSize]) {
		m.Fatalf("a session of %d bytes is still in memory", len(r.data))
	}
}

func (m *model) get(id cache.ID) {
	r := m.live(id)
	got, e, ok := m.c.Get(append(m.buf[:0], "dst"...), id)
	m.buf = got
	switch {
	case !ok:
		m.want.Misses++
		if string(got) != "dst" || e != (cache.Entry{}) {
			m.Fatalf("Get of nothing: %d bytes, %+v", len(got), e)
		}
		if r != nil {
			m.evicted(id)
		}
	case r == nil:
		m.Fatalf("Get returned a session that has ended: %+v", e)
	default:
		m.want.Hits++
		if string(got[:3]) != "dst" || !bytes.Equal(got[3:], r.data) || e != r.entry() {
			m.Fatalf("Get: %d bytes, %+v, want %+v", len(got), e, r.entry())
		}
	}
}

func (r *record) entry() cache.Entry {
	return cache.WithTag(cache.Entry{
		Size: len(r.data), StoredAt: cache.Time(r.storedAt.UnixMilli()),
		ExpiresAt: cache.Time(r.expireAt.UnixMilli()), Mark: r.mark,
	}, r.data)
}

// patternSize is the size of the pattern that tells one session from another,
// also where a part of one stands before zeros.
const patternSize = 9

// put stores something, and reports whether it was stored.
func (m *model) put(id cache.ID) bool {
	r := m.live(id)
	size := int(m.next())
	switch kind := m.next(); {
	case kind < 30:
		size |= int(kind) << 8
	case kind < 60:
		size = size<<8 | size
	}
	m.serial++
	fresh := &record{
		data:     bytes.Repeat(binary.LittleEndian.AppendUint64([]byte{1}, m.serial*0x9e3779b97f4a7c15), size/patternSize+1)[:size],
		storedAt: time.Now(),
		expireAt: time.Now().Add(time.Duration(m.next()) * 50 * time.Millisecond),
		mark:     byte(m.serial),
	}
	cond, holds := m.condition(r)
	var tag cache.Tag
	if m.serial%2 == 0 {
		tag = cache.TagOf(fresh.data)
	}
	replaced, err := m.c.Put(id, fresh.data, cache.PutOptions{ExpiresAt: fresh.expireAt, Mark: fresh.mark, Tag: tag, If: cond})
	switch {
	case size == 0:
		m.want.Rejected.Empty++
		m.failed(err, cache.ErrEmpty)
		return false
	case size > m.cfg.MaxSessionBytes:
		m.want.Rejected.TooLarge++
		m.failed(err, cache.ErrTooLarge)
		return false
	case fresh.expireAt.Equal(fresh.storedAt):
		m.want.Rejected.Expired++
		m.failed(err, cache.ErrExpired)
		return false
	case !holds():
		m.want.Rejected.Precondition++
		m.failed(err, cache.ErrPrecondition)
		return false
	case err != nil:
		m.Fatal(err)
	}
	m.want.Stored++
	switch {
	case replaced && r == nil:
		m.Fatal("Put replaced a session that has ended")
	case replaced:
		m.want.Replaced++
		m.wiped(r)
	case r != nil:
		m.evicted(id)
	}
	if m.serial%16 == 0 && !m.c.Holds(fresh.data) {
		m.Fatal("the session is not to be found in memory")
	}
	m.alive[id] = fresh
	return true
}

func (m *model) failed(err, want error) {
	if err != want {
		m.Fatalf("error %v, want %v", err, want)
	}
}

// condition picks a condition, or none, and says afterwards whether it held. It
// checks what the cache gives to it.
func (m *model) condition(r *record) (cond cache.Condition, held func() bool) {
	kind := m.next() % 8
	held = func() bool { return true }
	if kind >= 3 {
		return nil, held
	}
	result := false
	return func(tag cache.Tag, exists bool) bool {
		if exists && (r == nil || tag != cache.TagOf(r.data)) || !exists && tag != (cache.Tag{}) {
			m.Fatalf("the condition was given %x, %v", tag, exists)
		}
		result = kind == 0 && exists || kind == 1 && !exists
		return result
	}, func() bool { return result }
}

func (m *model) delete(id cache.ID) {
	r := m.live(id)
	cond, holds := m.condition(r)
	switch err := m.c.Delete(id, cond); {
	case err == cache.ErrNotFound:
		if r != nil {
			m.evicted(id)
		}
	case r == nil:
		m.Fatalf("Delete of a session that has ended: %v", err)
	case !holds():
		m.failed(err, cache.ErrPrecondition)
	default:
		m.failed(err, nil)
		m.want.Removed++
		m.wiped(r)
		delete(m.alive, id)
	}
}

// sleep lets time pass, and the cache sweep.
func (m *model) sleep() {
	d := m.next()
	time.Sleep(time.Duration(d%16) * time.Duration(d) * time.Millisecond)
	synctest.Wait()
	m.checkExpired()
}

// checkExpired moves on the sessions whose end has come, and looks at the
// memory of those that ended a second ago.
func (m *model) checkExpired() {
	for id := range m.alive {
		m.live(id)
	}
	kept := m.expired[:0]
	for _, r := range m.expired {
		if time.Since(r.expireAt) < time.Second {
			kept = append(kept, r)
			continue
		}
		m.wiped(r)
	}
	clear(m.expired[len(kept):])
	m.expired = kept
}

func (m *model) flush() {
	m.reconcile()
	if n := m.c.Flush(); n != len(m.alive) {
		m.Fatalf("Flush: %d sessions, want %d", n, len(m.alive))
	}
	m.want.Flushed += uint64(len(m.alive))
	for _, r := range m.alive {
		m.wiped(r)
	}
	clear(m.alive)
	if st := m.c.Stats(); st.Entries != 0 || st.DataBytes != 0 {
		m.Fatalf("not empty after Flush: %+v", st)
	}
}

// reconcile lists the cache, finds out what was evicted, and compares numbers.
func (m *model) reconcile() {
	m.checkExpired()
	listed := map[cache.ID]bool{}
	var after cache.ID
	limit := 1 + int(m.next())
	for more := true; more; {
		var page []cache.Listed
		page, more = m.c.List(after, limit)
		if len(page) > limit || more && len(page) < limit {
			m.Fatalf("a page of %d, limit %d, more is %v", len(page), limit, more)
		}
		for _, e := range page {
			r := m.alive[e.ID]
			if r == nil || e.Entry != r.entry() || listed[e.ID] {
				m.Fatalf("listed %+v, listed before is %v", e, listed[e.ID])
			}
			listed[e.ID] = true
			after = e.ID
		}
	}
	for id := range m.alive {
		if !listed[id] {
			m.evicted(id)
		}
	}
	st := m.c.Stats()
	unswept := uint64(st.Entries - len(listed))
	if unswept > uint64(len(m.expired)) {
		m.Fatalf("%d sessions are there, %d listed, %d expired lately", st.Entries, len(listed), len(m.expired))
	}
	if have := st.Evicted.Memory + st.Evicted.Sessions + st.Expired + unswept; have != m.lost {
		m.Fatalf("%d sessions were lost, the cache counts %+v", m.lost, st)
	}
	var sum int64
	for _, r := range m.alive {
		sum += int64(len(r.data))
	}
	if unswept == 0 && st.DataBytes != sum {
		m.Fatalf("%d bytes of data, want %d", st.DataBytes, sum)
	}
}
