//go:build envoysds

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sessapi/sessapi/internal/agent/envoysds"
	"github.com/sessapi/sessapi/internal/keys"
)

// envoySDS is every Envoy that subscribes to the secret at the agent's socket. They hold
// the keys when all that are connected have accepted them.
var envoySDS = kind{
	check:  (*Target).checkSDS,
	render: func(set keys.Set, _ int) []byte { return envoysds.Secret(set) },
	holder: func(t *Target, _ *fileHolder, _ asker, wake func()) holder {
		return &sdsHolder{config: envoysds.Config{
			Socket: t.Socket, Attributes: t.attributes, Timeout: time.Duration(t.Timeout), Changed: wake,
		}}
	},
}

// checkSDS checks the settings of a target of kind envoy-sds.
func (t *Target) checkSDS(fail failure) error {
	if err := t.only(fail, "mode", "owner", "probe", "socket"); err != nil {
		return err
	}
	switch {
	case t.Socket == "":
		return fail("socket", "there is none; add the path at which the agent serves the keys")
	case t.Mode != 0 && t.Mode != 0o600 && t.Mode != groupSocket:
		return fail("mode", "must be 0600 or 0660: who connects to a socket needs the permission to write")
	}
	return nil
}

// sdsHolder is a [servingHolder].
type sdsHolder struct {
	config envoysds.Config
	server *envoysds.Server // nil while there is none
}

// Holds reports whether all Envoys have accepted the keys.
func (h *sdsHolder) Holds(_ context.Context, w *wanted) (bool, error) {
	if h.server == nil || !h.server.Reachable() || !h.server.Offers(w.generation) {
		return false, nil
	}
	err := h.server.Accepted()
	if err == nil {
		return true, nil
	}
	_, rejected := errors.AsType[*envoysds.RejectedError](err)
	return false, &unconfirmedError{err.Error(), rejected}
}

// Apply offers the keys to all Envoys. It serves at the socket if nothing does, or the
// socket has been removed.
func (h *sdsHolder) Apply(_ context.Context, w *wanted) error {
	if h.server != nil && !h.server.Reachable() {
		h.Close()
	}
	if h.server == nil {
		server, err := envoysds.Listen(h.config)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		h.server = server
	}
	h.server.Offer(w.generation, w.files[0])
	return nil
}

// Close ends the connections of all Envoys. They keep the keys.
func (h *sdsHolder) Close() {
	if h.server != nil {
		h.server.Close()
		h.server = nil
	}
}
