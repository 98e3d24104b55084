// Package sslsession reads a serialized TLS session far enough to describe it. It reads
// the SSL_SESSION of OpenSSL (i2d_SSL_SESSION) in DER and PEM, and the SSL_SESSION of
// BoringSSL and AWS-LC.
//
// # Formats
//
// Both formats are a SEQUENCE of a version, the protocol, the cipher suite, the session
// ID and the master key, followed by explicitly tagged fields in ascending order.
//
//   - [OpenSSL] has the optional fields of SSL_SESSION_ASN1 in ssl/ssl_asn1.c, from
//     OpenSSL 1.1.1 to 3.x. The last is 20 (peer_rpk, since 3.2).
//   - [BoringSSL] has the fields of its own ssl/ssl_asn1.cc. Time and timeout are
//     required. Fields up to 10 are the same as OpenSSL's. Fields from 13 on are
//     different, and end at 33 in BoringSSL and at 30 in AWS-LC.
//
// A session that fits both formats, such as one with only time and timeout, counts as
// OpenSSL's.
//
// # Guarantees
//
//   - [Parse] rejects truncated sessions and sessions followed by other bytes. Every
//     field has the type and the bounds that its library requires.
//   - OpenSSL loads every session of format [OpenSSL], if its build has the cipher
//     suite and its version has the fields.
//   - No input causes a panic, or takes more memory than a session of [MaxSize] needs.
//   - The work for a session is at most proportional to its size.
//   - A [Session] holds no secret. The master key, the ticket, and the identities of
//     PSK and SRP are skipped. The slices of a Session have no spare capacity, so
//     reslicing cannot reach a secret.
//   - An error names the broken field, but never its content.
//
// Parse differs from OpenSSL's reader, d2i_SSL_SESSION, in two points: it accepts only
// DER, which OpenSSL writes, where OpenSSL accepts BER; and it reads only the structure
// of a certificate.
package sslsession
