package keys

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

var (
	// ErrUnknownFormat reports a name that is not that of a [Format].
	ErrUnknownFormat = errors.New("keys: unknown ticket key format")
	// ErrNotReadable reports a [Format] that keys are written in but not read
	// from.
	ErrNotReadable = errors.New("keys: the format holds secrets derived from keys, which cannot be turned back into keys")
	// ErrNoSuchKey reports the index of a file that the set has no key for.
	ErrNoSuchKey = errors.New("keys: the format has no file of that number")
)

// CannotCarryError says why a format cannot hold a set.
type CannotCarryError struct {
	Format Format
	// Reason is a predicate of the format for people that says what to do
	// about it. It holds no secret.
	Reason string
}

// Error names the format and the reason.
func (e *CannotCarryError) Error() string {
	return fmt.Sprintf("keys: %s cannot carry the set: it %s", e.Format, e.Reason)
}

// Format is how a server reads ticket keys. Formats of the same length need not
// have the same order: a file in the wrong one loads, and only resumption
// across servers fails.
type Format uint8

// The formats, each with the source that its layout and order are taken from.
const (
	// ATS is the key file of Apache Traffic Server: all keys, the first
	// encrypts (ticket_block_create in iocore/net/SSLCertLookup.cc of Traffic
	// Server 9).
	ATS Format = iota
	// HTTPD is Apache httpd's SSLSessionTicketKeyFile, one key
	// (modules/ssl/ssl_engine_init.c).
	HTTPD
	// NGINX is nginx's ssl_session_ticket_key, one key a file. The file of the
	// first directive encrypts (ngx_ssl_session_ticket_keys in
	// src/event/ngx_event_openssl.c).
	NGINX
	// Envoy is a data source of Envoy's session_ticket_keys, one key each. The
	// first encrypts (envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys).
	Envoy
	// HAProxy is HAProxy's tls-ticket-keys: base64 lines, at least three. The
	// last but one encrypts and the last is the next that will; only the last
	// three are used (bind_parse_tls_ticket_keys in src/cfgparse-ssl.c of
	// HAProxy 2.6).
	HAProxy
	// DNSDist is dnsdist's ticketKeyFile: all keys, the last encrypts
	// (OpenSSLTLSTicketKeysRing in libssl.cc).
	DNSDist
	// H2O is H2O's ticket-file: a YAML list, where times decide which key
	// encrypts (parse_ticket_entry and find_ticket_for_encryption in src/ssl.c
	// of H2O 2.2).
	H2O
	// OpenSSL is the argument of SSL_CTX_set_tlsext_ticket_keys, one key
	// (SSL_CTRL_SET_TLSEXT_TICKET_KEYS in ssl/s3_lib.c of OpenSSL 3).
	OpenSSL
	// Go is base64 lines of what SetSessionTicketKeys of a crypto/tls.Config
	// takes, the first encrypts.
	Go
)

// layouts says all that there is to know of each format.
var layouts = [...]layout{
	ATS:     {name: "ats", records: []record{{size128, hmacFirst}}},
	HTTPD:   {name: "httpd", records: []record{{size128, hmacFirst}}, oneKey: true},
	NGINX:   {name: "nginx", records: []record{{size128, aesFirst}, {size256, hmacFirst}}, oneKey: true},
	Envoy:   {name: "envoy", records: []record{{size256, hmacFirst}}, oneKey: true},
	HAProxy: {name: "haproxy", container: lines, order: nextLast, minKeys: 3, records: []record{{size128, aesFirst}, {size256, aesFirst}}},
	DNSDist: {name: "dnsdist", order: currentLast, records: []record{{size256, aesFirst}}},
	H2O:     {name: "h2o", container: yaml, derivedSize: sha256.BlockSize},
	OpenSSL: {name: "openssl", records: []record{{size256, hmacFirst}}, oneKey: true},
	Go:      {name: "go", container: lines, derivedSize: 32},
}

type layout struct {
	name      string
	container container
	order     order
	minKeys   int  // fewer are refused by the server; next counts
	oneKey    bool // a file holds one key
	// records are what a key looks like, for each size of secret that the
	// format has. Keys of another size get secrets for the first.
	records []record
	// derivedSize is how many bytes are derived from a key where the format has
	// secrets of a size that no key has, and so no records.
	derivedSize int
}

type container uint8

const (
	raw   container = iota // records, one after another
	lines                  // a line of standard base64 for each record
	yaml                   // a list of mappings
)

type order uint8

const (
	currentFirst order = iota // current, next, previous from the newest on
	currentLast               // the reverse
	nextLast                  // the reverse, but with current before next
)

