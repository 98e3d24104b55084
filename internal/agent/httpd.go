package agent

import "github.com/sessapi/sessapi/internal/keys"

// httpd has one key, and reads it when it is reloaded.
var httpd = kind{
	format:      keys.HTTPD,
	single:      true,
	needsReload: true,
	reloadHint:  reloadCommandHint + "; add reload: [apachectl, graceful]",
	note:        "holds one key: each rotation ends the tickets from before it",
}
