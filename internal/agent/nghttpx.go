package agent

import "github.com/sessapi/sessapi/internal/keys"

// nghttpx has a file for each --tls-ticket-key-file, the first of which encrypts. It
// rereads them when it reloads its configuration.
var nghttpx = kind{
	format:      keys.NGHTTPX,
	needsReload: true,
	reloadHint:  reloadCommandHint + "; add reload: {signal: HUP, pid_file: FILE}",
}