// record is the name of a key and then its secrets.
type record struct {
	secretSize int // in bytes, of the HMAC secret and of the AES key each
	secrets    secretOrder
}

type secretOrder bool

const (
	hmacFirst secretOrder = false
	aesFirst  secretOrder = true
)

func (r record) size() int { return NameSize + 2*r.secretSize }

// key copies a record.
func (r record) key(data []byte) Key {
	name, secrets := data[:NameSize], data[NameSize:]
	first, second := secrets[:r.secretSize], secrets[r.secretSize:]
	if r.secrets == aesFirst {
		return NewKey(name, second, first)
	}
	return NewKey(name, first, second)
}

// maxRecordSize is that of the largest record.
const maxRecordSize = NameSize + 2*size256

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

// Formats returns all formats.
func Formats() []Format {
	formats := make([]Format, len(layouts))
	for i := range formats {
		formats[i] = Format(i)
	}
	return formats
}

// String returns the name of the format.
func (f Format) String() string { return layouts[f].name }

// Text reports whether the format is lines of ASCII text, not binary.
func (f Format) Text() bool { return layouts[f].container != raw }

// OneKey reports whether the server wants each key in a file of its own, as
// [Format.AppendKey] writes them.
func (f Format) OneKey() bool { return layouts[f].oneKey }

// Readable reports whether [Format.Parse] reads the format.
func (f Format) Readable() bool { return len(layouts[f].records) > 0 }

// Parse reads a set, in the order that [Format.Append] writes. Of a format
// without a place for next, all but the current key are previous ones. The set
// is the caller's to wipe and shares no memory with data.
//
// The error is [ErrNotReadable] or an [*InvalidError], in which the field of a
// text format is its line, such as "line 3". Binary data of a length that does
// not fit is refused, for bytes behind the last record mean that the records
// are not what they seem; so is data of a length that fits records of both
// sizes of the format. Lines of text end in LF or CRLF, and the last line end may be
// missing. Whether the keys are good is for
// [Set.Validate] to say.
func (f Format) Parse(data []byte) (Set, error) {
	if !f.Readable() {
		return Set{}, ErrNotReadable
	}
	l := &layouts[f]
	parse := l.parseRecords
	if l.container == lines {
		parse = l.parseLines
	}
	keys, err := parse(data)
	if err != nil {
		return Set{}, err
	}
	if l.order != currentFirst {
		slices.Reverse(keys)
	}
	if l.order == nextLast {
		return Set{Keys: keys[1:], Next: &keys[0]}, nil
	}
	return Set{Keys: keys}, nil
}

func (l *layout) parseRecords(data []byte) ([]Key, error) {
	var fits []record
	for _, r := range l.records {
		if len(data)%r.size() == 0 {
			fits = append(fits, r)
		}
	}
	r := l.records[0]
	switch {
	case len(data) == 0:
		return nil, checkCount(0, 0)
	case len(fits) == 1:
		r = fits[0]
	case len(l.records) > 1: // of two sizes, none or both fit
		reason := "is no number of"
		if fits != nil {
			reason = "can be"
		}
		reason = fmt.Sprintf("have %d bytes, which %s records of %s", len(data), reason, l.sizes())
		return nil, &InvalidError{[]Issue{{KindLength, "keys", reason}}}
	}
	size := r.size()
	n := (len(data) + size - 1) / size
	if err := checkCount(n, n); err != nil {
		return nil, err
	}
	if rest := len(data) % size; rest != 0 {
		return nil, &InvalidError{[]Issue{{
			KindLength, fmt.Sprintf("keys[%d]", n-1),
			fmt.Sprintf("has %d of the %d bytes of a record (%d bytes in all)", rest, size, len(data)),
		}}}
	}
	keys := make([]Key, n)
	for i := range keys {
		keys[i] = r.key(data[i*size : (i+1)*size])
	}
	return keys, nil
}

