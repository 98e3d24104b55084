package keys

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// Store keeps the state of a ring across restarts. The state is secret. A context carries
// the trace of an update; its end does not end the call.
type Store interface {
	// Load returns the state saved last, which the caller must wipe; nil if there is
	// none.
	Load(ctx context.Context) ([]byte, error)
	// Save replaces the stored state. When it returns nil, the new state is durable. In
	// a store that other rings save to, it fails with [ErrConflict] if one has done so
	// since the last Load or Save. It must not keep the slice.
	Save(ctx context.Context, state []byte) error
}

// SharedStore is a [Store] that other rings save to. It may lose its state. Then each
// ring puts its own copy back, and the highest generation wins. Until all rings have
// had time for this, the store is unsettled and accepts no updates.
type SharedStore interface {
	Store
	// Settled returns nil if the store accepted updates at the last Load, else the
	// reason. This was also the reason of a failed Save.
	Settled() error
	// Restore saves a set that was active before, even while the store is unsettled. It
	// makes a settled store unsettled.
	Restore(ctx context.Context, state []byte) error
	// Copy returns the ring's own copy of the state saved last, which the caller must
	// wipe; nil for none.
	Copy() ([]byte, error)
}

// ErrInvalidState reports that the content of a [Store] is not the state of a ring.
var ErrInvalidState = errors.New("keys: not a ticket key state that this version can read")

// OpenRing returns a ring that starts with the state in store, including generation,
// source and times. Without a state, it starts with keys as in [NewRing]. From then on,
// a change is stored before it becomes active. The error is [ErrInvalidState] or one of
// store.
func OpenRing(now func() time.Time, life Lifecycle, store Store) (*Ring, error) {
	data, err := store.Load(context.Background())
	if err != nil {
		return nil, err
	}
	defer clear(data)
	r := emptyRing(now, life)
	r.store = store
	if data == nil {
		if err := r.commit(context.Background(), r.first(), r.taken, nil); err != nil {
			return nil, err
		}
		return r, nil
	}
	c, taken, err := r.parseState(data)
	if err != nil {
		return nil, err
	}
	r.start(c, taken)
	return r, nil
}

// start installs the first set of the ring, which is already stored.
func (r *Ring) start(c change, taken [sha256.Size]byte) {
	r.set, r.description, r.pushed, r.activations = *c.set, c.description, c.pushed, c.activations
	r.taken = taken
	r.setFleet(c.fleet)
}

// setFleet sets the fleet's ID. The ring is being updated.
func (r *Ring) setFleet(id FleetID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fleet = id
}

// JoinRing is OpenRing for a store that other rings save to. All rings have the same
// set, apart from the time until [Ring.Refresh] is called. An update after another
// ring's update starts from the result of that.
//
// The ring starts as follows:
//
//   - Of the set in the store and the one in the ring's own copy, the one with the
//     higher generation wins. If the store has the other or none, the ring puts the
//     winner back.
//   - A ring without a copy, or with a copy from before it joined the others, loads the
//     state of the store. If there is none, it waits until the store is settled, and
//     then saves the first set.
//   - A ring whose copy is from another fleet loads the state of the store, too. See
//     [State.OtherFleet].
//   - If the store cannot be loaded, a ring with a copy starts anyway, and a ring
//     without one keeps waiting.
//
// putBack records each set that is put back, now and later: the previous content of the
// store (the zero Description for none) and the new one. The wait ends with ctx.
func JoinRing(ctx context.Context, now func() time.Time, life Lifecycle, store SharedStore, putBack Record) (*Ring, error) {
	r := emptyRing(now, life)
	r.store, r.shared, r.putBack, r.foreign = store, store, putBack, true
	copied, err := store.Copy()
	if err != nil {
		return nil, err
	}
	defer clear(copied)
	if copied != nil {
		c, taken, err := r.parseState(copied)
		if err != nil {
			return nil, err
		}
		r.start(c, taken)
		r.foreign = !c.shared
	}
	for waited := false; ; {
		err := r.afterOthers(ctx, r.take)
		switch waits := errors.Is(err, ErrUnsettled); {
		case err == nil, copied != nil && !waits:
			return r, nil
		case !waits && !waited:
			return nil, err
		}
		waited = true
		timer := time.NewTimer(joinAgain)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		case <-timer.C:
		}
	}
}

