package sslsession_test

import (
	"fmt"
	"os"
	"time"

	"github.com/sessapi/sessapi/internal/sslsession"
)

func Example() {
	text, err := os.ReadFile("testdata/tls12-server-name.pem") // of openssl s_client -sess_out
	if err != nil {
		fmt.Println(err)
		return
	}
	der, err := sslsession.DecodePEM(text)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer clear(der)
	s, err := sslsession.Parse(der, time.Now())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.Protocol, s.Cipher)
	fmt.Printf("ID %x\n", s.ID)
	fmt.Println("ends at", s.EndsAt().Format(time.RFC3339))
	if len(s.ServerName) > 0 {
		fmt.Printf("server name %s\n", s.ServerName)
	}
	if subject, ok := s.PeerSubject(); ok {
		fmt.Println("peer", subject)
	}

	_, err = sslsession.Parse(der[:100], time.Now())
	fmt.Println(err)
	// Output:
	// TLSv1.2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
	// ID eac339b0ff1eb878f2d48ab5a7b7a128d552fc607142d7d39d0fed8bbc3ee37f
	// ends at 2026-11-24T14:36:16Z
	// server name www.example.com
	// peer CN=server.example
	// not an SSL_SESSION: not exactly one DER SEQUENCE
}
