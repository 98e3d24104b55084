package auth

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A source may fail burst times at once, and once more every interval after
// that. Tokens cannot be guessed, so this is not what keeps them safe: it bounds
// what a client that is broken or hostile costs and fills the log with.
const (
	burst    = 20
	interval = 3 * time.Second
	// maxSources bounds the memory of who failed, at some 100 bytes each. Beyond
	// it some source is forgotten, and starts anew.
	maxSources = 8192
)

// Reason is why a request cannot be authenticated.
type Reason uint8

// The reasons.
const (
	Missing   Reason = iota // there are no credentials
	Malformed               // the Authorization header holds nothing like a token
	Unknown                 // the policy does not have the credentials
	Expired                 // it does, and they are over
	Ambiguous               // the certificate is that of several identities
	Limited                 // not looked at: too many failures came from the source
)

var reasonNames = [...]string{"missing", "malformed", "unknown", "expired", "ambiguous", "limited"}

// String is the reason's name in the metrics.
func (r Reason) String() string { return reasonNames[r] }

// ErrForbidden reports that the roles of the identity do not permit the request.
var ErrForbidden = errors.New("not permitted")

// LimitedError reports that the source has failed too often; its credentials were not
// checked.
type LimitedError struct {
	RetryAfter time.Duration // above 0
}

func (e *LimitedError) Error() string {
	return fmt.Sprintf("too many failed authentications; the next in %v", e.RetryAfter)
}

// Authenticator finds the identity of requests by a policy that may change. It
// is safe for concurrent use.
type Authenticator struct {
	policy func() *Policy
	now    func() time.Time
	failed [len(reasonNames)]atomic.Uint64

	size atomic.Int64 // of sources, so that nobody takes the lock while nobody fails
	mu   sync.Mutex   // guards sources
	// sources has, for each source that failed lately, when all of its failures
	// are paid back at one an interval: a leaky bucket as one time, the theoretical
	// arrival time of the generic cell rate algorithm (ITU-T I.371, annex A).
	sources map[Source]time.Time
	swept   time.Time // when those that have paid back everything were last dropped
}

// New makes an Authenticator that asks for the policy with each request. now is
// the clock.
func New(policy func() *Policy, now func() time.Time) *Authenticator {
	return &Authenticator{policy: policy, now: now, sources: make(map[Source]time.Time)}
}

// Identify returns the identity of the request, or an [Error]. It neither counts nor limits
// failures: it is for a request that [Authenticator.Authenticate] has accepted before.
func (a *Authenticator) Identify(r *http.Request) (*Identity, error) {
	return a.policy().Identify(r, a.now())
}

// Authenticate returns the identity of the request. The error is an [Error], or a
// [LimitedError] if the source of the request has failed too often. Requests without a
// token neither count as failures of their source nor are limited.
func (a *Authenticator) Authenticate(r *http.Request) (*Identity, error) {
	now := a.now()
	guesses := r.Header["Authorization"] != nil // nobody guesses certificates and users
	if guesses && a.size.Load() > 0 {
		if wait := a.limited(SourceOf(r), now); wait > 0 {
			a.failed[Limited].Add(1)
			return nil, &LimitedError{RetryAfter: wait}
		}
	}
	identity, err := a.policy().Identify(r, now)
	if failure, ok := errors.AsType[*Error](err); ok {
		a.failed[failure.Reason].Add(1)
		if guesses {
			a.fail(SourceOf(r), now)
		}
	}
	return identity, err
}

// Failures is how many authentications failed for the reason.
func (a *Authenticator) Failures(reason Reason) uint64 { return a.failed[reason].Load() }

// limited is how long the source has to wait until its credentials are looked
// at, 0 when they are now.
func (a *Authenticator) limited(s Source, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	paid, known := a.sources[s.Network()]
	if !known {
		return 0
	}
	return max(paid.Sub(now)-(burst-1)*interval, 0)
}

// fail counts a failure against the source.
func (a *Authenticator) fail(s Source, now time.Time) {
	s = s.Network()
	a.mu.Lock()
	defer a.mu.Unlock()
	paid, known := a.sources[s]
	if !known && len(a.sources) >= maxSources {
		a.forget(now)
	}
	if paid.Before(now) {
		paid = now
	}
	// Failures that were under way together do not add up to more than a limit.
	a.sources[s] = minTime(paid.Add(interval), now.Add(burst*interval))
	a.size.Store(int64(len(a.sources)))
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// forget makes room: it drops the sources that have paid back everything, or
// any one, whichever the map names first, when there is none. It looks through
// all of them once an interval at most, for there may be a flood of new ones.
func (a *Authenticator) forget(now time.Time) {
	if now.Sub(a.swept) >= interval {
		a.swept = now
		for s, paid := range a.sources {
			if !paid.After(now) {
				delete(a.sources, s)
			}
		}
	}
	for s := range a.sources {
		if len(a.sources) < maxSources {
			return
		}
		delete(a.sources, s)
	}
}

// Source is where a request came from: an address, or a user of this machine. It
// is comparable.
type Source struct {
	addr netip.Prefix // of a single address, or the network of one
	uid  int64        // of a Unix socket's peer; -1 for none
}

// SourceOf returns the source of a request.
func SourceOf(r *http.Request) Source {
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		addr := peer.Addr().Unmap().WithZone("")
		return Source{addr: netip.PrefixFrom(addr, addr.BitLen()), uid: -1}
	}
	if uid, ok := peerUID(r); ok {
		return Source{uid: int64(uid)}
	}
	return Source{uid: -1}
}

// Network is what is counted as one source: an IPv6 host has a /64 to choose
// addresses from (RFC 4291, section 2.5.1).
func (s Source) Network() Source {
	if s.addr.Addr().Is6() {
		s.addr, _ = s.addr.Addr().Prefix(64) // it has 128 bits
	}
	return s
}

// String is the address, 2001:db8::/64 for a network, or uid:1000 for a Unix
// socket's peer.
func (s Source) String() string {
	switch {
	case s.addr.IsValid() && !s.addr.IsSingleIP():
		return s.addr.String()
	case s.addr.IsValid():
		return s.addr.Addr().String()
	case s.uid >= 0:
		return "uid:" + strconv.FormatInt(s.uid, 10)
	}
	return "unknown"
}

// RetryAfterSeconds is RetryAfter in the whole seconds of the Retry-After header
// (RFC 9110, section 10.2.3).
func (e *LimitedError) RetryAfterSeconds() int { return int(math.Ceil(e.RetryAfter.Seconds())) }
