package keys

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// NameSize is the size of a key's name in bytes: key_name in RFC 5077, section 4, and
// in everything that follows OpenSSL's SSL_CTX_set_tlsext_ticket_key_evp_cb.
const NameSize = 16

// Sizes of a secret in bytes: those of an AES-128 and an AES-256 key.
const (
	size128 = 16
	size256 = 32
)

// ErrInvalidName reports text that is not a key name.
var ErrInvalidName = errors.New("keys: a key name is 32 hex digits")

// Name identifies a key. It is not secret: every ticket carries it in the clear. Names
// are comparable with ==.
type Name [NameSize]byte

// ParseName reads a name of 32 hex digits of either case. The error is
// [ErrInvalidName].
func ParseName(s string) (Name, error) {
	var n Name
	if len(s) != 2*NameSize {
		return n, ErrInvalidName
	}
	if _, err := hex.Decode(n[:], []byte(s)); err != nil {
		return Name{}, ErrInvalidName
	}
	return n, nil
}

// String returns the name in lower-case hex.
func (n Name) String() string { return hex.EncodeToString(n[:]) }

// Key is a session ticket key: a name, an HMAC secret and an AES key. These may have
// any length; [Set.Validate] checks whether the key is usable. The zero Key is empty.
//
// Copies of a Key share its secrets: [Set.Wipe] wipes those of every copy. Until then a
// Key is safe for concurrent use.
//
// A Key shows only its name and size when it is printed, logged or marshaled.
type Key struct {
	// fmt calls no method of a value in an unexported field. It does not follow a
	// pointer there, except one to a struct with an unsuitable verb, such as %t: hence
	// two pointers.
	m **material
}

type material struct {
	name, hmacSecret, aesKey []byte
}

// NewKey returns a key made of copies of its arguments.
func NewKey(name, hmacSecret, aesKey []byte) Key {
	m := &material{
		name:       bytes.Clone(name),
		hmacSecret: bytes.Clone(hmacSecret),
		aesKey:     bytes.Clone(aesKey),
	}
	return Key{&m}
}

// generate returns a fresh key with secrets of size bytes each, from the bytes that
// read supplies. It retries while validation would reject the secrets: 16 random bytes
// are printable text once in five million.
func generate(read func([]byte) (int, error), size int) Key {
	buf := make([]byte, NameSize+2*size)
	defer clear(buf)
	for {
		_, _ = read(buf) // crypto/rand.Read never fails
		k := NewKey(buf[:NameSize], buf[NameSize:NameSize+size], buf[NameSize+size:])
		if len(k.issues("")) == 0 {
			return k
		}
		k.wipe()
	}
}

// view returns the material without copying it.
func (k Key) view() material {
	if k.m == nil {
		return material{}
	}
	return **k.m
}

// Name returns the name of the key.
func (k Key) Name() Name {
	var n Name
	copy(n[:], k.view().name)
	return n
}

// Bits returns the size of the AES key: 128 or 256. In a valid set, the HMAC secret has
// the same size.
func (k Key) Bits() int { return 8 * len(k.view().aesKey) }

// fingerprintLabel separates fingerprints from all other hashes of a key.
const fingerprintLabel = "sessapi ticket key fingerprint v1"

// Fingerprint identifies a key without revealing it. It is the first 16 bytes, in hex,
// of the SHA-256 of "sessapi ticket key fingerprint v1", the name, the HMAC secret and
// the AES key. Keys with the same fingerprint are the same on every node.
func (k Key) Fingerprint() string {
	m := k.view()
	h := sha256.New()
	for _, part := range [][]byte{[]byte(fingerprintLabel), m.name, m.hmacSecret, m.aesKey} {
		h.Write(part)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// AppendHMACSecret appends the HMAC secret to dst, which the caller must wipe.
func (k Key) AppendHMACSecret(dst []byte) []byte { return append(dst, k.view().hmacSecret...) }

// AppendAESKey appends the AES key to dst, which the caller must wipe.
func (k Key) AppendAESKey(dst []byte) []byte { return append(dst, k.view().aesKey...) }

// Equal reports whether k and other have the same name and secrets, in constant time.
func (k Key) Equal(other Key) bool {
	a, b := k.view(), other.view()
	return subtle.ConstantTimeCompare(a.name, b.name)&
		subtle.ConstantTimeCompare(a.hmacSecret, b.hmacSecret)&
		subtle.ConstantTimeCompare(a.aesKey, b.aesKey) == 1
}

func (k Key) clone() Key {
	m := k.view()
	return NewKey(m.name, m.hmacSecret, m.aesKey)
}

// wipe overwrites the secrets with zeros. The name stays.
func (k Key) wipe() {
	m := k.view()
	clear(m.hmacSecret)
	clear(m.aesKey)
}

// issues returns the issues of the key by itself. Each field starts with prefix.
func (k Key) issues(prefix string) []Issue {
	m := k.view()
	var issues []Issue
	if len(m.name) != NameSize {
		issues = append(issues, Issue{KindLength, prefix + ".name", fmt.Sprintf("has %d bytes, a name has %d", len(m.name), NameSize)})
	}
	for _, secret := range []struct {
		field string
		bytes []byte
	}{{prefix + ".hmac_secret", m.hmacSecret}, {prefix + ".aes_key", m.aesKey}} {
		n := len(secret.bytes)
		switch {
		case !isSize(n):
			issues = append(issues, Issue{KindLength, secret.field, fmt.Sprintf("has %d bytes, must have %d or %d", n, size128, size256)})
		case bytes.Count(secret.bytes, secret.bytes[:1]) == n:
			issues = append(issues, Issue{KindWeak, secret.field, "is one byte repeated; use random bytes (openssl rand)"})
		case isText(secret.bytes):
			// A widely copied recipe, openssl rand -base64 48 | head -c 48, produces
			// this.
			issues = append(issues, Issue{KindWeak, secret.field, fmt.Sprintf(
				"is printable text, with at most %d bits of entropy instead of %d; use the random bytes themselves (openssl rand %d makes a key)",
				6*n, 8*n, NameSize+2*n)})
		}
	}
	if isSize(len(m.hmacSecret)) && subtle.ConstantTimeCompare(m.hmacSecret, m.aesKey) == 1 {
		issues = append(issues, Issue{KindWeak, prefix, "has the same bytes for the HMAC secret and the AES key"})
	}
	return issues
}

// isSize reports whether a secret may have n bytes.
func isSize(n int) bool { return n == size128 || n == size256 }

// isText reports whether b is only printable ASCII, tabs and line ends.
func isText(b []byte) bool {
	for _, c := range b {
		if (c < ' ' || c > '~') && c != '\t' && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}

// String returns the name and the size.
func (k Key) String() string { return fmt.Sprintf("ticket key %s (%d bits)", k.Name(), k.Bits()) }

// GoString returns the name and the size.
func (k Key) GoString() string { return k.String() }

// Format writes the name and the size, whatever the verb.
func (k Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, k.String()) }

// LogValue returns the name and the size.
func (k Key) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", k.Name().String()), slog.Int("bits", k.Bits()))
}

// MarshalJSON returns an object of the name and the size.
func (k Key) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name string `json:"name"`
		Bits int    `json:"bits"`
	}{k.Name().String(), k.Bits()})
}
