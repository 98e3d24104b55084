package keys

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sessapi/sessapi/internal/tracing"
)

var (
	// ErrPrecondition reports that the [Condition] of an update did not hold.
	ErrPrecondition = errors.New("keys: the active set is not the expected one")
	// ErrKeyNotFound reports that the active set has no key with this name.
	ErrKeyNotFound = errors.New("keys: the active set has no key with this name")
	// ErrConflict is the error of Save if another ring has saved to the [Store] since
	// the last load. The ring then loads the new state and retries.
	ErrConflict = errors.New("keys: another update came first")
	// ErrUnsettled is why a [SharedStore] accepts no updates for a while.
	ErrUnsettled = errors.New("the store may have lost updates, which the nodes are restoring; retry in a few seconds")
	// ErrUnavailable reports an update that could not be recorded or stored. The error
	// also wraps the cause.
	ErrUnavailable = errors.New("keys: cannot record or store the update; keeping the active set")
)

// Source is the origin of the active set.
type Source string

// The sources of sets.
const (
	SourceGenerated Source = "generated" // made by NewRing
	SourceAPI       Source = "api"       // pushed, or left by a revocation
	SourceFile      Source = "file"      // the key file
	SourceRotation  Source = "rotation"  // a rotation step
)

var sources = []Source{SourceGenerated, SourceAPI, SourceFile, SourceRotation}

// Condition decides whether an update may replace the set of this generation. A nil
// Condition always holds. A Condition must not update the ring.
type Condition func(generation uint64) bool

// Record is called before a change, with the active set, the set that replaces it, and a
// nil failure. If it returns an error, the update fails. If the change cannot be stored,
// Record is called again with the failure. A Record must not update the ring. A nil Record
// is not called.
type Record func(before, after Description, failure error) error

// Update describes the origin of an update and the condition under which it applies.
type Update struct {
	// Source is the origin of the set. Rotations and revocations ignore it.
	Source Source
	If     Condition
	Record Record

	file *[sha256.Size]byte // hash of the file that contained the set
}

// Description describes a set without its secrets.
type Description struct {
	// Generation grows with every change. It is the Unix time of the change in
	// milliseconds, or the previous generation plus one if that is higher. So a
	// generation that a client remembers never matches another set, even if the
	// [Store] lost the last changes, or if other rings save to it. The exceptions are
	// a thousand changes in a second and a clock that is set back.
	Generation uint64
	UpdatedAt  time.Time // of the last change
	Source     Source
	// NextRotationAt is the time of the next automatic rotation; zero if there is none.
	NextRotationAt time.Time
	Keys           []KeyDescription // current, next, previous (newest first)
}

// KeyDescription describes a key without its secrets.
type KeyDescription struct {
	Name        Name
	Role        Role
	Bits        int       // 128 or 256
	Fingerprint string    // see [Key.Fingerprint]
	CreatedAt   time.Time // when the ring made the key or first got it
	ActivatedAt time.Time // when it last became current in this ring; zero if never
}

// Stats is the state of a ring and its counters since it was made.
type Stats struct {
	Generation  uint64
	UpdatedAt   time.Time
	Source      Source
	ActivatedAt time.Time // when the current key became current
	// NextRotationAt is the time of the next automatic rotation; zero if there is none.
	NextRotationAt time.Time
	Keys           map[Role]int      // has every role
	Updates        map[Source]uint64 // changes, including a generated first set; has every source
	Rejected       Rejected
	Fleet          FleetID // of the rings that share the set; zero if there are no others
}

// Rejected counts updates that were rejected and changed nothing.
type Rejected struct {
	Invalid      map[Kind]uint64 // by the kind of the first issue; has every kind
	Precondition uint64
}

// Observer is told of updates, in their order. Its functions must return at once, and must
// not call the ring. nil functions are not called.
type Observer struct {
	Updated  func(active Description) // there is another active set
	Rejected func(Rejection)
}

// Rejection is an update that was rejected and changed nothing.
type Rejection struct {
	Source Source
	Issues []Issue // what is wrong with the set; nil if its [Condition] did not hold
}

// Reason returns the kind of the first issue, or precondition.
func (r Rejection) Reason() string {
	if r.Issues == nil {
		return "precondition"
	}
	return string(r.Issues[0].Kind)
}

