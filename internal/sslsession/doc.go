// Package sslsession reads a TLS session as OpenSSL serializes it, far enough
// to describe it: the SSL_SESSION of i2d_SSL_SESSION, in DER or in PEM. It reads
// the SSL_SESSION of BoringSSL and AWS-LC, too.
//
// # Formats
//
// Both are a SEQUENCE of a version, the protocol, the cipher suite, the session ID
// and the master key, and after them fields in ascending order, each in an
// explicit tag of its own.
//
//   - [OpenSSL] has the optional fields of SSL_SESSION_ASN1 in ssl/ssl_asn1.c, from
//     OpenSSL 1.1.1 to 3.x. The last is 20 (peer_rpk, since 3.2).
//   - [BoringSSL] has the fields of ssl/ssl_asn1.cc there. Time and timeout are
//     required. The fields up to 10 are OpenSSL's, those from 13 on its own: they
//     go to 33 in BoringSSL and to 30 in AWS-LC.
//
// A session that both could have written, such as one with time and timeout alone,
// is OpenSSL's.
//
// # Guarantees
//
//   - Of what [Parse] takes, all lengths add up: no truncated session, and none
//     with bytes behind it, decodes. Every field has the type and the bounds that
//     its library holds it to.
//   - What is called OpenSSL's OpenSSL loads, if its build has the cipher suite and
//     its version the fields.
//   - Nothing panics, whatever the input, and no more memory is taken than a
//     session of [MaxSize] needs.
//   - The work that a session takes grows with its size at most, whatever is in it.
//   - A [Session] holds no secret. The master key, the ticket, and the
//     identities of PSK and SRP are skipped. The slices of a Session end where
//     their capacity does, so not even by reslicing do they reach a secret.
//   - An error says which field is broken, but never what is in it.
//
// It differs from OpenSSL's reader, d2i_SSL_SESSION, in that it takes DER
// alone, as OpenSSL writes it, where OpenSSL takes BER; and that of a certificate
// it reads the structure alone.
package sslsession
