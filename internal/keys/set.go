package keys

import (
	"crypto/rand"
	"fmt"
	"iter"
	"strings"
)

// MaxKeys is the maximum number of keys in a set, including [Set.Next].
const MaxKeys = 64

// Role is the use of a key in a set.
type Role string

// The roles of keys.
const (
	RoleCurrent  Role = "current"  // encrypts new tickets and decrypts
	RoleNext     Role = "next"     // becomes current in the next rotation; decrypts already
	RolePrevious Role = "previous" // was current, or was pushed as such; only decrypts
)

// Set is the keys that are in use at one time. A valid set has 1 to [MaxKeys] keys with
// different names.
type Set struct {
	// Keys are the current key, followed by the previous ones, newest first.
	Keys []Key
	// Next is the key that the next rotation makes current; nil for none.
	Next *Key
}

// Kind is the kind of an [Issue].
type Kind string

// The kinds of issues.
const (
	KindLength        Kind = "length"         // a name, secret or record has not the right number of bytes
	KindCount         Kind = "count"          // the set has no key, too few for its format, or too many
	KindEncoding      Kind = "encoding"       // text that is not base64
	KindDuplicateName Kind = "duplicate_name" // a name that an earlier key has
	KindMixedSize     Kind = "mixed_size"     // secrets of 16 and 32 bytes in one key, or in a file with one size
	KindWeak          Kind = "weak"           // secrets that are not random
	// KindConflict is a key with the name of an active key and other secrets.
	KindConflict Kind = "conflicting_secrets"
)

var kinds = []Kind{KindLength, KindCount, KindEncoding, KindDuplicateName, KindMixedSize, KindWeak, KindConflict}

// Issue is one reason to reject a set.
type Issue struct {
	Kind Kind
	// Field is the place of the issue: "keys" for the list; "keys[3]" or "next" for a
	// key, with ".name", ".hmac_secret" or ".aes_key" for its parts; "line 3" for text
	// that is not a key yet.
	Field string
	// Reason completes a sentence that begins with Field, such as "has 47 bytes, a
	// record has 48". It holds no secret.
	Reason string
}

// InvalidError says why a set is rejected.
type InvalidError struct {
	Issues []Issue // at least one
}

// Error lists the issues.
func (e *InvalidError) Error() string {
	texts := make([]string, len(e.Issues))
	for i, issue := range e.Issues {
		texts[i] = issue.Field + " " + issue.Reason
	}
	return "invalid ticket keys: " + strings.Join(texts, "; ")
}

// Validate returns nil or an [*InvalidError] with every issue of the set. If the number
// of keys is wrong, it does not check the keys.
//
// A secret is weak if it repeats a single byte, if it is printable text and so not from
// a random source, or if the HMAC secret and the AES key are equal. One random secret
// of 16 bytes in five million counts as text.
func (s *Set) Validate() error {
	if err := checkCount(len(s.Keys), s.len()); err != nil {
		return err
	}
	var (
		issues []Issue
		names  = make(map[Name]string, s.len()) // the first field with each name
	)
	check := func(field string, k Key) {
		issues = append(issues, k.issues(field)...)
		m := k.view()
		if len(m.name) == NameSize {
			if first, seen := names[k.Name()]; seen {
				issues = append(issues, Issue{KindDuplicateName, field + ".name", "is also the name of " + first})
			} else {
				names[k.Name()] = field
			}
		}
		if h, a := len(m.hmacSecret), len(m.aesKey); h != a && isSize(h) && isSize(a) {
			issues = append(issues, Issue{KindMixedSize, field, fmt.Sprintf("has an HMAC secret of %d bytes and an AES key of %d", h, a)})
		}
	}
	for i, k := range s.Keys {
		check(fmt.Sprintf("keys[%d]", i), k)
	}
	if s.Next != nil {
		check("next", *s.Next)
	}
	if issues != nil {
		return &InvalidError{issues}
	}
	return nil
}

// checkCount returns an InvalidError if there is no key to encrypt with, or if there
// are too many keys in all.
func checkCount(keys, all int) error {
	switch {
	case keys == 0:
		return &InvalidError{[]Issue{{KindCount, "keys", "has no key"}}}
	case all > MaxKeys:
		return &InvalidError{[]Issue{{KindCount, "keys", fmt.Sprintf("has %d keys, the limit is %d", all, MaxKeys)}}}
	}
	return nil
}

// Wipe overwrites the secrets of all keys with zeros.
func (s *Set) Wipe() {
	for _, k := range s.all() {
		k.wipe()
	}
}

func (s *Set) len() int {
	if s.Next != nil {
		return len(s.Keys) + 1
	}
	return len(s.Keys)
}

// all yields the keys with their roles: current, next, previous (newest first). This is
// their order of importance to a server.
func (s *Set) all() iter.Seq2[Role, Key] {
	return func(yield func(Role, Key) bool) {
		if len(s.Keys) > 0 && !yield(RoleCurrent, s.Keys[0]) {
			return
		}
		if s.Next != nil && !yield(RoleNext, *s.Next) {
			return
		}
		for _, k := range s.Keys[min(1, len(s.Keys)):] {
			if !yield(RolePrevious, k) {
				return
			}
		}
	}
}

func (s *Set) clone() Set {
	c := Set{Keys: make([]Key, len(s.Keys))}
	for i, k := range s.Keys {
		c.Keys[i] = k.clone()
	}
	if s.Next != nil {
		next := s.Next.clone()
		c.Next = &next
	}
	return c
}

// adopt replaces keys of s with copies of the active keys that they are, according to
// isKey. The error is an [*InvalidError] about keys that share only their name with an
// active key.
func (s *Set) adopt(active *Set, isKey func(k, active Key) bool) error {
	known := make(map[Name]Key, active.len())
	for _, k := range active.all() {
		known[k.Name()] = k
	}
	var issues []Issue
	adopt := func(field string, k *Key) {
		own, ok := known[k.Name()]
		switch {
		case !ok:
		case !isKey(*k, own):
			issues = append(issues, Issue{
				KindConflict, field + ".name",
				"is the name of an active key that has other secrets; most likely the format is wrong; if the active key is wrong, revoke it first",
			})
		case !k.Equal(own):
			k.wipe()
			*k = own.clone()
		}
	}
	for i := range s.Keys {
		adopt(fmt.Sprintf("keys[%d]", i), &s.Keys[i])
	}
	if s.Next != nil {
		adopt("next", s.Next)
	}
	if issues != nil {
		return &InvalidError{issues}
	}
	return nil
}

// equal reports whether both sets have the same keys in the same roles and order.
func (s *Set) equal(other *Set) bool {
	if len(s.Keys) != len(other.Keys) || (s.Next == nil) != (other.Next == nil) {
		return false
	}
	same := s.Next == nil || s.Next.Equal(*other.Next)
	for i, k := range s.Keys {
		same = k.Equal(other.Keys[i]) && same
	}
	return same
}

// fresh returns a random key of the size that the ring uses.
func fresh() Key { return generate(rand.Read, size256) }

// Generate returns a set of new keys from the operating system's random source, with
// secrets of 128 or 256 bits. count is 1 to [MaxKeys]. The last of two or more keys is
// [Set.Next]. The caller must wipe the set.
func Generate(bits, count int) Set {
	all := make([]Key, count)
	for i := range all {
		all[i] = generate(rand.Read, bits/8)
	}
	if count == 1 {
		return Set{Keys: all}
	}
	return Set{Keys: all[:count-1], Next: &all[count-1]}
}
