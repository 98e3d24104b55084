package agent

import "github.com/sessapi/sessapi/internal/keys"

// ats is Apache Traffic Server, whose file of the setting
// proxy.config.ssl.server.ticket_key.filename has all keys. It reads the file when it
// is told to reload its configuration.
var ats = kind{
	format:      keys.ATS,
	needsReload: true,
	reloadHint:  reloadCommandHint + "; add reload: [traffic_ctl, config, reload]",
}