func (l *layout) parseLines(data []byte) ([]Key, error) {
	if len(data) == 0 {
		return nil, checkCount(0, 0)
	}
	text := bytes.TrimSuffix(data, []byte("\n"))
	n := bytes.Count(text, []byte("\n")) + 1
	if err := checkCount(n, n); err != nil {
		return nil, err
	}
	var (
		keys   = make([]Key, 0, n)
		issues []Issue
		size   int // of the first record
		buf    [maxRecordSize + 3]byte
	)
	defer clear(buf[:])
	number := 0
	for line := range bytes.Lines(data) {
		number++
		refuse := func(kind Kind, format string, args ...any) {
			issues = append(issues, Issue{kind, fmt.Sprintf("line %d", number), fmt.Sprintf(format, args...)})
		}
		if rest, ends := bytes.CutSuffix(line, []byte("\n")); ends {
			line = bytes.TrimSuffix(rest, []byte("\r"))
		}
		if longest := base64.StdEncoding.EncodedLen(maxRecordSize); len(line) > longest {
			refuse(KindLength, "has %d characters, a key has at most %d", len(line), longest)
			continue
		}
		record, err := base64.StdEncoding.AppendDecode(buf[:0], line)
		if err != nil || bytes.IndexByte(line, '\r') >= 0 { // which the decoder skips
			refuse(KindEncoding, "is not base64")
			continue
		}
		i := l.recordOf(len(record))
		switch {
		case i < 0:
			refuse(KindLength, "has %d bytes, a key has %s", len(record), l.sizes())
			continue
		case size == 0:
			size = len(record)
		case len(record) != size:
			refuse(KindMixedSize, "has %d bytes, the lines before have %d", len(record), size)
		}
		keys = append(keys, l.records[i].key(record))
	}
	if issues == nil && n < l.minKeys {
		issues = []Issue{{KindCount, "keys", fmt.Sprintf("has %d keys, at least %d are needed", n, l.minKeys)}}
	}
	if issues != nil {
		for _, k := range keys {
			k.wipe()
		}
		return nil, &InvalidError{issues}
	}
	return keys, nil
}

// recordOf returns the index of the record of that size, or -1.
func (l *layout) recordOf(size int) int {
	return slices.IndexFunc(l.records, func(r record) bool { return r.size() == size })
}

// sizes lists the sizes of records for people.
func (l *layout) sizes() string {
	sizes := make([]string, len(l.records))
	for i, r := range l.records {
		sizes[i] = strconv.Itoa(r.size())
	}
	return strings.Join(sizes, " or ") + " bytes"
}

// Append appends a valid set to dst, which the caller must wipe. It is a pure
// function of the set: every node that has it writes the same bytes.
//
// The order is that of the server: where the first key encrypts, current, next,
// previous from the newest on; where the last one does, the reverse of it; for
// [HAProxy] previous from the oldest on, current, next. The keys of a
// [Format.OneKey] format stand one after another in the order of their files.
//
// Keys of a size that the format does not have get secrets that are derived
// from theirs: HKDF-SHA256 (RFC 5869) with the HMAC secret and the AES key one
// after the other as input keying material, the name as salt and "sessapi
// FORMAT v1" as info; the output is the HMAC secret and then the AES key. The
// name stays. [H2O] has the AES key as it is and derives 64 bytes for the HMAC,
// [Go] derives 32 bytes in all.
//
// The error is a [*CannotCarryError]; dst is then returned as it was.
func (f Format) Append(dst []byte, set Set) ([]byte, error) {
	l := &layouts[f]
	if err := f.carries(set); err != nil {
		return dst, err
	}
	ordered := make([]Key, 0, set.len())
	size := 0
	for _, k := range set.all() {
		ordered = append(ordered, k)
		size += l.size(k)
	}
	if l.order != currentFirst {
		slices.Reverse(ordered)
	}
	if n := len(ordered); l.order == nextLast {
		ordered[n-2], ordered[n-1] = ordered[n-1], ordered[n-2]
	}
	dst = slices.Grow(dst, size) // growing it later would leave copies of secrets behind
	for i, k := range ordered {
		dst = l.appendKey(dst, k, len(ordered)-1-i)
	}
	return dst, nil
}

// AppendKey appends the i-th file of a [Format.OneKey] format to dst, which the
// caller must wipe. File 0 is the one that encrypts, and the files are in the
// order in which [Format.Append] writes them. The error is [ErrNoSuchKey], also
// for formats that are not of one key a file; dst is then returned as it was.
func (f Format) AppendKey(dst []byte, set Set, i int) ([]byte, error) {
	l := &layouts[f]
	if !l.oneKey {
		return dst, ErrNoSuchKey
	}
	for _, k := range set.all() {
		if i == 0 {
			return l.appendKey(slices.Grow(dst, l.size(k)), k, 0), nil
		}
		i--
	}
	return dst, ErrNoSuchKey
}

// MinKeys is how many keys a set must have for the format, next included.
func (f Format) MinKeys() int { return max(layouts[f].minKeys, 1) }

