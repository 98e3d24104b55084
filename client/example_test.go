package client_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/sessapi/sessapi/client"
)

// service stands in for `sessapi serve`.
func service() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1795521600001"`)
		if r.URL.Query().Has("format") {
			w.Header().Set("Content-Type", "application/octet-stream")
			_, _ = io.WriteString(w, strings.Repeat("k", 48))
			return
		}
		_, _ = io.WriteString(w, `{"generation":1795521600001,"source":"api","keys":[`+
			`{"name":"5c3a7f0e9b2d4c618f0a1b2c3d4e5f60","role":"current","bits":256,"fingerprint":"422d51ad3eb9527559044e224a606b0f"}]}`)
	}))
}

func ExampleClient_TicketKeys() {
	s := service()
	defer s.Close()
	c, err := client.New(s.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	d, err := c.TicketKeys(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, k := range d.Keys {
		fmt.Println(k.Role, k.Name)
	}
	// Output: current 5c3a7f0e9b2d4c618f0a1b2c3d4e5f60
}

func ExampleClient_Watch() {
	s := service()
	defer s.Close()
	c, err := client.New(s.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	err = c.Watch(ctx, "ats", nil, func(data []byte) error {
		fmt.Println(len(data), "bytes of keys")
		stop() // or go on, and be called again when they change
		return nil
	})
	fmt.Println(err)
	// Output:
	// 48 bytes of keys
	// context canceled
}

// A server whose tickets resume on every other that follows the same service.
func ExampleClient_FollowTicketKeys() {
	c, err := client.New("http://127.0.0.1:8440")
	if err != nil {
		fmt.Println(err)
		return
	}
	certificate, err := tls.LoadX509KeyPair("cert.pem", "key.pem")
	if err != nil {
		fmt.Println(err)
		return
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { _ = c.FollowTicketKeys(ctx, config) }() // ends when ctx does, and not before

	server := &http.Server{Addr: ":8443", TLSConfig: &tls.Config{
		// The server copies its TLSConfig, which the keys would not reach.
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return config, nil },
	}}
	fmt.Println(server.ListenAndServeTLS("", ""))
}

// A server whose sessions resume on every other that shares them in the same service.
func ExampleClient_ShareSessions() {
	c, err := client.New("http://127.0.0.1:8440")
	if err != nil {
		fmt.Println(err)
		return
	}
	config := &tls.Config{}
	c.ShareSessions(context.Background(), config)
	server := &http.Server{Addr: ":8443", TLSConfig: config}
	fmt.Println(server.ListenAndServeTLS("cert.pem", "key.pem"))
}
