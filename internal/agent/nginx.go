package agent

import "github.com/sessapi/sessapi/internal/keys"

// nginx has a file for each ssl_session_ticket_key. The first encrypts. nginx rereads
// them on a reload, and keeps its configuration if the new one is broken.
var nginx = kind{
	format:      keys.NGINX,
	needsReload: true,
	reloadHint:  reloadCommandHint + "; add reload: [nginx, -s, reload]",
}
