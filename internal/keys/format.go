package keys

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

// ErrUnknownFormat reports a name that is not that of a [Format].
var ErrUnknownFormat = errors.New("keys: unknown ticket key format")

// Format is how a server reads ticket keys.
type Format uint8

// ATS is the key file of Apache Traffic Server: records of 48 bytes one after
// another, each a name of 16, an HMAC secret of 16 and an AES key of 16. The
// first one encrypts, all of them decrypt (ticket_block_create in
// iocore/net/SSLCertLookup.cc of Traffic Server 9).
const ATS Format = 0

// layouts says all that there is to know of each format.
var layouts = [...]layout{
	ATS: {name: "ats", secretSize: size128},
}

type layout struct {
	name       string
	secretSize int // in bytes, of the HMAC secret and of the AES key each
}

func (l layout) recordSize() int { return NameSize + 2*l.secretSize }

// ParseFormat returns the format of that name. The error is
// [ErrUnknownFormat].
func ParseFormat(name string) (Format, error) {
	for f, l := range layouts {
		if l.name == name {
			return Format(f), nil
		}
	}
	return 0, ErrUnknownFormat
}

// String returns the name of the format.
func (f Format) String() string { return layouts[f].name }

// Parse reads a set. Data of the wrong length is an [*InvalidError]: bytes
// behind the last record are not passed over, since they mean that the records
// are not what they seem. Whether the keys are good is for [Set.Validate] to
// say. The set is the caller's to wipe and shares no memory with data.
func (f Format) Parse(data []byte) (Set, error) {
	l := layouts[f]
	size := l.recordSize()
	n := (len(data) + size - 1) / size
	if err := checkCount(n, n); err != nil {
		return Set{}, err
	}
	if rest := len(data) % size; rest != 0 {
		return Set{}, &InvalidError{[]Issue{{
			KindLength, fmt.Sprintf("keys[%d]", n-1),
			fmt.Sprintf("has %d of the %d bytes of a record (%d bytes in all)", rest, size, len(data)),
		}}}
	}
	set := Set{Keys: make([]Key, n)}
	for i := range set.Keys {
		record := data[i*size : (i+1)*size]
		secrets := record[NameSize:]
		set.Keys[i] = NewKey(record[:NameSize], secrets[:l.secretSize], secrets[l.secretSize:])
	}
	return set, nil
}

// Append appends a valid set to dst, which the caller must wipe: the current
// key, the next one, which the server so decrypts with before others encrypt
// with it, and the previous ones from the newest on.
//
// Keys of a size that the format does not have get secrets that are derived
// from theirs, the same on every node: HKDF-SHA256 (RFC 5869) with the HMAC
// secret and the AES key one after the other as input keying material, the name
// as salt and "sessapi FORMAT v1" as info; the output is the HMAC secret and
// then the AES key. The name stays.
func (f Format) Append(dst []byte, set Set) []byte {
	l := layouts[f]
	dst = slices.Grow(dst, set.len()*l.recordSize()) // growing it later would leave copies of secrets behind
	for _, k := range set.all() {
		name := k.Name()
		dst = append(dst, name[:]...)
		if k.Bits() == 8*l.secretSize {
			dst = k.AppendAESKey(k.AppendHMACSecret(dst))
		} else {
			dst = l.appendDerived(dst, k)
		}
	}
	return dst
}

func (l layout) appendDerived(dst []byte, k Key) []byte {
	m := k.view()
	secret := make([]byte, 0, len(m.hmacSecret)+len(m.aesKey))
	secret = append(append(secret, m.hmacSecret...), m.aesKey...)
	defer clear(secret)
	derived, err := hkdf.Key(sha256.New, secret, m.name, "sessapi "+l.name+" v1", 2*l.secretSize)
	if err != nil {
		panic(err) // only for more than 255 hashes of output
	}
	defer clear(derived)
	return append(dst, derived...)
}