// Ring holds the active set of ticket keys and replaces it. The active set is always valid.
// All methods are safe for concurrent use. Reads never wait for the [Store]. The context of
// an update carries its trace; its end does not end the update.
type Ring struct {
	now   func() time.Time
	life  Lifecycle
	store Store // nil for none

	shared  SharedStore // the store, if other rings save to it; else nil
	putBack Record      // records that the ring puts the active set back
	foreign bool        // the active set is from before this ring joined the others
	joined  bool        // the ring and the store have had the same set since the ring was made

	updating sync.Mutex        // held during an update; guards the fields up to mu
	taken    [sha256.Size]byte // hash of the key file's content that was loaded last
	unread   error             // why the state in the store was not loaded; nothing may overwrite it
	burnt    uint64            // the highest generation of a failed change

	activation *activation // nil if rotations do not wait for consumers
	observer   Observer

	mu          sync.RWMutex // guards the fields below and the secrets of set; written only with updating held, too
	set         Set
	description Description        // of set, keys in the order of set.all, without NextRotationAt
	pushed      bool               // the ring does not rotate the set by itself
	fleet       FleetID            // of the active set
	activations map[Name]time.Time // when keys of the set last became current, by the monotonic clock
	changed     chan struct{}      // closed with the next change
	updates     map[Source]uint64
	invalid     map[Kind]uint64
	unexpected  uint64     // updates whose condition did not hold
	waiting     *HeldError // see Activation
	timeouts    uint64     // see Activation
}

// NewRing returns a ring with new random keys of 256 bits: a current, a next and a previous
// one, because HAProxy needs three. now is the wall clock: time.Now, except in tests.
// [Ring.RotateWhenDue] rotates the ring.
func NewRing(now func() time.Time, life Lifecycle) *Ring {
	r := emptyRing(now, life)
	r.install(r.first())
	return r
}

func emptyRing(now func() time.Time, life Lifecycle) *Ring {
	r := &Ring{now: now, life: life, changed: make(chan struct{}), updates: make(map[Source]uint64), invalid: make(map[Kind]uint64)}
	for _, source := range sources {
		r.updates[source] = 0
	}
	for _, kind := range kinds {
		r.invalid[kind] = 0
	}
	return r
}

// first returns the first set of an empty ring.
func (r *Ring) first() change {
	return r.prepare(new(Generate(8*size256, minLines)), SourceGenerated)
}

// Observe has o told of the updates from now on. Call it before sharing the ring.
func (r *Ring) Observe(o Observer) { r.observer = o }

// Load replaces the active set with data, which is in the format. It returns the result of
// [Ring.Replace], or [ErrNotReadable]. If data is the output of the format for the active
// set, Load changes nothing, even if the format cannot express all of the set. In the same
// way, a key that is the output of the format for an active key is that key.
func (r *Ring) Load(ctx context.Context, format Format, data []byte, u Update) (Description, error) {
	set, err := format.Parse(data)
	if err != nil {
		return Description{}, r.refuse(err, u)
	}
	defer set.Wipe()
	return r.replace(ctx, set, u, func(active *Set) bool { return format.writes(data, *active) }, format.writesKey)
}

// Replace replaces the active set with a copy of set and returns the description of the
// new active set. If both have the same keys in the same roles and order, nothing changes.
//
// After an [*InvalidError], [ErrPrecondition] or [ErrUnavailable], the active set stays. A
// key with the name of an active key and other secrets is rejected: one of the two was read
// in the wrong format, and nodes that have different secrets under one name never resume.
func (r *Ring) Replace(ctx context.Context, set Set, u Update) (Description, error) {
	return r.replace(ctx, set, u, func(*Set) bool { return false }, Key.Equal)
}

// replace is Replace for a set in a format. isActive reports whether the sent data is
// the output of the format for the active set; isKey reports the same for an active
// key.
func (r *Ring) replace(ctx context.Context, set Set, u Update, isActive func(active *Set) bool, isKey func(k, active Key) bool) (Description, error) {
	if err := set.Validate(); err != nil {
		return Description{}, r.refuse(err, u)
	}
	return r.update(ctx, u, func(active *Set) (*Set, bool, error) {
		if set.equal(active) || isActive(active) {
			return active, r.pushed, nil
		}
		c := set.clone()
		if err := c.adopt(active, isKey); err != nil {
			c.Wipe()
			return nil, false, r.refuse(err, u)
		}
		return &c, true, nil
	})
}

// Rotate rotates the set by one step and returns the description of the new active set.
// The next key becomes current, the current key becomes the newest previous key, and a
// new random key of 256 bits becomes next.
//
// A key must be distributed before it encrypts. Otherwise other servers would get tickets
// that they cannot decrypt. In a set without a next key, the step therefore only adds one;
// the following step makes it current.
//
// The step keeps [Lifecycle.Retention] keys, or the previous number of keys if that is
// higher, and all keys of tickets that have not expired, up to [MaxKeys]. It drops the
// oldest previous keys. The error is [ErrPrecondition], [ErrUnavailable] or, after
// [Ring.ActivateAfter], [ErrHeld].
func (r *Ring) Rotate(ctx context.Context, u Update) (Description, error) {
	u.Source = SourceRotation
	return r.update(ctx, u, func(*Set) (*Set, bool, error) {
		if err := r.held(); err != nil {
			return nil, false, err
		}
		return r.rotation(), r.pushed, nil
	})
}

