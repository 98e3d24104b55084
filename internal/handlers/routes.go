package handlers

import (
	"net/http"
	"net/http/pprof"
	runtimepprof "runtime/pprof"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/sessapi/sessapi/internal/api"
)

// route is one operation of the contract.
type route struct {
	method, pattern string
	handler         http.HandlerFunc
	// ops marks health and metrics: they move to the operations listener when
	// there is one, and have places of their own among the requests in flight.
	ops bool
}

// routes is the table of all operations. Each handler is the generated one,
// which binds the parameters and then calls the method of the same name.
func (a *API) routes() []route {
	op := api.ServerInterfaceWrapper{Handler: a, ErrorHandlerFunc: a.fail}
	return []route{
		{method: http.MethodGet, pattern: "/sessions", handler: op.ListSessions},
		{method: http.MethodDelete, pattern: "/sessions", handler: op.FlushSessions},
		{method: http.MethodGet, pattern: "/sessions/{id}", handler: op.GetSession},
		{method: http.MethodHead, pattern: "/sessions/{id}", handler: op.HeadSession},
		{method: http.MethodPut, pattern: "/sessions/{id}", handler: op.PutSession},
		{method: http.MethodDelete, pattern: "/sessions/{id}", handler: op.DeleteSession},
		{method: http.MethodGet, pattern: "/ticket-keys", handler: op.GetTicketKeys},
		{method: http.MethodPost, pattern: "/ticket-keys", handler: op.ReplaceTicketKeys},
		{method: http.MethodPost, pattern: "/ticket-keys/rotate", handler: op.RotateTicketKeys},
		{method: http.MethodDelete, pattern: "/ticket-keys/{name}", handler: op.RevokeTicketKey},
		{method: http.MethodGet, pattern: "/status", handler: op.GetStatus},
		{method: http.MethodGet, pattern: "/openapi.yaml", handler: op.GetOpenAPIYAML},
		{method: http.MethodGet, pattern: "/openapi.json", handler: op.GetOpenAPIJSON},
		{method: http.MethodGet, pattern: "/docs", handler: op.GetDocs},
		{method: http.MethodGet, pattern: "/docs/{file}", handler: op.GetDocsFile},
		{method: http.MethodGet, pattern: "/livez", handler: op.GetLivez, ops: true},
		{method: http.MethodGet, pattern: "/readyz", handler: op.GetReadyz, ops: true},
		{method: http.MethodGet, pattern: "/metrics", handler: op.GetMetrics, ops: true},
	}
}

// Handler serves everything, for a service with a single listener.
func (a *API) Handler() http.Handler {
	return a.router(func(route) bool { return true })
}

// MainHandler serves everything but health and metrics, for a service that has
// an operations listener too.
func (a *API) MainHandler() http.Handler {
	return a.router(func(rt route) bool { return !rt.ops })
}

// OpsHandler serves health, metrics and, under /debug/pprof, profiles.
func (a *API) OpsHandler() http.Handler {
	r := a.router(func(rt route) bool { return rt.ops })
	r.Get("/debug/pprof/", pprof.Index)
	r.Get("/debug/pprof/profile", pprof.Profile)
	r.Get("/debug/pprof/symbol", pprof.Symbol)
	r.Get("/debug/pprof/trace", pprof.Trace)
	for _, profile := range runtimepprof.Profiles() {
		r.Method(http.MethodGet, "/debug/pprof/"+profile.Name(), pprof.Handler(profile.Name()))
	}
	return r
}

func (a *API) router(include func(route) bool) chi.Router {
	r := chi.NewRouter()
	r.Use(a.observe, a.recoverPanics, a.checkInput, middleware.GetHead)
	r.NotFound(a.routeNotFound)
	r.MethodNotAllowed(a.methodNotAllowed)
	for _, rt := range a.routes() {
		if !include(rt) {
			continue
		}
		from := a.inFlight
		if rt.ops {
			from = a.opsInFlight
		}
		r.MethodFunc(rt.method, rt.pattern, a.limitInFlight(from, rt.handler))
	}
	return r
}

func (a *API) routeNotFound(w http.ResponseWriter, r *http.Request) {
	a.fail(w, r, &problem{code: api.ProblemCodeRouteNotFound})
}

// methodNotAllowed says in Allow what the path takes: the router knows, but
// tells it only to its own handler.
func (a *API) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	router := chi.RouteContext(r.Context()).Routes
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete} {
		if !router.Match(chi.NewRouteContext(), method, path) {
			continue
		}
		allow = append(allow, method)
		if method == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	if allow == nil { // an unknown method on an unknown path
		a.routeNotFound(w, r)
		return
	}
	a.fail(w, r, &problem{
		code:   api.ProblemCodeMethodNotAllowed,
		header: http.Header{"Allow": {strings.Join(allow, ", ")}},
	})
}
