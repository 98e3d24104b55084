// Package keys keeps the session ticket keys of a fleet of TLS servers: which
// key encrypts, which ones still decrypt, and which one comes next.
//
// A TLS server encrypts the state of a session in a ticket, under a session ticket
// encryption key (RFC 5077, section 4). It needs the same key again when the client
// returns.
//
//   - A [Key] is a name, an HMAC secret and an AES key. Each ticket begins with the
//     name in the clear.
//   - A [Set] is the keys that are in use at one time.
//   - A [Ring] holds the active set and changes it.
//   - A [Format] reads and writes sets in the file format of a server.
//   - A [File] loads a key file into a ring.
//
// # Guarantees
//
//   - Updates are atomic: a reader sees the set of one generation, and an update that fails
//     changes nothing.
//   - One generation counter orders the updates of all sources. The most recent update wins.
//     An update that changes nothing keeps the generation.
//   - A key is distributed before it encrypts (see [Ring.Rotate]). The exception is the
//     replacement of a revoked current key in a set without a next key.
//   - Keys come from the operating system's random source, or are pushed. There is no
//     fallback key.
//   - No key prints its secrets through fmt, log/slog or encoding/json, also not as a part
//     of another value. No error holds secrets.
//   - The ring wipes the secrets of the keys that it drops. It cannot wipe Go's hash and
//     HMAC states, which hold secrets while a key is derived or fingerprinted.
//
// The package copies its arguments. Its results belong to the caller.
package keys
