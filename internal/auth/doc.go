// Package auth authenticates and authorizes requests.
//
//   - A [Policy] lists identities with their credentials and roles.
//   - An [Authenticator] finds the identity of a request, and limits sources that keep
//     failing.
//   - A [File] follows a policy file.
//
// Credentials are a bearer token, a verified client certificate, or the user of the process
// at the other end of a Unix socket. If a request has a bearer token, only the token counts:
// a certificate does not make up for a wrong token.
//
// A policy holds SHA-256 hashes, no tokens. One fast hash is enough: a token has 256 random
// bits, so there is no list of likely tokens that a slow hash would make expensive to try.
package auth
