package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
)

// kind describes a kind of server. Each kind has its own Go file.
type kind struct {
	format    keys.Format
	anyFormat bool // the target names the format
	single    bool // the server holds one key, so that a target has one file
	// needsReload means that the server does not reread its files by itself.
	needsReload bool
	reloadHint  string
	// settle is how long the server may take to encrypt with a new key after the agent
	// has applied it. 0 is defaultSettle.
	settle time.Duration
	// spacing is the minimum time between two reloads.
	spacing time.Duration
	// note is the detail of a report that the target is current.
	note string
	// keys, if it is not 0, is the default number of keys in the one file.
	keys int
	// render, if it is not nil, renders the one file instead of the format. n is the
	// target's number of keys.
	render func(set keys.Set, n int) []byte
	// holder, if it is not nil, makes the holder of a target, instead of fileHolder. It
	// calls wake when Holds may have another result.
	holder func(t *Target, files *fileHolder, ask asker, wake func()) holder
	// check, if it is not nil, fills in the defaults and checks the settings of a target,
	// instead of checkFiles.
	check func(t *Target, fail failure) error
	// sockets means that a target with files may have a socket, too.
	sockets bool
}

// defaultSettle is enough for a reload of every server in the end-to-end tests.
const defaultSettle = 15 * time.Second

func (k *kind) settleTime() time.Duration {
	if k.settle > 0 {
		return k.settle
	}
	return defaultSettle
}

// holder is a server that holds ticket keys.
type holder interface {
	// Holds reports whether the server holds the keys, as far as the agent can tell
	// without a handshake.
	Holds(context.Context, *wanted) (bool, error)
	// Apply makes the server hold the keys, whatever it holds. It follows a call of Holds.
	Apply(context.Context, *wanted) error
}

// servingHolder serves the keys itself, from the first Apply to Close.
type servingHolder interface {
	holder
	Close()
}

// unconfirmedError is the error of Holds for a server that has been given the keys, and
// has not said yet that it holds them. Applying them again would not help.
type unconfirmedError struct {
	detail   string
	rejected bool // it will not hold them
}

func (e *unconfirmedError) Error() string { return e.detail }

// asker sends a line, with its end, to a socket and returns the whole answer, which the
// caller wipes.
type asker func(ctx context.Context, socket string, line []byte) ([]byte, error)

var kinds = map[string]*kind{
	"ats":        &ats,
	"dnsdist":    &dnsdist,
	"envoy":      &envoy,
	"envoy-sds":  &envoySDS,
	"file":       &file,
	"h2o":        &h2o,
	"haproxy":    &haproxy,
	"httpd":      &httpd,
	"kubernetes": &kubernetesObject,
	"lighttpd":   &lighttpd,
	"nghttpx":    &nghttpx,
	"nginx":      &nginx,
}

func kindNames() []string { return slices.Sorted(maps.Keys(kinds)) }

const reloadCommandHint = "there is none, and this server reads its files only when it is told to"
