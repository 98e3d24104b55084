package handlers

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/sessapi/sessapi/internal/api"
)

// refuseForeignPages rejects requests that a web page of another origin makes a browser
// send. The user of the browser can reach the service where the author of the page
// cannot.
//
//   - A host name other than the service's means DNS rebinding: the author's own name
//     resolves to the service, so the browser lets the page read the responses. An IP
//     address cannot be rebound.
//   - [http.CrossOriginProtection] checks requests that may change something.
//   - [fromOtherSite] checks requests that read. Without CORS headers the page cannot
//     read the response, but the browser may hold it in the page's process, where a
//     flaw such as Spectre can read it.
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

// fromOtherSite reports whether a browser says that the request comes from a page of
// another origin (Fetch Metadata, section 2.2). Other clients do not say.
func fromOtherSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return true
}

// isOwnHost reports whether Host is a name of the service. Over a Unix socket any Host
// is accepted, because browsers cannot connect to one. An empty Host is accepted,
// because browsers always send one.
func (a *API) isOwnHost(r *http.Request) bool {
	host := hostOf(r.Host)
	if host == "" || isIP(host) || isLocalhost(host) || matchesAny(a.cfg.AllowedHosts, host) ||
		a.cfg.CertificateNames != nil && matchesAny(a.cfg.CertificateNames(), host) {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

// hostOf returns a Host header without its port and brackets.
func hostOf(hostport string) string {
	if i := strings.LastIndexByte(hostport, ':'); i > strings.LastIndexByte(hostport, ']') {
		hostport = hostport[:i]
	}
	hostport = strings.TrimSuffix(hostport, ".") // of a fully qualified name
	return strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
}

// isLocalhost reports whether browsers resolve the name to their own machine, whatever
// DNS says (RFC 6761, section 6.3).
func isLocalhost(host string) bool {
	const name = "localhost"
	if len(host) > len(name) {
		return strings.EqualFold(host[len(host)-len(name)-1:], "."+name)
	}
	return strings.EqualFold(host, name)
}

// isIP reports whether the host is an IP address. It parses only text that ends like
// one, because the parse error of a name would allocate.
func isIP(host string) bool {
	last := host[len(host)-1]
	if !strings.Contains(host, ":") && (last < '0' || last > '9') {
		return false
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// matchesAny reports whether the host matches one of the names. A leading "*" in a name
// matches one label (RFC 9525, section 6.3).
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