// carries returns a CannotCarryError when the server would not take the set, or
// would take the wrong key for next.
func (f Format) carries(set Set) error {
	l := &layouts[f]
	steps := l.minKeys - set.len() // rotations until there are enough keys
	if l.order == nextLast && set.Next == nil {
		steps = max(steps, 1)
	}
	if steps <= 0 {
		return nil
	}
	has, rotate := fmt.Sprintf("%d", set.len()), "once"
	if set.Next == nil {
		has += " and no next"
	}
	if steps > 1 {
		rotate = fmt.Sprintf("%d times", steps)
	}
	return &CannotCarryError{f, fmt.Sprintf(
		"needs at least %d keys with a next among them, and this set has %s: rotate %s, or push a set with a next",
		l.minKeys, has, rotate)}
}

// writes reports whether data is what the format makes of set.
func (f Format) writes(data []byte, set Set) bool {
	written, err := f.Append(nil, set)
	defer clear(written)
	if err != nil {
		return false
	}
	return subtle.ConstantTimeCompare(written, data) == 1
}

// recordFor returns the record that k is written as, and whether it has k's own
// secrets.
func (l *layout) recordFor(k Key) (record, bool) {
	for _, r := range l.records {
		if 8*r.secretSize == k.Bits() {
			return r, true
		}
	}
	return l.records[0], false
}

// yamlSize is more than what a mapping takes besides its key.
const yamlSize = 160

// size returns how many bytes k takes at most, and exactly if it is in a raw
// container.
func (l *layout) size(k Key) int {
	n := l.derivedSize
	if n == 0 {
		r, _ := l.recordFor(k)
		n = r.size()
	}
	switch l.container {
	case yaml:
		return yamlSize + hex.EncodedLen(k.Bits()/8+n)
	case lines:
		return base64.StdEncoding.EncodedLen(n) + len("\n")
	default:
		return n
	}
}

// appendKey appends k, behind which rank keys follow.
func (l *layout) appendKey(dst []byte, k Key, rank int) []byte {
	var buf [size256 + sha256.BlockSize]byte // enough for every format
	defer clear(buf[:])
	switch l.container {
	case yaml:
		return appendMapping(dst, k, l.appendRecord(k.AppendAESKey(buf[:0]), k), rank)
	case lines:
		return append(base64.StdEncoding.AppendEncode(dst, l.appendRecord(buf[:0], k)), '\n')
	default:
		return l.appendRecord(dst, k)
	}
}

// appendRecord appends the record of k or, without records, what is derived.
func (l *layout) appendRecord(dst []byte, k Key) []byte {
	if l.derivedSize > 0 {
		return l.appendDerived(dst, k, l.derivedSize)
	}
	r, own := l.recordFor(k)
	name := k.Name()
	dst = append(dst, name[:]...)
	m := k.view()
	if !own {
		var buf [2 * size256]byte
		defer clear(buf[:])
		derived := l.appendDerived(buf[:0], k, 2*r.secretSize)
		m.hmacSecret, m.aesKey = derived[:r.secretSize], derived[r.secretSize:]
	}
	if r.secrets == aesFirst {
		return append(append(dst, m.aesKey...), m.hmacSecret...)
	}
	return append(append(dst, m.hmacSecret...), m.aesKey...)
}

// appendMapping appends a mapping of H2O's list. Of the keys whose not_before
// has come, H2O encrypts with the one of the latest, and gives it up when its
// not_after has passed; it decrypts with all, whatever their times. So rank
// does for a time: it is largest for the current key, and no clock is read.
func appendMapping(dst []byte, k Key, secrets []byte, rank int) []byte {
	name := k.Name()
	dst = hex.AppendEncode(append(dst, "- name: "...), name[:])
	dst = strconv.AppendInt(append(dst, "\n  cipher: aes-"...), int64(k.Bits()), 10)
	dst = hex.AppendEncode(append(dst, "-cbc\n  hash: sha256\n  key: "...), secrets)
	dst = strconv.AppendInt(append(dst, "\n  not_before: "...), int64(rank), 10)
	return append(dst, "\n  not_after: 253402300799\n"...) // the last second of the year 9999
}

func (l *layout) appendDerived(dst []byte, k Key, size int) []byte {
	m := k.view()
	secret := k.AppendAESKey(k.AppendHMACSecret(make([]byte, 0, len(m.hmacSecret)+len(m.aesKey))))
	defer clear(secret)
	derived, err := hkdf.Key(sha256.New, secret, m.name, "sessapi "+l.name+" v1", size)
	if err != nil {
		panic(err) // only for more than 255 hashes of output
	}
	defer clear(derived)
	return append(dst, derived...)
}
