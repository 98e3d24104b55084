package doctor

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"
)

// certificate makes one of example.test that is valid until then.
func certificate(t *testing.T, notAfter time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"example.test"},
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// listen has each connection to a free port served until the test ends.
func listen(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); serve(conn) }()
		}
	}()
	return listener.Addr().String()
}

// serveTLS serves handshakes; what is read is answered with one byte.
func serveTLS(t *testing.T, config *tls.Config) (address string) {
	t.Helper()
	return listen(t, func(conn net.Conn) { reply(tls.Server(conn, config)) })
}

func reply(conn *tls.Conn) {
	defer conn.Close()
	if n, _ := conn.Read(make([]byte, 1)); n > 0 {
		_, _ = conn.Write([]byte("!"))
	}
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	for name, notAfter := range map[string]time.Time{
		"a valid certificate":    time.Now().Add(time.Hour),
		"an expired certificate": time.Now().Add(-time.Hour),
	} {
		for _, protocol := range []Protocol{TLS12, TLS13} {
			t.Run(name+" "+protocol.String(), func(t *testing.T) {
				t.Parallel()
				cert := certificate(t, notAfter)
				roots := x509.NewCertPool()
				roots.AddCert(cert.Leaf)
				a := &tls.Config{Certificates: []tls.Certificate{cert}}
				a.SetSessionTicketKeys([][32]byte{{1}})
				b := &tls.Config{Certificates: []tls.Certificate{cert}}
				b.SetSessionTicketKeys([][32]byte{{2}})
				addressA, addressB := serveTLS(t, a), serveTLS(t, b)
				client := &Client{ServerName: "example.test", Roots: roots, Timeout: time.Minute}

				full, err := client.Handshake(t.Context(), addressA, protocol, nil)
				if err != nil {
					t.Fatal(err)
				}
				if full.Resumed || full.Session == nil || full.Took <= 0 {
					t.Fatalf("full: %+v", full)
				}
				if expired := notAfter.Before(time.Now()); (full.Certificate != nil) != expired {
					t.Errorf("certificate: %v", full.Certificate)
				}
				if got := full.Session.Lifetime(); protocol == TLS13 && got != 7*24*time.Hour || protocol == TLS12 && got != 0 {
					t.Errorf("Go's tickets live for %v", got)
				}
				for address, want := range map[string]bool{addressA: true, addressB: false} {
					h, err := client.Handshake(t.Context(), address, protocol, full.Session)
					if err != nil {
						t.Fatal(err)
					}
					if h.Resumed != want {
						t.Errorf("resumed: %t, want %t", h.Resumed, want)
					}
				}
			})
		}
	}
}

// A server that decrypts a ticket refuses the decoy; one that does not takes it for a
// client that has nothing.
func TestDecoy(t *testing.T) {
	t.Parallel()
	config := func(key byte) *tls.Config {
		c := &tls.Config{Certificates: []tls.Certificate{certificate(t, time.Now().Add(time.Hour))}}
		c.SetSessionTicketKeys([][32]byte{{key}})
		return c
	}
	a, b := serveTLS(t, config(1)), serveTLS(t, config(2))
	client := &Client{Insecure: true, Timeout: time.Minute}
	var sessions []*Session
	for range 2 {
		h, err := client.Handshake(t.Context(), a, TLS13, nil)
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, h.Session)
	}
	decoy, err := sessions[0].decoy(sessions[1])
	if err != nil {
		t.Fatal(err)
	}
	if h, err := client.Handshake(t.Context(), a, TLS13, decoy); !isKind(err, Refused) {
		t.Errorf("who decrypts: %+v, %v", h, err)
	}
	if h, err := client.Handshake(t.Context(), b, TLS13, decoy); err != nil || h.Resumed {
		t.Errorf("who does not decrypt: %+v, %v", h, err)
	}
	for _, s := range sessions { // which are as they were
		if h, err := client.Handshake(t.Context(), a, TLS13, s); err != nil || !h.Resumed {
			t.Errorf("the session of the decoy: %+v, %v", h, err)
		}
	}
}

