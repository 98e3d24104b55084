package agent

import "github.com/sessapi/sessapi/internal/keys"

// nghttpx has a file for each --tls-ticket-key-file. The first encrypts. nghttpx
// rereads them when it reloads its configuration.
var nghttpx = kind{
	format:      keys.NGHTTPX,
	needsReload: true,
	reloadHint:  reloadCommandHint + "; add reload: {signal: HUP, pid_file: FILE}",
}
