// Package handlers serves the HTTP API. It turns requests into calls of the session
// cache and the ticket key ring, and every error into a problem document.
//
// Paths and parameters come from openapi.yaml through the generated package api. The
// table of operations is in routes.go. Session and key bytes are never logged or kept,
// and only their size is measured. Buffers that held them are wiped before they are
// used again.
package handlers

import (
	"context"
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
	"github.com/sessapi/sessapi/internal/events"
	"github.com/sessapi/sessapi/internal/keys"
)

// Config configures an [API]. Only Ring, Log and Metrics are required.
type Config struct {
	// Sessions stores the sessions; nil uses Cache alone. Without both, every session
	// call fails with cache_disabled.
	Sessions Sessions
	// Cache is the cache of this node, which /status describes.
	Cache *cache.Cache
	// MaxSessionBytes is the size of the largest accepted session. It is the same as
	// the cache's limit.
	MaxSessionBytes int
	// DefaultTTL is the lifetime of a session without an end of its own. MaxTTL limits
	// the lifetime of all sessions.
	DefaultTTL, MaxTTL time.Duration

	// Ring holds the ticket keys.
	Ring *keys.Ring
	// KeyFile is the file that the ring follows; nil for none.
	KeyFile *keys.File

	// Consumers tracks which generation of the ticket keys each consumer holds.
	Consumers *consumers.Table

	// Events has what happens on this node; nil for a bus that nobody publishes to.
	Events *events.Bus

	// Checks are the health checks of /readyz, which also says whether the service is
	// stopping.
	Checks []Check
	// Status functions add to /status what Cache, Ring and KeyFile do not report.
	Status []func(*api.Status)

	// Auth authenticates requests; nil permits everything to everyone.
	Auth *auth.Authenticator

	// Audit records denials, changes and exports of ticket keys, and flushes;
	// nil records nothing.
	Audit *audit.Log

	// AllowedHosts are host names of the service. localhost and IP addresses are always
	// allowed. A leading "*." matches one label.
	AllowedHosts []string
	// CertificateNames returns more host names, those of the current certificate; nil
	// without one. Callers must not change the result.
	CertificateNames func() []string
	// RequireClientCertificate rejects TLS requests without a verified client
	// certificate, except health checks.
	RequireClientCertificate bool
	// TrustsClient reports whether a client certificate, verified in the handshake with
	// these chains, is still trusted; nil trusts all.
	TrustsClient func(chains [][]*x509.Certificate) bool

	// Version is the version that /status reports.
	Version string
	Log     *slog.Logger
	// AccessLog adds a log line for each request.
	AccessLog bool
	// Recorder is notified of each answered request.
	Recorder Recorder
	// Trace begins the span of a request, and returns the request with it and what ends
	// it; nil traces nothing.
	Trace func(*http.Request) (*http.Request, func(method, route string, status int))
	// Metrics serves GET /metrics.
	Metrics http.Handler
	// MaxInFlight limits the requests being served; 0 means [DefaultMaxInFlight].
	MaxInFlight int
	// MaxOpen limits the open requests; 0 means [DefaultMaxOpen].
	MaxOpen int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Sessions stores sessions. The methods are those of [cache.Cache], with a context that
// carries the trace of the request. Their other errors are [Unavailable].
type Sessions interface {
	Get(ctx context.Context, dst []byte, id cache.ID) (data []byte, e cache.Entry, ok bool)
	Put(ctx context.Context, id cache.ID, data []byte, o cache.PutOptions) (replaced bool, err error)
	Delete(ctx context.Context, id cache.ID, cond cache.Condition) error
	// List lists the sessions of this node.
	List(after cache.ID, limit int) (page []cache.Listed, more bool)
	// Flush removes all sessions permanently, and returns their number.
	Flush(ctx context.Context) (removed int, err error)
}

// Local returns the sessions of a node that shares them with no other. They have no spans.
func Local(c *cache.Cache) Sessions { return local{c} }

type local struct{ *cache.Cache }

func (l local) Get(_ context.Context, dst []byte, id cache.ID) ([]byte, cache.Entry, bool) {
	return l.Cache.Get(dst, id)
}

func (l local) Put(_ context.Context, id cache.ID, data []byte, o cache.PutOptions) (bool, error) {
	return l.Cache.Put(id, data, o)
}

func (l local) Delete(_ context.Context, id cache.ID, cond cache.Condition) error {
	return l.Cache.Delete(id, cond)
}

func (l local) Flush(context.Context) (int, error) { return l.Cache.Flush(), nil }

// Check is a named health check.
type Check struct {
	Name string
	// Degraded returns why the service is degraded; "" when it is not.
	Degraded func() string
}

// Recorder is notified of answered requests. It must be safe for concurrent use.
type Recorder interface {
	// Request records a request: the pattern of its route ("" when none matched), its
	// method, the status and the duration.
	Request(route, method string, status int, took time.Duration)
	// Problem records the code of a problem.
	Problem(code string)
}

// API serves the contract. It is safe for concurrent use.
type API struct {
	cfg Config

	started  time.Time
	run      [4]byte // random; distinguishes the cursors of this run from those of others
	drain    sync.Once
	draining chan struct{} // closed by Drain
	buffers  *bufferPool

	slots         chan struct{} // has a token for each request being served
	open, waiting atomic.Int64  // requests
	rejected      atomic.Uint64 // the last generation whose rejection was logged
}

var _ api.ServerInterface = (*API)(nil)

// New returns an API.
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
	if c.Events == nil {
		c.Events = events.New(c.Now)
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

// Drain makes /readyz report that the service is stopping, answers the requests that wait
// for a change, and ends the streams of events. Requests are still served.
func (a *API) Drain() {
	a.drain.Do(func() { close(a.draining) })
}

// Open returns the number of open requests on the main listener.
func (a *API) Open() int { return int(a.open.Load()) }

// Waiting returns the number of requests that wait for a change of the ticket keys.
func (a *API) Waiting() int { return int(a.waiting.Load()) }

func (a *API) isDraining() bool {
	select {
	case <-a.draining:
		return true
	default:
		return false
	}
}
