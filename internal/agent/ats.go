package agent

import "github.com/sessapi/sessapi/internal/keys"

// ats is Apache Traffic Server. The file of its setting
// proxy.config.ssl.server.ticket_key.filename has all keys, and it rereads the file at a
// reload of its configuration.
var ats = kind{
	format:      keys.ATS,
	needsReload: true,
	reloadHint:  reloadCommandHint + "; add reload: [traffic_ctl, config, reload]",
}
