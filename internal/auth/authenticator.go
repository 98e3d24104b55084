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

// A source may fail burst times at once, and once more in every interval after that.
// This is not what protects tokens, which cannot be guessed: it limits the cost and the
// log lines of a broken or hostile client.
const (
	burst    = 20
	interval = 3 * time.Second
	// maxSources limits the memory for failed sources, at some 100 bytes each. Beyond
	// it, an arbitrary source is forgotten and starts anew.
	maxSources = 8192
)

// Reason is why a request could not be authenticated.
type Reason uint8

// The reasons.
const (
	Missing   Reason = iota // there are no credentials
	Malformed               // the Authorization header holds nothing that could be a token
	Unknown                 // the policy does not have the credentials
	Expired                 // the policy has the credentials, but they have expired
	Ambiguous               // several identities have the certificate
	Limited                 // not checked: too many failures from the source
)

var reasonNames = [...]string{"missing", "malformed", "unknown", "expired", "ambiguous", "limited"}

// String returns the name of the reason in the metrics.
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

// Authenticator finds the identity of a request in a policy that may change. It is safe
// for concurrent use.
type Authenticator struct {
	policy func() *Policy
	now    func() time.Time
	failed [len(reasonNames)]atomic.Uint64

	size atomic.Int64 // of sources; without failures, nobody takes the lock
	mu   sync.Mutex   // guards sources
	// sources has each source that failed recently, with the time when all its failures
	// are paid back at one per interval. This is a leaky bucket kept as a single time,
	// the theoretical arrival time of the generic cell rate algorithm (ITU-T I.371,
	// annex A).
	sources map[Source]time.Time
	swept   time.Time // when paid-back sources were last dropped
}

// New returns an Authenticator. It calls policy for each request. now is the clock.
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
	guesses := r.Header["Authorization"] != nil // certificates and users cannot be guessed
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

// Failures returns how many authentications failed for the reason.
func (a *Authenticator) Failures(reason Reason) uint64 { return a.failed[reason].Load() }

// limited returns how long the source must wait until its credentials are checked
// again; 0 if they are checked now.
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
	// Concurrent failures add up to no more than the limit.
	a.sources[s] = minTime(paid.Add(interval), now.Add(burst*interval))
	a.size.Store(int64(len(a.sources)))
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// forget makes room. It drops the sources that have paid back everything or, if there
// are none, an arbitrary one. It searches all sources at most once an interval, because
// there may be a flood of new ones.
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

// Source is the origin of a request: an address, or a user of this machine. It is
// comparable.
type Source struct {
	addr netip.Prefix // a single address, or a network
	uid  int64        // user of a Unix socket's peer; -1 for none
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

// Network returns the unit in which failures are counted: an IPv6 host can choose its
// address in a /64 (RFC 4291, section 2.5.1).
func (s Source) Network() Source {
	if s.addr.Addr().Is6() {
		s.addr, _ = s.addr.Addr().Prefix(64) // an IPv6 address has 128 bits
	}
	return s
}

// String returns the address, a network such as 2001:db8::/64, or uid:1000 for a Unix
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

// RetryAfterSeconds returns RetryAfter in whole seconds, for the Retry-After header
// (RFC 9110, section 10.2.3).
func (e *LimitedError) RetryAfterSeconds() int { return int(math.Ceil(e.RetryAfter.Seconds())) }
