// Package keys keeps the session ticket keys of a fleet of TLS servers: which
// key encrypts, which ones still decrypt, and which one comes next.
//
// A TLS server seals the state of a session in a ticket under a session ticket
// encryption key (RFC 5077, section 4), and needs the same key again when the
// client comes back. A [Key] is a name, which stands in the clear at the head
// of each ticket, an HMAC secret and an AES key. A [Set] is the keys that are
// in use at one time. A [Ring] holds the active set and changes it, a [Format]
// reads and writes sets as a server does, and a [File] feeds a ring from a key
// file.
//
// # Guarantees
//
//   - A set is active as a whole or not at all: a reader sees the set of one
//     generation, and an update that fails changes nothing.
//   - One generation orders the updates, wherever they come from. The most
//     recent one wins; one that changes nothing does not count.
//   - A key is handed out before it encrypts (see [Ring.Rotate]). The
//     exception is a current key that is revoked and has no successor.
//   - Keys come from the operating system's random source, or from whoever
//     pushes them; there is no key to fall back on when those are refused.
//   - No key prints its secrets: not through fmt, log/slog or encoding/json,
//     and not as a part of something else. No error holds secrets.
//   - The ring wipes the secrets it drops, when it drops them. Go's own hash
//     and HMAC states, which hold secrets while a key is derived or
//     fingerprinted, are out of its reach.
//
// What the package returns is the caller's own, what it is given it copies.
package keys
