package keys

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// Store keeps the state of a ring over a restart. The bytes are secret.
type Store interface {
	// Load returns what was saved last, for the caller to wipe, or nil when
	// nothing ever was.
	Load() ([]byte, error)
	// Save has made state durable when it returns, in place of what was loaded or
	// saved before, or has failed. That of a store that other rings save to, too,
	// fails with [ErrConflict] when one has done so since. It does not keep the
	// slice.
	Save(state []byte) error
}

// ErrInvalidState reports that what a [Store] has is not the state of a ring.
var ErrInvalidState = errors.New("keys: not a state of ticket keys that this version can read")

// OpenRing returns a ring that starts with the state in store, generation, source
// and times included, or, when there is none, with keys as those of [NewRing].
// From then on a change is stored before it is active. The error is
// [ErrInvalidState] or one of store.
func OpenRing(now func() time.Time, life Lifecycle, store Store) (*Ring, error) {
	data, err := store.Load()
	if err != nil {
		return nil, err
	}
	defer clear(data)
	r := emptyRing(now, life)
	r.store = store
	if data == nil {
		if err := r.commit(r.first(), r.taken, nil); err != nil {
			return nil, err
		}
		return r, nil
	}
	c, taken, err := r.parseState(data)
	if err != nil {
		return nil, err
	}
	r.set, r.description, r.pushed, r.activations = *c.set, c.description, c.pushed, c.activations
	r.taken = taken
	// A later state may have been in the store before this one was put back.
	r.burnt = uint64(max(0, now().UnixMilli()))
	return r, nil
}

// JoinRing is OpenRing for a store that other rings save to, too: all of them have
// the same set, but for the time until [Ring.Refresh] is called. An update that
// others came before is made from what they made.
func JoinRing(now func() time.Time, life Lifecycle, store Store) (*Ring, error) {
	for range maxConflicts {
		r, err := OpenRing(now, life, store)
		if errors.Is(err, ErrConflict) { // another one had the first set
			continue
		}
		if err == nil {
			r.shared = true
		}
		return r, err
	}
	return nil, ErrUnavailable
}

// parseState is parseState with the activations. The ring is being updated.
func (r *Ring) parseState(data []byte) (c change, taken [sha256.Size]byte, err error) {
	if c, taken, err = parseState(data); err != nil {
		return c, taken, err
	}
	// How long ago a key was activated is known by the wall clock alone. Beyond
	// the longest time that matters it does not, and the clock may have leapt.
	for _, k := range c.description.Keys {
		if !k.ActivatedAt.IsZero() {
			passed := min(max(0, r.now().Sub(k.ActivatedAt)), max(r.life.RotateEvery, r.life.TicketLifetime))
			c.activations[k.Name] = time.Now().Add(-passed)
		}
	}
	return c, taken, nil
}

// Refresh makes the set that the store has the active one, when it is newer: other
// rings save to it, too. When the store has none, or an older one, it gets the
// active set back, and restored is true. The error is [ErrUnavailable], which wraps
// [ErrInvalidState] when the store has something else; the active set stays.
func (r *Ring) Refresh() (restored bool, err error) {
	r.updating.Lock()
	defer r.updating.Unlock()
	err = r.afterOthers(func() error {
		restored, err = r.take()
		return err
	})
	return restored, err
}

// take is Refresh for one try. The ring is being updated.
func (r *Ring) take() (restored bool, err error) {
	data, err := r.store.Load()
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer clear(data)
	if data == nil {
		return true, r.save(r.active(), r.taken)
	}
	c, taken, err := r.parseState(data)
	if r.unread = err; err != nil {
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	switch generation := c.description.Generation; {
	case generation < r.description.Generation:
		c.set.Wipe()
		return true, r.save(r.active(), r.taken)
	case generation == r.description.Generation && c.set.equal(&r.set):
		c.set.Wipe()
	default:
		r.install(c)
	}
	r.taken = taken
	return false, nil
}

// save stores a set and what goes with it. The ring is being updated.
func (r *Ring) save(c change, taken [sha256.Size]byte) error {
	if r.store == nil {
		return nil
	}
	if r.unread != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, r.unread)
	}
	state := appendState(make([]byte, 0, maxStateSize), c, taken)
	defer clear(state)
	if err := r.store.Save(state); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// takenFile is the hash of the key file's content that was taken last.
func (r *Ring) takenFile() [sha256.Size]byte {
	r.updating.Lock()
	defer r.updating.Unlock()
	return r.taken
}

// A state is, in big-endian order,
//
//	version (1), flags (1), generation (8), updated at (8), file hash (32),
//	length of the source (1), source, size of a secret (1), keys (1)
//
// and each key, in the order of [Set.all]:
//
//	name (16), HMAC secret, AES key, created at (8), activated at (8)
//
// Times are nanoseconds since 1970; noTime is the zero time.
const (
	stateVersion = 1

	statePushed = 1 << 0 // a flag: the set is not the ring's to rotate
	stateNext   = 1 << 1 // a flag: the second key is next

	noTime = math.MinInt64

	// maxStateSize is more than any state has, so that its secrets are never
	// left behind in a buffer that had to grow.
	maxStateSize = 512 + MaxKeys*(NameSize+2*size256+2*8)
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
	d := c.description
	dst = append(dst, stateVersion, flags)
	dst = binary.BigEndian.AppendUint64(dst, d.Generation)
	dst = appendTime(dst, d.UpdatedAt)
	dst = append(dst, taken[:]...)
	dst = append(dst, byte(len(d.Source)))
	dst = append(dst, d.Source...)
	dst = append(dst, byte(c.set.Keys[0].Bits()/8), byte(c.set.len()))
	i := 0
	for _, k := range c.set.all() {
		dst = append(dst, k.view().name...)
		dst = k.AppendHMACSecret(dst)
		dst = k.AppendAESKey(dst)
		dst = appendTime(dst, d.Keys[i].CreatedAt)
		dst = appendTime(dst, d.Keys[i].ActivatedAt)
		i++
	}
	return dst
}

// stateReader takes a state apart. Behind its end it reads zeros, and is short.
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

func (r *stateReader) time() time.Time {
	nano := int64(binary.BigEndian.Uint64(r.bytes(8)))
	if nano == noTime {
		return time.Time{}
	}
	return time.Unix(0, nano)
}

// parseState is the reverse of appendState. The activations are empty. The error
// is ErrInvalidState.
func parseState(data []byte) (c change, taken [sha256.Size]byte, err error) {
	r := &stateReader{data: data}
	if r.byte() != stateVersion {
		return change{}, taken, ErrInvalidState
	}
	flags := r.byte()
	c = change{set: new(Set), pushed: flags&statePushed != 0, activations: make(map[Name]time.Time)}
	c.description.Generation = binary.BigEndian.Uint64(r.bytes(8))
	c.description.UpdatedAt = r.time()
	copy(taken[:], r.bytes(len(taken)))
	c.description.Source = Source(r.bytes(int(r.byte())))
	size, count := int(r.byte()), int(r.byte())
	if !isSize(size) || count > MaxKeys || flags&^(statePushed|stateNext) != 0 {
		return change{}, taken, ErrInvalidState
	}
	for i := range count {
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
	if r.short || len(r.data) > 0 || flags&stateNext != 0 && c.set.Next == nil || c.set.Validate() != nil {
		c.set.Wipe()
		return change{}, taken, ErrInvalidState
	}
	return c, taken, nil
}