// joinAgain is how often a waiting ring checks the store.
const joinAgain = 100 * time.Millisecond

// parseState is the function parseState plus the activations. The ring is being
// updated.
func (r *Ring) parseState(data []byte) (c change, taken [sha256.Size]byte, err error) {
	if c, taken, err = parseState(data); err != nil {
		return c, taken, err
	}
	// Only the wall clock knows how long ago a key was activated. It may have jumped,
	// so limit the time to the longest that matters.
	for _, k := range c.description.Keys {
		if !k.ActivatedAt.IsZero() {
			passed := min(max(0, r.now().Sub(k.ActivatedAt)), max(r.life.RotateEvery, r.life.TicketLifetime))
			c.activations[k.Name] = time.Now().Add(-passed)
		}
	}
	return c, taken, nil
}

// Refresh loads the set of the store if it is newer than the active one: other rings
// save to the store, too. If the store has an older set or none, Refresh puts the
// active set back. The error is [ErrUnavailable], which wraps [ErrInvalidState] if the
// store has something else. The active set then stays.
func (r *Ring) Refresh() error {
	r.updating.Lock()
	defer r.updating.Unlock()
	return unavailable(r.afterOthers(context.Background(), r.take))
}

// current loads what others have saved, as the base of an update, and reports whether
// the store accepts one. The ring is being updated.
func (r *Ring) current(ctx context.Context) error {
	if r.shared == nil {
		return nil
	}
	err := r.take(ctx)
	if err == nil {
		err = r.shared.Settled()
	}
	return unavailable(err)
}

