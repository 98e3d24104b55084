package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"

	"github.com/redis/rueidis"

	"github.com/sessapi/sessapi/internal/files"
)

// options are the settings as the library has them.
func (n *Node) options() (rueidis.ClientOption, error) {
	o, err := rueidis.ParseURL(n.cfg.URL)
	if err != nil {
		return o, err
	}
	if n.cfg.TLS != nil {
		if o.TLSConfig == nil {
			return o, errors.New("TLS needs a rediss:// URL")
		}
		c := n.cfg.TLS.Clone()
		c.MinVersion, c.ServerName = o.TLSConfig.MinVersion, o.TLSConfig.ServerName
		o.TLSConfig = c
	}
	switch user := o.Username; {
	case n.cfg.AuthFile == "":
	case o.Sentinel.MasterSet != "": // the library would show those of a function to the Sentinels, too
		auth, err := readAuth(n.cfg.AuthFile, user)
		if err != nil {
			return o, err
		}
		o.Username, o.Password = auth.Username, auth.Password
	default:
		o.AuthCredentialsFn = func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
			return readAuth(n.cfg.AuthFile, user)
		}
	}
	dial := o.DialCtxFn
	if dial == nil {
		dial = dialTCP
	}
	o.DialCtxFn = func(ctx context.Context, address string, d *net.Dialer, c *tls.Config) (net.Conn, error) {
		conn, err := dial(ctx, address, d, c)
		if err != nil {
			return nil, err
		}
		n.broke() // whatever Redis had to tell before was not told to this one
		n.counts.reconnects.Add(1)
		return newGuard(conn, n.violated), nil
	}
	o.Dialer.Timeout = dialTimeout
	o.ConnWriteTimeout = hungTimeout
	o.Sentinel.Dialer = o.Dialer
	o.Sentinel.TLSConfig = o.TLSConfig
	o.Sentinel.TopologyRefreshInterval = pollEvery
	o.ClusterOption.ShardsRefreshInterval = pollEvery
	// One connection to a server: what it tells of changes is then in one order
	// with what it answers.
	o.PipelineMultiplex = -1
	o.AlwaysPipelining = true
	o.MaxFlushDelay = flushDelay
	o.RingScaleEachConn = queueScale
	o.DisableRetry = true
	o.ClientName = "sessapi"
	o.ClientSetInfo = rueidis.DisableClientSetInfo // is a right more to give
	o.ClientTrackingOptions = []string{"BCAST", "NOLOOP", "PREFIX", n.cfg.Namespace + ":"}
	o.OnInvalidations = n.invalidated
	return o, nil
}

// violated is told why a connection is closed.
func (n *Node) violated(err error) {
	n.counts.violations.Add(1)
	n.cfg.Log.Error("closed a connection to Redis", slog.String("error", err.Error()))
}

// exposed is an address that is neither on this host nor reached with TLS; "" without
// one.
func exposed(o rueidis.ClientOption) string {
	for _, address := range o.InitAddress {
		if strings.HasPrefix(address, "/") { // a Unix socket
			continue
		}
		host, _, err := net.SplitHostPort(address)
		ip, _ := netip.ParseAddr(host)
		if err == nil && o.TLSConfig == nil && host != "localhost" && !ip.IsLoopback() {
			return address
		}
	}
	return ""
}

func dialTCP(ctx context.Context, address string, d *net.Dialer, c *tls.Config) (net.Conn, error) {
	if c != nil {
		return (&tls.Dialer{NetDialer: d, Config: c}).DialContext(ctx, "tcp", address)
	}
	return d.DialContext(ctx, "tcp", address)
}

// readAuth reads the credentials of Redis, of the user if the URL names one.
func readAuth(path, user string) (rueidis.AuthCredentials, error) {
	data, _, err := files.ReadText(path, maxAuthFile)
	if err != nil {
		return rueidis.AuthCredentials{}, fmt.Errorf("%s: %w", path, err)
	}
	defer clear(data)
	text := strings.ReplaceAll(strings.TrimRight(string(data), "\r\n"), "\r\n", "\n")
	name, password, lines := strings.Cut(text, "\n")
	switch {
	case lines:
	case user != "":
		name, password = user, text
	default:
		if before, after, found := strings.Cut(text, " "); found {
			name, password = before, after
		} else {
			name, password = "", text
		}
	}
	if password == "" || strings.Contains(password, "\n") {
		return rueidis.AuthCredentials{}, fmt.Errorf("%s: must hold the password, or the user and, on the next line, the password", path)
	}
	return rueidis.AuthCredentials{Username: name, Password: password}, nil
}

var (
	// ErrNoPassword reports that Redis wants a password and was given none.
	ErrNoPassword = errors.New("the server requires a password: set --redis-auth-file to a file that holds it")
	// ErrWrongPassword reports that Redis refused the user or the password.
	ErrWrongPassword = errors.New("the server rejected the user or the password in --redis-auth-file")
)

// refusal is the error of Redis, or what it means when it is about credentials.
func refusal(err error) error {
	reply, ok := rueidis.IsRedisErr(err)
	switch {
	case !ok:
	case strings.HasPrefix(reply.Error(), "NOAUTH"):
		return ErrNoPassword
	case strings.HasPrefix(reply.Error(), "WRONGPASS"):
		return ErrWrongPassword
	}
	return err
}
