package agent

import "github.com/sessapi/sessapi/internal/keys"

// httpd is Apache httpd. It has one key, which it rereads on a reload.
var httpd = kind{
	format:      keys.HTTPD,
	single:      true,
	needsReload: true,
	reloadHint:  reloadCommandHint + "; add reload: [apachectl, graceful]",
	note:        "holds one key: each rotation ends the tickets from before it",
}