// Revoke removes the key with this name from the active set and returns the description of
// the new active set. The next key replaces a current key, and a new random key replaces
// next. Without a next key, a new random key replaces the current one: other servers do not
// have it yet, and make full handshakes until they do.
//
// The source of the set becomes [SourceAPI]. The error is [ErrKeyNotFound],
// [ErrPrecondition] or [ErrUnavailable].
func (r *Ring) Revoke(ctx context.Context, name Name, u Update) (Description, error) {
	u.Source = SourceAPI
	return r.update(ctx, u, func(active *Set) (*Set, bool, error) {
		set := &Set{Keys: slices.Clone(active.Keys), Next: active.Next}
		i := slices.IndexFunc(set.Keys, func(k Key) bool { return k.Name() == name })
		isNext := set.Next != nil && set.Next.Name() == name
		if i < 0 && !isNext {
			return nil, false, ErrKeyNotFound
		}
		switch {
		case i > 0:
			set.Keys = slices.Delete(set.Keys, i, i+1)
		case i == 0 && set.Next == nil:
			set.Keys[0] = fresh()
		default:
			if i == 0 {
				set.Keys[0] = *set.Next
			}
			next := fresh()
			set.Next = &next
		}
		return set, r.pushed, nil
	})
}

// update replaces the active set with the set that step makes of it. step also returns
// whether the new set is pushed. The new set may share keys with the active one. If
// step returns the active set itself, nothing changes.
func (r *Ring) update(ctx context.Context, u Update, step func(active *Set) (set *Set, pushed bool, err error)) (d Description, err error) {
	ctx, span := tracing.Start(ctx, "update ticket keys")
	defer func() { span.End(err) }()
	r.updating.Lock()
	defer r.updating.Unlock()
	err = r.afterOthers(ctx, func(ctx context.Context) error {
		// An update that is rejected or changes nothing saves nothing, so it would not
		// notice a conflict.
		if err := r.current(ctx); err != nil {
			return err
		}
		d, err = r.updateOnce(ctx, u, step)
		return err
	})
	return d, err
}

// maxConflicts is how often an update is retried after conflicts.
const maxConflicts = 64

// afterOthers calls update. After a conflict, it loads the state of the store and calls
// update again. The ring is being updated.
func (r *Ring) afterOthers(ctx context.Context, update func(context.Context) error) error {
	err := update(ctx)
	for range maxConflicts {
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if err = unavailable(r.take(ctx)); err == nil {
			err = update(ctx)
		}
	}
	return err
}

func (r *Ring) updateOnce(ctx context.Context, u Update, step func(active *Set) (set *Set, pushed bool, err error)) (Description, error) {
	if u.If != nil && !u.If(r.description.Generation) {
		r.reject(Rejection{Source: u.Source})
		return Description{}, ErrPrecondition
	}
	if u.file != nil && *u.file == r.taken {
		return r.describe(), nil
	}
	set, pushed, err := step(&r.set)
	if err != nil {
		return Description{}, err
	}
	taken := r.taken
	if u.file != nil {
		taken = *u.file
	}
	if set != &r.set {
		c := r.prepare(set, u.Source)
		c.pushed = pushed
		err = r.commit(ctx, c, taken, u.Record)
	} else if taken != r.taken {
		err = r.save(ctx, r.active(), taken)
	}
	if err != nil {
		return Description{}, err
	}
	r.taken = taken
	return r.describe(), nil
}

// commit records, stores and then installs a set. If that fails, it wipes the set
// except for keys of the active set. The ring is being updated.
func (r *Ring) commit(ctx context.Context, c change, taken [sha256.Size]byte, record Record) error {
	err := recorded(record, r.describe(), c.description, func() error {
		err := r.save(ctx, c, taken)
		if err != nil {
			r.burnt = c.description.Generation
		}
		return err
	})
	if err != nil {
		wipeAllBut(&r.set, c.set)
		return err
	}
	r.install(c)
	return nil
}

// recorded records a change and then makes it. It records a failure, too.
func recorded(record Record, before, after Description, change func() error) error {
	if record == nil {
		return change()
	}
	before.Keys, after.Keys = slices.Clone(before.Keys), slices.Clone(after.Keys)
	if err := record(before, after, nil); err != nil {
		return unavailable(err)
	}
	err := change()
	if err != nil {
		err = errors.Join(err, record(before, after, err))
	}
	return err
}

