// Package doctor makes real TLS handshakes with the nodes of a fleet, and reports which
// nodes resume whose sessions, and why others do not.
//
// [Client.Handshake] makes one handshake: full, or with the session of an earlier one.
// [Client.StoreSession] and [Client.OfferID] do the same for resumption by session ID.
// [Examine] makes all handshakes with a fleet, and returns a [Report] with findings.
//
// Servers are not trusted: each handshake has a timeout, reads are bounded, and text from
// a server is made printable before it enters a report.
package doctor
