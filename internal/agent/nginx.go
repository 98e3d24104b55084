package agent

import "github.com/sessapi/sessapi/internal/keys"

// nginx has a file for each ssl_session_ticket_key, the first of which encrypts. It
// reads them when it is reloaded, and keeps its configuration when the new one is
// broken.
var nginx = kind{
	format:      keys.NGINX,
	needsReload: true,
	reloadHint:  reloadCommandHint + "; add reload: [nginx, -s, reload]",
}
