// Package handlers is the HTTP face of the service: it turns requests into
// calls of the session cache and of the ticket-key ring, and every error into
// a problem document.
//
// The paths and their parameters come from openapi.yaml through the generated
// package api; routes.go is the table of them. Session and key bytes pass
// through here without being logged, measured by anything but their size, or
// kept: buffers that held them are wiped before they are used again.
package handlers

import (
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/auth"
	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/consumers"
	"github.com/sessapi/sessapi/internal/keys"
)

// Config is what an [API] is made from. Everything but Ring, Log and Metrics
// may be zero.
type Config struct {
	// Sessions keeps the sessions; nil is Cache alone. Without either, every
	// session call fails with cache_disabled.
	Sessions Sessions
	// Cache is what /status tells of: the cache of this node.
	Cache *cache.Cache
	// MaxSessionBytes is the largest session that is taken, the same as the
	// cache's.
	MaxSessionBytes int
	// DefaultTTL is how long a session lives that has no end of its own;
	// MaxTTL is how long any session lives at most.
	DefaultTTL, MaxTTL time.Duration

	// Ring keeps the ticket keys.
	Ring *keys.Ring
	// KeyFile is the file that the ring follows; nil without one.
	KeyFile *keys.File

	// Consumers knows which consumer holds which generation of the ticket keys.
	Consumers *consumers.Table

	// Checks are what /readyz asks, beside whether the service is stopping.
	Checks []Check
	// Status adds to /status what Cache, Ring and KeyFile do not tell.
	Status []func(*api.Status)

	// Auth says who sent a request; nil permits everything to everybody.
	Auth *auth.Authenticator

	// Audit records denials, changes and exports of ticket keys, and flushes;
	// nil records nothing.
	Audit *audit.Log

	// AllowedHosts are names that the service may be called by, beside localhost
	// and IP addresses. A leading "*." stands for one label.
	AllowedHosts []string
	// CertificateNames are more of them, those of the certificate as it is now;
	// nil without one. What it returns is not changed.
	CertificateNames func() []string
	// RequireClientCertificate refuses requests over TLS without a verified
	// client certificate, health aside.
	RequireClientCertificate bool
	// TrustsClient reports whether a client certificate that was verified when its
	// connection began, by these chains, is still trusted; nil trusts all.
	TrustsClient func(chains [][]*x509.Certificate) bool

	// Version is what /status says.
	Version string
	Log     *slog.Logger
	// AccessLog adds a log line for each request.
	AccessLog bool
	// Recorder is told of each request that was answered.
	Recorder Recorder
	// Metrics answers GET /metrics.
	Metrics http.Handler
	// MaxInFlight is the number of slots for requests being served; 0 is
	// [DefaultMaxInFlight].
	MaxInFlight int
	// MaxOpen is the number of requests that may be open; 0 is [DefaultMaxOpen].
	MaxOpen int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Sessions keeps sessions. The methods are those of [cache.Cache]; an error that
// they add is an [Unavailable].
type Sessions interface {
	Get(dst []byte, id cache.ID) (data []byte, e cache.Entry, ok bool)
	Put(id cache.ID, data []byte, o cache.PutOptions) (replaced bool, err error)
	Delete(id cache.ID, cond cache.Condition) error
	// List is that of this node.
	List(after cache.ID, limit int) (page []cache.Listed, more bool)
	// Flush removes all sessions for good, and returns how many there were.
	Flush() (removed int, err error)
}

// Local is the sessions of a node that shares them with nobody.
func Local(c *cache.Cache) Sessions { return local{c} }

type local struct{ *cache.Cache }

func (l local) Flush() (int, error) { return l.Cache.Flush(), nil }

// Check is a named part of the service's health.
type Check struct {
	Name string
	// Degraded says why it is not as it should be; "" when it is.
	Degraded func() string
}

// Recorder is told of what was answered. Calls come from many goroutines.
type Recorder interface {
	// Request is told of each request: the pattern of its route ("" when none
	// matched), its method, the status, and the time it took.
	Request(route, method string, status int, took time.Duration)
	// Problem is told the code of each problem.
	Problem(code string)
}

// API serves the contract. It is safe for concurrent use.
type API struct {
	cfg Config

	started  time.Time
	run      [4]byte // random, tells the cursors of one run from those of another
	drain    sync.Once
	draining chan struct{} // closed by Drain
	buffers  *bufferPool

	slots         chan struct{} // has a token for each request being served
	open, waiting atomic.Int64  // requests
	rejected      atomic.Uint64 // the last generation of which a rejection was logged
}

var _ api.ServerInterface = (*API)(nil)

// New makes an API from the configuration.
func New(c Config) *API {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = DefaultMaxInFlight
	}
	if c.MaxOpen == 0 {
		c.MaxOpen = DefaultMaxOpen
	}
	if c.Sessions == nil && c.Cache != nil {
		c.Sessions = Local(c.Cache)
	}
	a := &API{
		cfg:      c,
		started:  c.Now(),
		buffers:  newBufferPool(maxUploadBytes(c.MaxSessionBytes) + 1),
		slots:    make(chan struct{}, c.MaxInFlight),
		draining: make(chan struct{}),
	}
	_, _ = rand.Read(a.run[:]) // never fails
	return a
}

// Drain makes /readyz say that the service is about to stop, and has the requests
// that wait for a change be answered. Requests are still served.
func (a *API) Drain() {
	a.drain.Do(func() { close(a.draining) })
}

// Open is how many requests are open on the main listener.
func (a *API) Open() int { return int(a.open.Load()) }

// Waiting is how many requests wait for a change of the ticket keys.
func (a *API) Waiting() int { return int(a.waiting.Load()) }

func (a *API) isDraining() bool {
	select {
	case <-a.draining:
		return true
	default:
		return false
	}
}