func TestClientCertificateAndALPN(t *testing.T) {
	t.Parallel()
	cert := []tls.Certificate{certificate(t, time.Now().Add(time.Hour))}
	address := serveTLS(t, &tls.Config{Certificates: cert, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"}})
	for _, protocol := range []Protocol{TLS12, TLS13} {
		client := &Client{Insecure: true, Timeout: time.Minute, Certificate: cert, ALPN: []string{"h2"}}
		h, err := client.Handshake(t.Context(), address, protocol, nil)
		if err != nil || h.Session == nil {
			t.Fatalf("%s: %+v, %v", protocol, h, err)
		}
		if h, err = client.Handshake(t.Context(), address, protocol, h.Session); err != nil || !h.Resumed {
			t.Errorf("%s: %+v, %v", protocol, h, err)
		}
		client.ALPN = []string{"other"}
		if h, err := client.Handshake(t.Context(), address, protocol, nil); !isKind(err, Refused) {
			t.Errorf("%s: %+v, %v", protocol, h, err)
		}
	}
}

func TestHandshakeFails(t *testing.T) {
	t.Parallel()
	cert := []tls.Certificate{certificate(t, time.Now().Add(time.Hour))}
	for name, test := range map[string]struct {
		address  string
		protocol Protocol
		want     Kind
	}{
		"nobody": {"127.0.0.1:1", TLS12, Unreachable},
		"hangs":  {listen(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<16)); _, _ = c.Read(make([]byte, 1)) }), TLS13, NoAnswer},
		"HTTP": {listen(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1<<16))
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		}), TLS12, NotTLS},
		"SSH":                           {listen(t, func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-x\r\n")); _, _ = c.Read(make([]byte, 1<<16)) }), TLS13, NotTLS},
		"hangs up":                      {listen(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<16)) }), TLS13, Refused},
		"only TLS 1.2":                  {serveTLS(t, &tls.Config{Certificates: cert, MaxVersion: tls.VersionTLS12}), TLS13, ProtocolMissing},
		"only TLS 1.3":                  {serveTLS(t, &tls.Config{Certificates: cert, MinVersion: tls.VersionTLS13}), TLS12, ProtocolMissing},
		"client certificate":            {serveTLS(t, &tls.Config{Certificates: cert, ClientAuth: tls.RequireAnyClientCert}), TLS12, Refused},
		"client certificate of TLS 1.3": {serveTLS(t, &tls.Config{Certificates: cert, ClientAuth: tls.RequireAnyClientCert}), TLS13, Refused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := &Client{Insecure: true, Timeout: time.Minute}
			if test.want == NoAnswer {
				client.Timeout = 100 * time.Millisecond
			}
			if h, err := client.Handshake(t.Context(), test.address, test.protocol, nil); !isKind(err, test.want) {
				t.Errorf("%+v, %v", h, err)
			}
			if test.protocol == TLS13 {
				return
			}
			if _, err := client.OfferID(t.Context(), test.address, bytes.Repeat([]byte{1}, 32)); !isKind(err, test.want) && name != "client certificate" {
				t.Errorf("offer: %v", err)
			}
		})
	}
}

// A server like BoringSSL keeps its tickets of TLS 1.3 back until it has something else
// to send.
func TestTicketsWithFirstAnswer(t *testing.T) {
	t.Parallel()
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t, time.Now().Add(time.Hour))}, ClientAuth: tls.RequestClientCert}
	address := listen(t, func(conn net.Conn) {
		late := &lateConn{Conn: conn}
		server := tls.Server(late, config)
		if n, _ := server.Read(make([]byte, 1)); n > 0 {
			late.answers = true
			_, _ = server.Write([]byte("!"))
		}
	})
	client := &Client{Insecure: true, Timeout: time.Minute}
	h, err := client.Handshake(t.Context(), address, TLS13, nil)
	if err != nil || h.Session == nil {
		t.Fatalf("%+v, %v", h, err)
	}
	if h, err := client.Handshake(t.Context(), address, TLS13, h.Session); err != nil || !h.Resumed {
		t.Errorf("%+v, %v", h, err)
	}
}

// lateConn holds back what the server writes behind the client's Finished, until it
// answers.
type lateConn struct {
	net.Conn
	wrote, finished, answers bool
	held                     []byte
}

func (c *lateConn) Read(p []byte) (int, error) {
	c.finished = c.wrote
	return c.Conn.Read(p)
}

func (c *lateConn) Write(p []byte) (int, error) {
	c.wrote = true
	if c.finished && !c.answers {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	_, err := c.Conn.Write(append(c.held, p...))
	c.held = nil
	return len(p), err
}
