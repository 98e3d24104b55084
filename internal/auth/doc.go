// Package auth says who may do what: a [Policy] names identities, what they
// prove themselves with, and their roles; an [Authenticator] finds the identity
// of a request and holds back those who keep failing; a [File] keeps a policy as
// a file is.
//
// An identity proves itself with a bearer token, a client certificate that was
// verified, or the user of the process at the other end of a Unix socket. A
// request that carries a bearer token is judged by it alone: a wrong one is not
// made good by a certificate.
//
// Nothing here keeps a token: a policy holds SHA-256 hashes. One fast hash is
// enough, for a token is 256 random bits: there is no list of likely ones that
// a slow hash would make expensive to try.
package auth
