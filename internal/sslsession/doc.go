// Package sslsession reads a TLS session as OpenSSL serializes it, far enough
// to describe it: the SSL_SESSION of i2d_SSL_SESSION, in DER or in PEM.
//
// # Format
//
// The layout is the one of SSL_SESSION_ASN1 in ssl/ssl_asn1.c, from OpenSSL
// 1.1.1 to 3.x: a SEQUENCE of a version, the protocol, the cipher suite, the
// session ID and the master key, and after them optional fields in ascending
// order, each in an explicit tag of its own. OpenSSL knows the tags up to 20
// (peer_rpk, since 3.2). A field of a tag from 21 to 30 is taken to be one of
// a later OpenSSL and skipped when it holds one DER element; higher tags have
// another form of encoding and are refused.
//
// # Guarantees
//
//   - Of what [Parse] takes, all lengths add up: no truncated session, and none
//     with bytes behind it, decodes. Every field that OpenSSL knows has the type
//     and the bounds that OpenSSL holds it to; what is skipped may be nested
//     nonsense within its bounds.
//   - Nothing panics, whatever the input, and no more memory is taken than a
//     session of [MaxSize] needs.
//   - The work that a session takes grows with its size at most, whatever is in it.
//   - A [Session] holds no secret. The master key, the ticket, and the
//     identities of PSK and SRP are skipped. The slices of a Session end where
//     their capacity does, so not even by reslicing do they reach a secret.
//   - An error says which field is broken, but never what is in it.
//
// It differs from OpenSSL's reader, d2i_SSL_SESSION, in that it takes DER
// alone, as OpenSSL writes it, where OpenSSL takes BER; that it takes cipher
// suites it does not know; and that it does not read the certificate.
package sslsession
