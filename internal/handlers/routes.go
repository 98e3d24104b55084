package handlers

import (
	"net/http"
	"net/http/pprof"
	"reflect"
	runtimepprof "runtime/pprof"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/auth"
)

// route is one operation of the contract.
type route struct {
	method, pattern string
	handler         http.HandlerFunc
	// query lists the query parameters of the operation.
	query []string
	// permit lists the roles that permit the operation. One is enough. Without any,
	// only administrators are permitted.
	permit auth.Roles
	// secret replaces permit if asksSecret reports that the request is for the bytes,
	// not only for their description. asksSecret is nil where there is no such choice.
	secret     auth.Roles
	asksSecret func(*http.Request) bool
	// on says where the route is if there is an operations listener.
	on listeners
	// admission says when a request takes a slot on the main listener.
	admission admission
}

// listeners says which listeners have a route.
type listeners uint8

const (
	onMain listeners = iota
	onOps            // health and metrics
	onBoth           // the console, what it reads, and the documentation
)

// The permissions for ticket keys. They are checked again when a request that waited is
// answered. A publisher must see the generation that it replaces, and a consumer the
// active one. Neither needs observe for this.
const (
	permitKeyDescription = auth.Observe | auth.KeyPublish | auth.KeyConsume
	permitKeySecrets     = auth.KeyConsume
)

// routes is the table of all operations. Each handler is generated: it binds the
// parameters and calls the method of the same name.
func (a *API) routes() []route {
	op := api.ServerInterfaceWrapper{Handler: a, ErrorHandlerFunc: a.fail}
	return []route{
		{method: http.MethodGet, pattern: "/sessions", handler: op.ListSessions, query: queryOf[api.ListSessionsParams](), permit: auth.Admin},
		{method: http.MethodDelete, pattern: "/sessions", handler: op.FlushSessions, permit: auth.Admin},
		{method: http.MethodGet, pattern: "/sessions/{id}", handler: op.GetSession, query: queryOf[api.GetSessionParams](), permit: auth.Observe | auth.SessionRead, secret: auth.SessionRead, asksSecret: asksSessionBytes},
		{method: http.MethodHead, pattern: "/sessions/{id}", handler: op.HeadSession, query: queryOf[api.HeadSessionParams](), permit: auth.Observe | auth.SessionRead, secret: auth.SessionRead, asksSecret: asksSessionBytes},
		{method: http.MethodPut, pattern: "/sessions/{id}", handler: op.PutSession, query: queryOf[api.PutSessionParams](), permit: auth.SessionWrite, admission: admitLater},
		{method: http.MethodDelete, pattern: "/sessions/{id}", handler: op.DeleteSession, permit: auth.SessionWrite},
		{method: http.MethodGet, pattern: "/ticket-keys", handler: op.GetTicketKeys, query: queryOf[api.GetTicketKeysParams](), permit: permitKeyDescription, secret: permitKeySecrets, asksSecret: asksKeyBytes, admission: admitLater},
		{method: http.MethodPost, pattern: "/ticket-keys", handler: op.ReplaceTicketKeys, query: queryOf[api.ReplaceTicketKeysParams](), permit: auth.KeyPublish, admission: admitLater},
		{method: http.MethodPost, pattern: "/ticket-keys/rotate", handler: op.RotateTicketKeys, permit: auth.KeyPublish},
		{method: http.MethodDelete, pattern: "/ticket-keys/{name}", handler: op.RevokeTicketKey, permit: auth.KeyPublish},
		{method: http.MethodPost, pattern: "/v3/discovery:secrets", handler: op.FetchSecrets, permit: permitKeySecrets, admission: admitLater},
		{method: http.MethodGet, pattern: "/consumers", handler: op.ListConsumers, query: queryOf[api.ListConsumersParams](), permit: auth.Observe | auth.KeyConsume, on: onBoth},
		{method: http.MethodPut, pattern: "/consumers/{host}/{target}", handler: op.ReportConsumer, permit: auth.KeyConsume, admission: admitLater},
		{method: http.MethodDelete, pattern: "/consumers/{host}/{target}", handler: op.ForgetConsumer, permit: auth.Admin},
		{method: http.MethodGet, pattern: "/events", handler: op.GetEvents, query: queryOf[api.GetEventsParams](), permit: auth.Observe, on: onBoth},
		{method: http.MethodGet, pattern: "/status", handler: op.GetStatus, permit: auth.Observe, on: onBoth},
		{method: http.MethodGet, pattern: "/openapi.yaml", handler: op.GetOpenAPIYAML, permit: auth.Anyone, on: onBoth},
		{method: http.MethodGet, pattern: "/openapi.json", handler: op.GetOpenAPIJSON, permit: auth.Anyone, on: onBoth},
		{method: http.MethodGet, pattern: "/", handler: op.GetRoot, permit: auth.Anyone, on: onBoth},
		{method: http.MethodGet, pattern: "/console", handler: op.GetConsole, permit: auth.Anyone, on: onBoth},
		{method: http.MethodGet, pattern: "/console/{file}", handler: op.GetConsoleFile, permit: auth.Anyone, on: onBoth},
		{method: http.MethodGet, pattern: "/docs", handler: op.GetDocs, permit: auth.Anyone, on: onBoth},
		{method: http.MethodGet, pattern: "/docs/{file}", handler: op.GetDocsFile, permit: auth.Anyone, on: onBoth},
		{method: http.MethodGet, pattern: "/livez", handler: op.GetLivez, permit: auth.Anyone, on: onOps, admission: admitAlways},
		{method: http.MethodGet, pattern: "/readyz", handler: op.GetReadyz, permit: auth.Anyone, on: onOps, admission: admitAlways},
		{method: http.MethodGet, pattern: "/metrics", handler: op.GetMetrics, permit: auth.Observe, on: onOps},
	}
}

