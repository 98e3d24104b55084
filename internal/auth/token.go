package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
)

// A token is tokenPrefix, which lets secret scanners find leaked tokens, followed by 32
// random bytes in base32 (RFC 4648, section 6) without padding, in lower case. It is
// safe in shells and URLs, and a double click selects all of it.
const (
	tokenPrefix = "sessapi_"
	tokenSize   = len(tokenPrefix) + 52 // ceil(32 × 8 / 5)
)

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// TokenHash is the SHA-256 of a token with its prefix.
type TokenHash [sha256.Size]byte

// NewToken returns a new random token, and the hash that identifies it in a policy.
func NewToken() (token string, hash TokenHash) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	token = tokenPrefix + tokenEncoding.EncodeToString(random[:])
	return token, sha256.Sum256([]byte(token))
}

// hashToken returns the hash of a possible token, and whether its length is that of a
// token.
func hashToken(token string) (hash TokenHash, ok bool) {
	var buf [tokenSize]byte // converting a string of this length would allocate
	if len(token) != len(buf) {
		return hash, false
	}
	copy(buf[:], token)
	hash = sha256.Sum256(buf[:])
	clear(buf[:])
	return hash, true
}
