package agent

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/sessapi/sessapi/internal/doctor"
	"github.com/sessapi/sessapi/internal/keys"
)

// probeTimeout bounds a handshake.
const probeTimeout = 5 * time.Second

// ticketKeyName makes a handshake with the server at address, with TLS 1.3 or else 1.2,
// and returns the name of the key that encrypted the ticket. It does not verify the
// certificate, because it sends no secret and relies on nothing that the server says
// except this name.
func ticketKeyName(ctx context.Context, address string) (keys.Name, error) {
	host, _, _ := net.SplitHostPort(address) // checked by Target.check
	c := doctor.Client{ServerName: host, Insecure: true, Timeout: probeTimeout}
	h, err := c.Handshake(ctx, address, doctor.TLS13, nil)
	if e, ok := errors.AsType[*doctor.Error](err); ok && e.Kind == doctor.ProtocolMissing {
		h, err = c.Handshake(ctx, address, doctor.TLS12, nil)
	}
	if err != nil {
		return keys.Name{}, err
	}
	if h.Session == nil {
		return keys.Name{}, errors.New("the server issues no tickets")
	}
	name, ok := h.Session.KeyName()
	if !ok {
		return keys.Name{}, errors.New("the server's ticket does not begin with the name of a key")
	}
	return name, nil
}
