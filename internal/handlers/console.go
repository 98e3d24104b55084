package handlers

import (
	"net/http"

	"github.com/sessapi/sessapi/internal/console"
)

// GetRoot implements [api.ServerInterface]. It serves people who type only the address.
func (a *API) GetRoot(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	to := "/docs"
	const page = "text/html"
	if mediaType, _ := negotiate(r, "", page); mediaType == page {
		to = "/console"
	}
	http.Redirect(w, r, to, http.StatusFound)
}

// GetConsole implements [api.ServerInterface].
func (a *API) GetConsole(w http.ResponseWriter, r *http.Request) {
	console.ServePage(w, r)
}

// GetConsoleFile implements [api.ServerInterface].
func (a *API) GetConsoleFile(w http.ResponseWriter, r *http.Request, file string) {
	if !console.ServeFile(w, r, file) {
		a.routeNotFound(w, r)
	}
}
