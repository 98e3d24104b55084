// Package doctor makes real TLS handshakes with the nodes of a fleet, and says which
// node resumes the sessions of which, and why not.
//
// [Client.Handshake] is one handshake: full, or with a session of an earlier one.
// Resumption by session ID has its own pair, [Client.StoreSession] and
// [Client.OfferID]. [Examine] makes all handshakes of a fleet, and says in a [Report]
// what they show and what is wrong.
//
// A server may be anybody's. Each handshake ends in time, what is read from it is
// bounded, and no text of a server gets into a report before it is made printable.
package doctor
