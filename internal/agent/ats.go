package agent

import "github.com/sessapi/sessapi/internal/keys"

// ats is Apache Traffic Server. The file in proxy.config.ssl.server.ticket_key.filename
// has all keys. Traffic Server rereads it on a configuration reload.
var ats = kind{
	format:      keys.ATS,
	needsReload: true,
	reloadHint:  reloadCommandHint + "; add reload: [traffic_ctl, config, reload]",
}
