// Package seal encrypts and authenticates data that leaves the process. Whoever reads
// the disk or the shared store learns nothing, and changes are detected.
//
// A [Keys] seals with its first key and opens with all of them: to replace a key, put
// the new one in front. [Keys.Seal] seals bytes in memory as a record, [Keys.NewWriter]
// seals a stream of any length. Both are bound to a [Binding], and do not open with
// another one. Anything with the same binding and key opens, for example an older
// version of a file.
//
// What it promises:
//   - The cipher is XChaCha20-Poly1305 with random nonces of 24 bytes: after 10,000
//     records a second for 100 years, the probability that a nonce was repeated is 2^-103.
//   - A record that was changed, cut off, or moved to the place of one with another
//     binding does not open. Neither does a stream with a part missing, added or moved.
//     Data that a reader returns before the error is authentic and in its place; only
//     io.EOF says that the stream is complete.
//   - Memory is bounded: opening takes at most the size of the record, or two chunks of a
//     stream.
//   - No error holds bytes of keys or of sealed data.
//
// Go's ciphers keep copies of keys that cannot be wiped.
package seal

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
)

// Why something does not open.
var (
	// ErrUnknownKey reports that none of the keys is the one that sealed the data.
	ErrUnknownKey = errors.New("seal: encrypted with a key that is not in the seal key file")
	// ErrVersion reports a layout that this version does not know.
	ErrVersion = errors.New("seal: not written by sessapi, or written by a later version")
	// ErrCorrupt reports data that was changed, or was sealed with another binding.
	ErrCorrupt = errors.New("seal: corrupt, incomplete, or of another kind")
)

// A record is
//
//	version (1), key ID (8), nonce (24), ciphertext, tag (16)
//
// sealed with a key of its own kind that is derived from the seal key.
const (
	version    = 1
	keyIDSize  = 8
	headerSize = 1 + keyIDSize

	// Overhead is the size of a record beyond its plaintext, in bytes.
	Overhead = headerSize + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead
)

// The labels of what is derived from a seal key with HKDF-SHA256 (RFC 5869).
const (
	labelKeyID  = "sessapi seal key ID v1"
	labelRecord = "sessapi seal record v1"
	labelStream = "sessapi seal stream v1"
)

// Binding identifies a record or stream. It is authenticated but not stored: to open
// one, the caller must pass the same binding.
type Binding struct {
	Kind      string // of data, such as "ticket keys"
	Namespace string // whose data; "" where there is but one
	ID        []byte // which one of the kind; nil where there is but one
}

// Keys seals and opens. It is safe for concurrent use. Printing it does not show the
// keys.
type Keys struct {
	// A pointer to a pointer, for fmt follows one.
	keys **[]key
	ads  sync.Pool // of *[]byte, where additional data is put together
}

type key struct {
	id     [keyIDSize]byte
	secret []byte
	record cipher.AEAD
}

// keyPrefix is in front of the base64 of a key in a key file.
const keyPrefix = "sessapi-seal-key-v1:"

// maxKeys bounds what is tried and held.
const maxKeys = 64

// GenerateKey returns a fresh key from the operating system's random source, as
// a line of a key file with its line end. The line is the caller's to wipe.
func GenerateKey() []byte {
	var secret [chacha20poly1305.KeySize]byte
	defer clear(secret[:])
	_, _ = rand.Read(secret[:]) // never fails
	line := base64.StdEncoding.AppendEncode([]byte(keyPrefix), secret[:])
	return append(line, '\n')
}

// ParseKeys parses a key file: one key per line, as [GenerateKey] writes it; the first
// one seals. Blank lines and lines that start with # are skipped. data stays the
// caller's.
func ParseKeys(data []byte) (*Keys, error) {
	var keys []key
	number := 0
	for line := range bytes.Lines(data) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		k, err := parseKey(line)
		if err != nil {
			return nil, fmt.Errorf("seal: line %d %w", number, err)
		}
		for _, other := range keys {
			if other.id == k.id {
				return nil, fmt.Errorf("seal: line %d repeats the key of an earlier line", number)
			}
		}
		if len(keys) == maxKeys {
			return nil, fmt.Errorf("seal: more than %d keys", maxKeys)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("seal: no key; sessapi seal-key new makes one")
	}
	p := &keys
	return &Keys{keys: &p, ads: sync.Pool{New: func() any { return new([]byte) }}}, nil
}

