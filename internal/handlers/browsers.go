package handlers

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/sessapi/sessapi/internal/api"
)

// refuseForeignPages refuses what the page of another origin makes a browser
// send, whose user can reach the service where the page's author cannot.
//
// A host name that is not the service's is DNS rebinding: the author's own name
// resolves to the service, and to the browser its answers are then the page's to
// read. An IP address cannot be rebound. A request that may change something is
// checked by [http.CrossOriginProtection], one that reads by [fromOtherSite]: no
// other origin is shown the answer without CORS headers, but the browser has it in
// the process of the page then, where a flaw such as Spectre can read it.
func (a *API) refuseForeignPages(next http.Handler) http.Handler {
	var origins http.CrossOriginProtection
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !a.isOwnHost(r) && !healthPaths[r.URL.Path]:
			a.fail(w, r, &problem{
				code:   api.ProblemCodeForbidden,
				detail: "The service has no such Host; --allowed-hosts adds one.",
			})
		case origins.Check(r) != nil:
			a.fail(w, r, errForeignPage)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

var errForeignPage = &problem{code: api.ProblemCodeForbidden, detail: "The request comes from a web page of another origin."}

// fromOtherSite reports whether a browser says that the request comes from the page
// of another origin (Fetch Metadata, section 2.2). Other clients say nothing.
func fromOtherSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return true
}

// isOwnHost reports whether the service may be called by the Host of the
// request. Over a Unix socket it may be any, for no browser speaks to one, and
// none at all is fine, for browsers always send one.
func (a *API) isOwnHost(r *http.Request) bool {
	host := hostOf(r.Host)
	if host == "" || isIP(host) || isLocalhost(host) || matchesAny(a.cfg.AllowedHosts, host) ||
		a.cfg.CertificateNames != nil && matchesAny(a.cfg.CertificateNames(), host) {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

// hostOf is a Host header without its port and brackets.
func hostOf(hostport string) string {
	if i := strings.LastIndexByte(hostport, ':'); i > strings.LastIndexByte(hostport, ']') {
		hostport = hostport[:i]
	}
	hostport = strings.TrimSuffix(hostport, ".") // of a name that is written in full
	return strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
}

// isLocalhost reports whether a browser takes the name for its own machine,
// whatever DNS says (RFC 6761, section 6.3).
func isLocalhost(host string) bool {
	const name = "localhost"
	if len(host) > len(name) {
		return strings.EqualFold(host[len(host)-len(name)-1:], "."+name)
	}
	return strings.EqualFold(host, name)
}

// isIP reports whether the host is an IP address. Only what ends like one is
// parsed, for the error of a name would cost an allocation.
func isIP(host string) bool {
	last := host[len(host)-1]
	if !strings.Contains(host, ":") && (last < '0' || last > '9') {
		return false
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// matchesAny reports whether the host is one of the names, of which a leading
// "*" stands for one label (RFC 9525, section 6.3).
func matchesAny(names []string, host string) bool {
	for _, name := range names {
		tail := host
		if strings.HasPrefix(name, "*.") {
			name = name[1:]
			i := strings.IndexByte(host, '.')
			if i <= 0 {
				continue
			}
			tail = host[i:]
		}
		if strings.EqualFold(name, tail) {
			return true
		}
	}
	return false
}
