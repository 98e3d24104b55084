package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
)

// maxIDLen is SSL_MAX_SSL_SESSION_ID_LENGTH of OpenSSL's ssl.h, and the bound
// of SessionID in RFC 5246, section 7.4.1.2.
const maxIDLen = 32

// ErrInvalidID reports a session ID of the wrong length or, as text, with a character
// that is not a hex digit.
var ErrInvalidID = errors.New("cache: a session ID is 1 to 32 bytes, in text 2 to 64 hex digits")

// ID is a TLS session ID of 1 to 32 bytes. IDs compare with ==. The zero ID is
// no session's.
type ID struct {
	b [maxIDLen]byte // zero from n on, so that == compares IDs
	n uint8
}

// MakeID returns the ID made of the bytes b, which it copies. The error is
// ErrInvalidID.
func MakeID(b []byte) (ID, error) {
	if len(b) < 1 || len(b) > maxIDLen {
		return ID{}, ErrInvalidID
	}
	id := ID{n: uint8(len(b))}
	copy(id.b[:], b)
	return id, nil
}

// ParseID reads an ID written as 2 to 64 hex digits, an even number of them,
// in either case. The error is ErrInvalidID. ParseID does not allocate.
func ParseID(s string) (ID, error) {
	if len(s) < 2 || len(s) > 2*maxIDLen {
		return ID{}, ErrInvalidID
	}
	id := ID{n: uint8(len(s) / 2)}
	if _, err := hex.Decode(id.b[:], []byte(s)); err != nil {
		return ID{}, ErrInvalidID // hex's own error would quote the input
	}
	return id, nil
}

// String returns the ID in lower-case hex, as ParseID reads it.
func (id ID) String() string { return hex.EncodeToString(id.b[:id.n]) }

// AppendHex appends the ID to dst, as String returns it.
func (id ID) AppendHex(dst []byte) []byte { return hex.AppendEncode(dst, id.b[:id.n]) }

// AppendBytes appends the bytes of the ID to dst.
func (id ID) AppendBytes(dst []byte) []byte { return append(dst, id.b[:id.n]...) }

// Bytes returns the bytes of the ID in a slice that the caller owns.
func (id ID) Bytes() []byte { return bytes.Clone(id.b[:id.n]) }

// Tag is a strong validator of a session's content: equal tags mean equal bytes (RFC
// 9110, section 8.8.1). It does not reveal the bytes.
type Tag struct{ hi, lo uint64 } // not an array, which Go returns in no registers

// TagOf returns the tag of data: the first 16 bytes of its SHA-256.
func TagOf(data []byte) Tag {
	sum := sha256.Sum256(data)
	return Tag{binary.BigEndian.Uint64(sum[:8]), binary.BigEndian.Uint64(sum[8:16])}
}

// AppendHex appends the 16 bytes of the tag to dst, in lower-case hex.
func (t Tag) AppendHex(dst []byte) []byte {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], t.hi)
	binary.BigEndian.PutUint64(b[8:], t.lo)
	return hex.AppendEncode(dst, b[:])
}