func parseKey(line []byte) (key, error) {
	encoded, ok := bytes.CutPrefix(line, []byte(keyPrefix))
	if !ok {
		return key{}, fmt.Errorf("does not start with %s", keyPrefix)
	}
	secret := make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	n, err := base64.StdEncoding.Strict().Decode(secret, encoded)
	if err != nil || n != chacha20poly1305.KeySize {
		clear(secret)
		return key{}, fmt.Errorf("is not the base64 of %d bytes", chacha20poly1305.KeySize)
	}
	k := key{secret: secret[:n:n]}
	copy(k.id[:], derive(k.secret, nil, labelKeyID, keyIDSize))
	recordKey := derive(k.secret, nil, labelRecord, chacha20poly1305.KeySize)
	defer clear(recordKey)
	if k.record, err = chacha20poly1305.NewX(recordKey); err != nil {
		return key{}, err
	}
	return k, nil
}

// derive returns size bytes of HKDF-SHA256.
func derive(secret, salt []byte, label string, size int) []byte {
	derived, err := hkdf.Key(sha256.New, secret, salt, label, size)
	if err != nil {
		panic(err) // the sizes are constants that HKDF allows
	}
	return derived
}

// String tells nothing of the keys.
func (*Keys) String() string { return "seal keys" }

// GoString tells nothing of the keys.
func (*Keys) GoString() string { return "seal keys" }

// list is the keys, the one to seal with first.
func (k *Keys) list() []key { return **k.keys }

// find returns the key that header, of headerSize bytes, names.
func (k *Keys) find(header []byte) (*key, error) {
	if header[0] != version {
		return nil, ErrVersion
	}
	for i := range k.list() {
		if key := &k.list()[i]; bytes.Equal(key.id[:], header[1:headerSize]) {
			return key, nil
		}
	}
	return nil, ErrUnknownKey
}

// appendHeader appends what stands in front of records and streams.
func (k *key) appendHeader(dst []byte) []byte {
	return append(append(dst, version), k.id[:]...)
}

// appendTo appends the header and the parts of the binding, each with its length
// in front, so that no two bindings look the same.
func (b *Binding) appendTo(dst, header []byte) []byte {
	dst = append(dst, header...)
	dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(b.Kind))), b.Kind...)
	dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(b.Namespace))), b.Namespace...)
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b.ID))), b.ID...)
}

// Seal appends a record of plaintext to dst and returns the extended slice, which is
// the caller's. The memory of dst and plaintext must not overlap. Seal does not
// allocate if dst has room for plaintext and [Overhead].
func (k *Keys) Seal(dst, plaintext []byte, b Binding) []byte {
	key := &k.list()[0]
	start := len(dst)
	dst = key.appendHeader(dst)
	dst = append(dst, make([]byte, chacha20poly1305.NonceSizeX)...)
	nonce := dst[start+headerSize:]
	_, _ = rand.Read(nonce) // never fails
	ad := k.ads.Get().(*[]byte)
	defer k.ads.Put(ad)
	*ad = b.appendTo((*ad)[:0], dst[start:start+headerSize])
	return key.record.Seal(dst, nonce, plaintext, *ad)
}

// Open appends the content of the record sealed to dst and returns the extended slice,
// which the caller must wipe. The memory of dst and sealed must not overlap. Open does
// not allocate if dst has enough capacity.
//
// The errors are [ErrUnknownKey], [ErrVersion] and [ErrCorrupt]; nothing is
// appended then.
func (k *Keys) Open(dst, sealed []byte, b Binding) ([]byte, error) {
	if len(sealed) < Overhead {
		return dst, ErrCorrupt
	}
	key, err := k.find(sealed)
	if err != nil {
		return dst, err
	}
	nonce, ciphertext := sealed[headerSize:headerSize+chacha20poly1305.NonceSizeX], sealed[headerSize+chacha20poly1305.NonceSizeX:]
	ad := k.ads.Get().(*[]byte)
	defer k.ads.Put(ad)
	*ad = b.appendTo((*ad)[:0], sealed[:headerSize])
	plaintext, err := key.record.Open(dst, nonce, ciphertext, *ad)
	if err != nil {
		return dst, ErrCorrupt
	}
	return plaintext, nil
}