// unavailable wraps an error of the store in the package's own; nil stays nil.
func unavailable(err error) error {
	if err == nil || errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// take is a single try of Refresh. The ring is being updated.
func (r *Ring) take(ctx context.Context) error {
	data, err := r.store.Load(ctx)
	if err != nil {
		return err
	}
	defer clear(data)
	if data == nil {
		r.unread = nil
		if r.foreign {
			return r.seed(ctx)
		}
		return r.restore(ctx, Description{})
	}
	c, taken, err := r.parseState(data)
	if r.unread = err; err != nil {
		return err
	}
	foreign := r.foreign || !r.joined && State{Fleet: r.fleet}.OtherFleet(State{Fleet: c.fleet})
	switch generation := c.description.Generation; {
	case generation < r.description.Generation && !foreign:
		c.set.Wipe()
		return r.restore(ctx, c.description)
	case generation == r.description.Generation && c.set.equal(&r.set):
		c.set.Wipe()
	case r.description.Generation == 0:
		r.start(c, taken)
	default:
		r.install(c)
	}
	if !r.joined || c.fleet != (FleetID{}) { // earlier versions do not write the ID
		r.setFleet(c.fleet)
	}
	r.taken, r.foreign, r.joined = taken, false, true
	return nil
}

// seed saves the first set to an empty store. The ring is being updated.
func (r *Ring) seed(ctx context.Context) error {
	err := r.shared.Settled()
	switch {
	case err != nil:
	case r.description.Generation == 0:
		err = r.commit(ctx, r.first(), r.taken, nil)
	default:
		err = r.save(ctx, r.active(), r.taken)
	}
	r.foreign = err != nil
	return err
}

// restore puts the active set back into a store that has the found set. The ring is
// being updated.
func (r *Ring) restore(ctx context.Context, found Description) error {
	return recorded(r.putBack, found, r.describe(), func() error {
		return r.saveBy(ctx, r.shared.Restore, r.active(), r.taken)
	})
}

// save stores a set and its properties. The first save to a shared store creates the
// fleet's ID. The ring is being updated.
func (r *Ring) save(ctx context.Context, c change, taken [sha256.Size]byte) error {
	if r.store == nil {
		return nil
	}
	if r.shared != nil && r.fleet == (FleetID{}) {
		var id FleetID
		_, _ = rand.Read(id[:]) // never fails
		r.setFleet(id)
	}
	return r.saveBy(ctx, r.store.Save, c, taken)
}

// saveBy is save with a method of the store. The ring is being updated.
func (r *Ring) saveBy(ctx context.Context, method func(ctx context.Context, state []byte) error, c change, taken [sha256.Size]byte) error {
	if r.unread != nil {
		return unavailable(r.unread)
	}
	c.shared, c.fleet = r.shared != nil, FleetID{}
	if c.shared {
		c.fleet = r.fleet
	}
	state := appendState(make([]byte, 0, maxStateSize), c, taken)
	defer clear(state)
	if err := method(ctx, state); err != nil {
		return unavailable(err)
	}
	r.joined = r.shared != nil
	return nil
}

// FleetID distinguishes the rings of one [SharedStore] from those of others. It is
// random. The zero FleetID means that an earlier version wrote the state.
type FleetID [16]byte

// State describes the state in a [Store].
type State struct {
	Generation uint64
	Shared     bool    // a ring that joined others wrote it
	Fleet      FleetID // the fleet of those rings
}

// OtherFleet reports whether the state in the store is from another fleet than the copy
// s. Then the copy is not put back, whatever its generation. If an earlier version
// wrote the state of the store, its fleet is unknown and OtherFleet is false: otherwise
// an upgrade could lose a newer copy.
func (s State) OtherFleet(has State) bool {
	return has.Fleet != (FleetID{}) && has.Fleet != s.Fleet
}

// PeekState describes a state. The result is zero if the data is not a state.
func PeekState(state []byte) State {
	r := &stateReader{data: state}
	version, flags := r.byte(), r.byte()
	s := State{Generation: binary.BigEndian.Uint64(r.bytes(8)), Shared: flags&stateShared != 0, Fleet: r.fleet(flags)}
	if r.short || version != stateVersion {
		return State{}
	}
	return s
}

// takenFile returns the hash of the key file's content that was loaded last.
func (r *Ring) takenFile() [sha256.Size]byte {
	r.updating.Lock()
	defer r.updating.Unlock()
	return r.taken
}

// A state is, in big-endian order,
//
//	version (1), flags (1), generation (8), fleet ID (16, only with its flag),
//	updated at (8), file hash (32), length of the source (1), source,
//	size of a secret (1), or mixedSizes, keys (1)
//
// and each key, in the order of [Set.all]:
//
//	size of a secret (1, only with mixedSizes), name (16), HMAC secret, AES key,
//	created at (8), activated at (8)
//
// Times are nanoseconds since 1970; noTime is the zero time.
const (
	stateVersion = 1

	statePushed = 1 << 0 // a flag: the ring does not rotate the set by itself
	stateNext   = 1 << 1 // a flag: the second key is next
	stateShared = 1 << 2 // a flag: a ring that joined others wrote it
	stateFleet  = 1 << 3 // a flag: there is a fleet ID

	noTime = math.MinInt64

	// maxStateSize is more than any state needs, so that no buffer with secrets has to
	// grow and leave a copy behind.
	maxStateSize = 512 + MaxKeys*(1+NameSize+2*size256+2*8)

	// mixedSizes means that keys differ in size. Other states omit it, so that earlier
	// versions can read them.
	mixedSizes = 0
)

func appendTime(dst []byte, t time.Time) []byte {
	nano := int64(noTime)
	if !t.IsZero() {
		nano = t.UnixNano()
	}
	return binary.BigEndian.AppendUint64(dst, uint64(nano))
}

func appendState(dst []byte, c change, taken [sha256.Size]byte) []byte {
	var flags byte
	if c.pushed {
		flags |= statePushed
	}
	if c.set.Next != nil {
		flags |= stateNext
	}
	if c.shared {
		flags |= stateShared
	}
	if c.fleet != (FleetID{}) {
		flags |= stateFleet
	}
	d := c.description
	dst = append(dst, stateVersion, flags)
	dst = binary.BigEndian.AppendUint64(dst, d.Generation)
	if flags&stateFleet != 0 {
		dst = append(dst, c.fleet[:]...)
	}
	dst = appendTime(dst, d.UpdatedAt)
	dst = append(dst, taken[:]...)
	dst = append(dst, byte(len(d.Source)))
	dst = append(dst, d.Source...)
	size := stateSize(c.set)
	dst = append(dst, byte(size), byte(c.set.len()))
	i := 0
	for _, k := range c.set.all() {
		if size == mixedSizes {
			dst = append(dst, byte(k.Bits()/8))
		}
		dst = append(dst, k.view().name...)
		dst = k.AppendHMACSecret(dst)
		dst = k.AppendAESKey(dst)
		dst = appendTime(dst, d.Keys[i].CreatedAt)
		dst = appendTime(dst, d.Keys[i].ActivatedAt)
		i++
	}
	return dst
}

// stateSize returns the size of all secrets, or mixedSizes.
func stateSize(s *Set) int {
	size := s.Keys[0].Bits() / 8
	for _, k := range s.all() {
		if k.Bits()/8 != size {
			return mixedSizes
		}
	}
	return size
}

// stateReader parses a state. After the end it returns zeros and sets short.
type stateReader struct {
	data  []byte
	short bool
}

func (r *stateReader) bytes(n int) []byte {
	if len(r.data) < n {
		r.short = true
		return make([]byte, n)
	}
	head := r.data[:n]
	r.data = r.data[n:]
	return head
}

func (r *stateReader) byte() byte { return r.bytes(1)[0] }

// fleet reads the ID if flags say that there is one.
func (r *stateReader) fleet(flags byte) (id FleetID) {
	if flags&stateFleet != 0 {
		copy(id[:], r.bytes(len(id)))
	}
	return id
}

func (r *stateReader) time() time.Time {
	nano := int64(binary.BigEndian.Uint64(r.bytes(8)))
	if nano == noTime {
		return time.Time{}
	}
	return time.Unix(0, nano)
}

// parseState is the reverse of appendState. The activations are empty. The error is
// ErrInvalidState.
func parseState(data []byte) (c change, taken [sha256.Size]byte, err error) {
	r := &stateReader{data: data}
	if r.byte() != stateVersion {
		return change{}, taken, ErrInvalidState
	}
	flags := r.byte()
	c = change{set: new(Set), pushed: flags&statePushed != 0, activations: make(map[Name]time.Time), shared: flags&stateShared != 0}
	c.description.Generation = binary.BigEndian.Uint64(r.bytes(8))
	c.fleet = r.fleet(flags)
	c.description.UpdatedAt = r.time()
	copy(taken[:], r.bytes(len(taken)))
	c.description.Source = Source(r.bytes(int(r.byte())))
	sizes, count := int(r.byte()), int(r.byte())
	if !isSize(sizes) && sizes != mixedSizes || count > MaxKeys || flags&^(statePushed|stateNext|stateShared|stateFleet) != 0 {
		return change{}, taken, ErrInvalidState
	}
	for i := range count {
		size := sizes
		if sizes == mixedSizes {
			size = int(r.byte())
		}
		k := NewKey(r.bytes(NameSize), r.bytes(size), r.bytes(size))
		d := KeyDescription{Name: k.Name(), Role: RolePrevious, Bits: k.Bits(), Fingerprint: k.Fingerprint(), CreatedAt: r.time(), ActivatedAt: r.time()}
		if i == 0 {
			d.Role = RoleCurrent
		}
		if i == 1 && flags&stateNext != 0 {
			d.Role = RoleNext
			c.set.Next = &k
		} else {
			c.set.Keys = append(c.set.Keys, k)
		}
		c.description.Keys = append(c.description.Keys, d)
	}
	if r.short || len(r.data) > 0 || flags&stateNext != 0 && c.set.Next == nil || flags&stateFleet != 0 && c.fleet == (FleetID{}) || c.set.Validate() != nil || stateSize(c.set) != sizes {
		c.set.Wipe()
		return change{}, taken, ErrInvalidState
	}
	return c, taken, nil
}