// change is a set that is to become active, with its properties.
type change struct {
	set         *Set
	description Description // without NextRotationAt
	pushed      bool
	activations map[Name]time.Time
	shared      bool    // a ring that joined others saved it
	fleet       FleetID // zero until the change is saved
}

// active returns the active set as a change. The ring is being updated.
func (r *Ring) active() change {
	return change{set: &r.set, description: r.description, pushed: r.pushed, activations: r.activations}
}

// prepare describes a set that is to become active. The ring is being updated.
func (r *Ring) prepare(set *Set, source Source) change {
	now := r.now().Round(0) // without the monotonic clock: the wall clock may be changed
	c := change{set: set, activations: make(map[Name]time.Time, set.len())}
	keys := make([]KeyDescription, 0, set.len())
	for role, k := range set.all() {
		d, known := r.find(k)
		if !known {
			d = KeyDescription{Name: k.Name(), Bits: k.Bits(), Fingerprint: k.Fingerprint(), CreatedAt: now}
		}
		if role == RoleCurrent && d.Role != RoleCurrent {
			d.ActivatedAt = now
			c.activations[d.Name] = time.Now()
		} else if at, ok := r.activations[d.Name]; ok && known {
			c.activations[d.Name] = at
		}
		d.Role = role
		keys = append(keys, d)
	}
	generation := max(r.description.Generation+1, r.burnt+1, uint64(max(0, now.UnixMilli())))
	c.description = Description{Generation: generation, UpdatedAt: now, Source: source, Keys: keys}
	return c
}

// install makes the set active. The ring then owns it. Dropped keys are wiped. The ring
// is being updated.
func (r *Ring) install(c change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wipeAllBut(c.set, &r.set)
	r.set, r.activations, r.pushed = *c.set, c.activations, c.pushed
	r.description = c.description
	r.waiting = nil
	r.updates[c.description.Source]++
	if r.observer.Updated != nil {
		r.observer.Updated(r.describe())
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// wipeAllBut wipes the keys of gone that are not in kept.
func wipeAllBut(kept, gone *Set) {
	shared := make(map[**material]bool, kept.len())
	for _, k := range kept.all() {
		shared[k.m] = true
	}
	for _, k := range gone.all() {
		if !shared[k.m] {
			k.wipe()
		}
	}
}

// Changed returns a channel that is closed with the next change of the set. To wait for a
// change, first call Changed and then read the set.
func (r *Ring) Changed() <-chan struct{} {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.changed
}

// Generation returns the generation of the active set.
func (r *Ring) Generation() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.description.Generation
}

// find returns the description of k if it is in the active set. The ring is being
// updated.
func (r *Ring) find(k Key) (KeyDescription, bool) {
	i := 0
	for _, active := range r.set.all() {
		if active.Equal(k) {
			return r.description.Keys[i], true
		}
		i++
	}
	return KeyDescription{}, false
}

// refuse counts and returns the error of an update that was rejected before it reached
// the active set.
func (r *Ring) refuse(err error, u Update) error {
	if invalid, ok := errors.AsType[*InvalidError](err); ok {
		r.reject(Rejection{Source: u.Source, Issues: invalid.Issues})
	}
	return err
}

// reject counts an update that was rejected.
func (r *Ring) reject(rejection Rejection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rejection.Issues == nil {
		r.unexpected++
	} else {
		r.invalid[rejection.Issues[0].Kind]++
	}
	if r.observer.Rejected != nil {
		r.observer.Rejected(rejection)
	}
}

// Description describes the active set.
func (r *Ring) Description() Description {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.describe()
}

// describe describes the active set. The ring is locked or being updated.
func (r *Ring) describe() Description {
	d := r.description
	d.NextRotationAt = r.nextRotation()
	d.Keys = slices.Clone(d.Keys)
	return d
}

// Snapshot returns a copy of the active set, which the caller must wipe, and
// its description.
func (r *Ring) Snapshot() (Set, Description) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.set.clone(), r.describe()
}

// Stats returns the state and the counters at one instant.
func (r *Ring) Stats() Stats {
	r.mu.RLock()
	defer r.mu.RUnlock()
	d := r.description
	keys := map[Role]int{RoleCurrent: 0, RoleNext: 0, RolePrevious: 0}
	for _, k := range d.Keys {
		keys[k.Role]++
	}
	stats := Stats{
		Generation:  d.Generation,
		UpdatedAt:   d.UpdatedAt,
		Source:      d.Source,
		ActivatedAt: d.Keys[0].ActivatedAt,

		NextRotationAt: r.nextRotation(),

		Keys:     keys,
		Updates:  maps.Clone(r.updates),
		Rejected: Rejected{Invalid: maps.Clone(r.invalid), Precondition: r.unexpected},
	}
	if r.shared != nil {
		stats.Fleet = r.fleet
	}
	return stats
}