// queryOf returns the query parameters of an operation: the generated code marks them
// with a form tag.
func queryOf[Params any]() (names []string) {
	for field := range reflect.TypeFor[Params]().Fields() {
		if form, ok := field.Tag.Lookup("form"); ok {
			name, _, _ := strings.Cut(form, ",")
			names = append(names, name)
		}
	}
	return names
}

// healthPaths are served under any Host and any load: load balancers and orchestrators
// probe them.
var healthPaths = map[string]bool{"/livez": true, "/readyz": true}

// Handler serves everything. It is for a service with a single listener.
func (a *API) Handler() http.Handler {
	return a.router(func(*route) bool { return true }, a.boundOpen(healthPaths))
}

// MainHandler serves everything except health and metrics. It is for a service with an
// operations listener.
func (a *API) MainHandler() http.Handler {
	return a.router(func(rt *route) bool { return rt.on != onOps }, a.boundOpen(nil))
}

// OpsHandler serves health, metrics, the console with what it reads, the documentation and,
// under /debug/pprof, profiles.
func (a *API) OpsHandler() http.Handler {
	r := a.router(func(rt *route) bool {
		rt.admission = admitAlways // the limits of its listener are enough
		return rt.on != onMain
	})
	profile := func(name string, handler http.HandlerFunc) {
		handler = a.authorize(route{permit: auth.Admin}, handler)
		r.Get("/debug/pprof/"+name, handler)
		r.Head("/debug/pprof/"+name, handler)
	}
	profile("", pprof.Index)
	profile("profile", pprof.Profile)
	profile("symbol", pprof.Symbol)
	profile("trace", pprof.Trace)
	for _, p := range runtimepprof.Profiles() {
		profile(p.Name(), pprof.Handler(p.Name()).ServeHTTP)
	}
	return r
}

func (a *API) router(include func(*route) bool, bounds ...func(http.Handler) http.Handler) chi.Router {
	r := chi.NewRouter()
	r.Use(a.observe, a.recoverPanics)
	r.Use(bounds...)
	r.Use(a.refuseForeignPages, a.checkClientCertificate, a.checkInput)
	r.NotFound(a.routeNotFound)
	r.MethodNotAllowed(a.methodNotAllowed)
	for _, rt := range a.routes() {
		if !include(&rt) {
			continue
		}
		handler := a.authorize(rt, a.checkQuery(rt.query, a.bound(rt.admission, rt.handler)))
		r.MethodFunc(rt.method, rt.pattern, handler)
		if rt.method == http.MethodGet { // a row for HEAD comes later and replaces this
			r.Head(rt.pattern, handler)
		}
	}
	return r
}

func (a *API) routeNotFound(w http.ResponseWriter, r *http.Request) {
	a.fail(w, r, &problem{code: api.ProblemCodeRouteNotFound})
}

// methodNotAllowed lists the methods of the path in Allow. The router knows them, but
// tells only its own handler.
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
