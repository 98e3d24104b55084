package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
)

// A token is tokenPrefix, by which scanners for secrets find one that leaked,
// and 32 random bytes in base32 (RFC 4648, section 6) without padding, in lower
// case, which has nothing in it that a shell, a URL or a double click stumbles
// over.
const (
	tokenPrefix = "sessapi_"
	tokenSize   = len(tokenPrefix) + 52 // ceil(32 × 8 / 5)
)

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// TokenHash is the SHA-256 of a token, its prefix included.
type TokenHash [sha256.Size]byte

// NewToken returns a fresh random token and the hash that a policy knows it by.
func NewToken() (token string, hash TokenHash) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	token = tokenPrefix + tokenEncoding.EncodeToString(random[:])
	return token, sha256.Sum256([]byte(token))
}

// hashToken returns the hash of what may be a token, and whether it has the
// length of one.
func hashToken(token string) (hash TokenHash, ok bool) {
	var buf [tokenSize]byte // the conversion of a string of this length would allocate
	if len(token) != len(buf) {
		return hash, false
	}
	copy(buf[:], token)
	hash = sha256.Sum256(buf[:])
	clear(buf[:])
	return hash, true
}
