package keys

import (
	"bytes"
	"cmp"
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
	// ErrUnknownFormat reports that no [Format] has this name.
	ErrUnknownFormat = errors.New("keys: unknown ticket key format")
	// ErrNotReadable reports a [Format] that can be written but not read.
	ErrNotReadable = errors.New("keys: the format holds only derived secrets and cannot be read")
	// ErrNoSuchKey reports a file index for which the set has no key.
	ErrNoSuchKey = errors.New("keys: no key with this number")
)

// Format is a server's file format of ticket keys. Formats with the same length may
// differ in order: a file in the wrong one loads, and only resumption across servers
// fails.
type Format uint8

// The formats, each with the source of its layout and order.
const (
	// ATS is the key file of Apache Traffic Server: all keys, the first encrypts
	// (ticket_block_create in iocore/net/SSLCertLookup.cc of Traffic Server 9).
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
	// HAProxy is HAProxy's tls-ticket-keys: base64 lines, at least three. The last but
	// one encrypts, and the last will encrypt next. Only the last three are used
	// (bind_parse_tls_ticket_keys in src/cfgparse-ssl.c of HAProxy 2.6).
	HAProxy
	// DNSDist is dnsdist's ticketKeyFile: all keys, the last encrypts
	// (OpenSSLTLSTicketKeysRing in libssl.cc).
	DNSDist
	// H2O is H2O's ticket-file: a YAML list in which times decide which key encrypts
	// (parse_ticket_entry and find_ticket_for_encryption in src/ssl.c of H2O 2.2).
	H2O
	// OpenSSL is the argument of SSL_CTX_set_tlsext_ticket_keys, one key
	// (SSL_CTRL_SET_TLSEXT_TICKET_KEYS in ssl/s3_lib.c of OpenSSL 3).
	OpenSSL
	// NGHTTPX is nghttpx's --tls-ticket-key-file with --tls-ticket-key-cipher
	// aes-256-cbc, one key a file. The content is that of OpenSSL. The file named first
	// encrypts.
	NGHTTPX
	// Lighttpd is lighttpd's ssl.stek-file, one key (mod_openssl_session_ticket_key_file
	// in src/mod_openssl.c).
	Lighttpd
	// Go is base64 lines of the arguments of SetSessionTicketKeys of a
	// crypto/tls.Config. The first encrypts.
	Go
)

// layouts has all properties of each format.
var layouts = [...]layout{
	ATS:      {name: "ats", records: []record{{secretSize: size128}}},
	HTTPD:    {name: "httpd", records: []record{{secretSize: size128}}, oneKey: true},
	NGINX:    {name: "nginx", records: []record{{secretSize: size128, aesFirst: true}, {secretSize: size256}}, oneKey: true},
	Envoy:    {name: "envoy", records: []record{{secretSize: size256}}, oneKey: true},
	HAProxy:  {name: "haproxy", container: lines, order: nextLast, oneSize: true, records: []record{{secretSize: size128, aesFirst: true}, {secretSize: size256, aesFirst: true}}},
	DNSDist:  {name: "dnsdist", order: currentLast, records: []record{{secretSize: size256, aesFirst: true}}},
	H2O:      {name: "h2o", container: yaml, derivedSize: sha256.BlockSize},
	OpenSSL:  {name: "openssl", records: []record{{secretSize: size256}}, oneKey: true},
	NGHTTPX:  {name: "nghttpx", label: "openssl", records: []record{{secretSize: size256}}, oneKey: true},
	Lighttpd: {name: "lighttpd", records: []record{{secretSize: size256, prefix: lighttpdPrefix}}, oneKey: true},
	Go:       {name: "go", container: lines, derivedSize: 32},
}

// lighttpdPrefix is three 32-bit integers in the byte order of x86 and ARM: version 0,
// active since 1970, and valid until 2038, the maximum in lighttpd. The service ends a
// key by replacing the file, so no times are needed.
const lighttpdPrefix = lighttpdVersion + "\x00\x00\x00\x00" + "\xff\xff\xff\x7f"

// lighttpdVersion is the part of the prefix that a file must have. The times are not
// read.
const lighttpdVersion = "\x00\x00\x00\x00"

type layout struct {
	name      string
	label     string // replaces the name where secrets are derived
	container container
	order     order
	oneKey    bool // a file holds one key
	oneSize   bool // all keys of a file have the size of the current one
	// records are the layouts of a key, one for each size of secret in the format. Keys
	// of another size get secrets for the first.
	records []record
	// derivedSize is how many bytes are derived from a key in a format without records:
	// its secrets have a size that no key has.
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
	currentFirst order = iota // current, next, previous (newest first)
	currentLast               // the reverse
	nextLast                  // the reverse, but current before next; at least minLines
)

// minLines is the minimum number of lines in HAProxy.
const minLines = 3

// record is a prefix, followed by the name of a key and its secrets.
type record struct {
	prefix     string
	secretSize int  // in bytes, of the HMAC secret and of the AES key each
	aesFirst   bool // else the HMAC secret is first
}

func (r record) size() int { return len(r.prefix) + NameSize + 2*r.secretSize }

// key copies a key from a record.
func (r record) key(data []byte) Key {
	data = data[len(r.prefix):]
	name, secrets := data[:NameSize], data[NameSize:]
	first, second := secrets[:r.secretSize], secrets[r.secretSize:]
	if r.aesFirst {
		return NewKey(name, second, first)
	}
	return NewKey(name, first, second)
}

// Sizes of the smallest and largest record.
const (
	minRecordSize = NameSize + 2*size128
	maxRecordSize = len(lighttpdPrefix) + NameSize + 2*size256
)

// ParseFormat returns the format with this name. The error is [ErrUnknownFormat].
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

// OneKey reports whether the server reads each key from its own file, as
// [Format.AppendKey] writes them.
func (f Format) OneKey() bool { return layouts[f].oneKey }

// Readable reports whether [Format.Parse] reads the format.
func (f Format) Readable() bool { return len(layouts[f].records) > 0 }

// Parse reads a set in the order that [Format.Append] writes. In a format without a
// place for next, all keys but the current one are previous. The caller must wipe the
// set. It shares no memory with data.
//
// The error is [ErrNotReadable] or an [*InvalidError]. In a text format, the field of
// an issue is a line, such as "line 3". Binary data whose length does not fit is
// rejected, because bytes after the last record mean that the records are not what they
// seem. So is data whose length fits records of both sizes. Text lines end in LF or
// CRLF, and the last line end may be missing. The keys that [Format.Append] repeats for
// [HAProxy] are read once. [Set.Validate] checks the keys.
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
	var next *Key
	if l.order == nextLast {
		keys, next = withoutRepeats(keys)
	}
	if l.order != currentFirst {
		slices.Reverse(keys)
	}
	set := Set{Keys: keys, Next: next}
	if err := checkCount(len(set.Keys), set.len()); err != nil {
		set.Wipe()
		return Set{}, err
	}
	return set, nil
}

// withoutRepeats removes the keys that a HAProxy file repeats at its beginning and end,
// and splits off the next key; nil for none.
func withoutRepeats(keys []Key) (others []Key, next *Key) {
	others, last := keys[:len(keys)-1], keys[len(keys)-1]
	if slices.ContainsFunc(others, last.Equal) {
		last.wipe()
	} else {
		next = &last
	}
	for len(others) > 1 && others[0].Equal(others[1]) {
		others[0].wipe()
		others = others[1:]
	}
	return others, next
}

func (l *layout) parseRecords(data []byte) ([]Key, error) {
	if len(data) == 0 {
		return nil, checkCount(0, 0)
	}
	if issue := l.misread(data); issue != nil {
		return nil, &InvalidError{[]Issue{*issue}}
	}
	r := l.records[0]
	if len(data)%r.size() != 0 && len(l.records) > 1 {
		r = l.records[1]
	}
	size := r.size()
	n := (len(data) + size - 1) / size
	if err := checkCount(n, n); err != nil {
		return nil, err
	}
	if rest := len(data) % size; rest != 0 {
		return nil, &InvalidError{[]Issue{{
			KindLength, fmt.Sprintf("keys[%d]", n-1),
			fmt.Sprintf("is incomplete; it has %d of %d bytes (%d bytes in all)", rest, size, len(data)),
		}}}
	}
	keys := make([]Key, n)
	for i := range keys {
		keys[i] = r.key(data[i*size : (i+1)*size])
	}
	return keys, nil
}

// apart says how to send keys of both sizes of a format.
const apart = "push the files with sessapi keys push FILE..., or send JSON"

// misread returns an issue if data is not only records, but for example text or has a
// newline at the end; else nil.
func (l *layout) misread(data []byte) *Issue {
	n := len(data)
	encoding, size := encodingOf(data)
	if encoding == "base64" {
		if set, err := HAProxy.Parse(data); err == nil {
			set.Wipe()
			return &Issue{KindEncoding, "keys", "are base64 lines, as in a file of HAProxy; most likely the format is haproxy"}
		}
	}
	switch {
	case encoding != "" && l.fits(size):
		return &Issue{KindEncoding, "keys", fmt.Sprintf("are %s text that encodes %d bytes; decode it: the format is binary", encoding, size)}
	case encoding != "" && size >= minRecordSize && !l.fits(n):
		return &Issue{KindEncoding, "keys", fmt.Sprintf("are %s text that encodes %d bytes, want a multiple of %s; decode it and name its format", encoding, size, l.sizes())}
	case l.fits(n) && l.records[0].prefix != "":
		for i := 0; i < n; i += l.records[0].size() {
			if string(data[i:i+len(lighttpdVersion)]) != lighttpdVersion {
				return &Issue{KindEncoding, fmt.Sprintf("keys[%d]", i/l.records[0].size()), "does not begin with the version 0, four zero bytes"}
			}
		}
	}
	switch {
	case !l.fits(n) && l.fits(n-1) && bytes.HasSuffix(data, []byte("\n")): // before it may be a key that ends in \r
		return &Issue{KindLength, "keys", fmt.Sprintf("have %d bytes, want a multiple of %s; the last byte is a newline", n, l.sizes())}
	case !l.fits(n) && l.fits(n-2) && bytes.HasSuffix(data, []byte("\r\n")):
		return &Issue{KindLength, "keys", fmt.Sprintf("have %d bytes, want a multiple of %s; the last two bytes are a line end", n, l.sizes())}
	case len(l.records) == 1:
		return nil
	case !l.fits(n):
		return &Issue{KindLength, "keys", fmt.Sprintf("have %d bytes, want a multiple of %s; for keys of both sizes, %s", n, l.sizes(), apart)}
	case n%l.records[0].size() == 0 && n%l.records[1].size() == 0:
		return &Issue{KindLength, "keys", fmt.Sprintf("have %d bytes: %d keys of %d bytes or %d of %d; %s",
			n, n/l.records[0].size(), l.records[0].size(), n/l.records[1].size(), l.records[1].size(), apart)}
	}
	return nil
}

// fits reports whether n bytes are records of one size.
func (l *layout) fits(n int) bool {
	return n > 0 && slices.ContainsFunc(l.records, func(r record) bool { return n%r.size() == 0 })
}

// encodingOf returns the encoding of hex or base64 text, in lines of any length, and
// its decoded size in bytes; "" for other data.
func encodingOf(data []byte) (encoding string, size int) {
	hexDigits, isHex := 0, true
	for line := range bytes.FieldsSeq(data) {
		digits := bytes.TrimRight(line, "=")
		for _, c := range digits {
			isLetter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
			isDigit := '0' <= c && c <= '9'
			if !isLetter && !isDigit && c != '+' && c != '/' {
				return "", 0
			}
			isHex = isHex && (isDigit || isLetter && c|0x20 <= 'f')
		}
		isHex = isHex && len(digits) == len(line)
		hexDigits += len(digits)
		size += base64.RawStdEncoding.DecodedLen(len(digits))
	}
	if isHex {
		return "hex", hexDigits / 2
	}
	return "base64", size
}

func (l *layout) parseLines(data []byte) ([]Key, error) {
	if len(data) == 0 {
		return nil, checkCount(0, 0)
	}
	text := bytes.TrimSuffix(data, []byte("\n"))
	n := bytes.Count(text, []byte("\n")) + 1
	if err := checkCount(n, n-1); err != nil { // the last line may repeat another
		return nil, err
	}
	var (
		keys   = make([]Key, 0, n)
		issues []Issue
		size   int // of the first record
		before []byte
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
		if l.isWrapped(before, line) {
			issues = []Issue{{KindEncoding, fmt.Sprintf("line %d", number), fmt.Sprintf(
				"continues the key of line %d; write each key on one line (base64 -w 0, openssl base64 -A)", number-1)}}
			break
		}
		before = line
		if encoding, size := encodingOf(line); encoding == "hex" && l.recordOf(size) >= 0 {
			refuse(KindEncoding, "is hex of %d bytes, want base64", size)
			continue
		}
		if longest := base64.StdEncoding.EncodedLen(maxRecordSize); len(line) > longest {
			refuse(KindLength, "has %d characters, a key has at most %d", len(line), longest)
			continue
		}
		record, err := base64.StdEncoding.AppendDecode(buf[:0], line)
		if err != nil || bytes.IndexByte(line, '\r') >= 0 { // the decoder skips it
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
	if issues == nil && n < minLines {
		issues = []Issue{{KindCount, "keys", fmt.Sprintf("has %d keys, at least %d are needed", n, minLines)}}
	}
	if issues != nil {
		for _, k := range keys {
			k.wipe()
		}
		return nil, &InvalidError{issues}
	}
	return keys, nil
}

// isWrapped reports whether two lines are one wrapped key and the second line alone is
// not a key.
func (l *layout) isWrapped(before, line []byte) bool {
	n := len(before) + len(line)
	if len(before) == 0 || len(line) == 0 || n > base64.StdEncoding.EncodedLen(maxRecordSize) || l.decodes(line) {
		return false
	}
	var buf [2 * maxRecordSize]byte
	defer clear(buf[:])
	return l.decodes(append(append(buf[:0], before...), line...))
}

// decodes reports whether a line is base64 of a record.
func (l *layout) decodes(line []byte) bool {
	var buf [maxRecordSize + 3]byte
	defer clear(buf[:])
	record, err := base64.StdEncoding.AppendDecode(buf[:0], line)
	return err == nil && l.recordOf(len(record)) >= 0
}

// recordOf returns the index of the record with this size, or -1.
func (l *layout) recordOf(size int) int {
	return slices.IndexFunc(l.records, func(r record) bool { return r.size() == size })
}

// sizes lists the record sizes as text.
func (l *layout) sizes() string {
	sizes := make([]string, len(l.records))
	for i, r := range l.records {
		sizes[i] = strconv.Itoa(r.size())
	}
	return strings.Join(sizes, " or ") + " bytes"
}

// Append appends a valid set to dst, which the caller must wipe. It is a pure function
// of the set: every node with the set writes the same bytes.
//
// The order is that of the server:
//
//   - If the first key encrypts: current, next, previous (newest first).
//   - If the last key encrypts: the reverse.
//   - For [HAProxy]: previous (oldest first), current, next. Without a next key, a
//     previous key or the current one is repeated in its place. The first line is
//     repeated until there are three.
//
// In a [Format.OneKey] format, the keys are concatenated in the order of their files.
//
// Some keys get derived secrets: those of a size that the format does not have, and for
// [HAProxy] those of another size than the current key. The secrets are derived with
// HKDF-SHA256 (RFC 5869). The input keying material is the HMAC secret followed by the
// AES key, the salt is the name, and the info is "sessapi FORMAT v1" ([NGHTTPX] uses
// that of [OpenSSL]). The output is the HMAC secret followed by the AES key. The name
// stays the same. [H2O] keeps the AES key and derives 64 bytes for the HMAC. [Go]
// derives 32 bytes in all.
func (f Format) Append(dst []byte, set Set) []byte {
	l := &layouts[f]
	ordered, size := l.ordered(set), 0
	for _, k := range ordered {
		size += l.size(k, set.Keys[0])
	}
	dst = slices.Grow(dst, size) // growing it later would leave copies of secrets behind
	for i, k := range ordered {
		dst = l.appendKey(dst, k, set.Keys[0], len(ordered)-1-i)
	}
	return dst
}

// ordered returns the keys in the order of a file with all keys.
func (l *layout) ordered(set Set) []Key {
	ordered := make([]Key, 0, max(set.len()+1, minLines))
	if l.order == nextLast {
		ordered = append(ordered, set.Keys...)
		slices.Reverse(ordered)
		last := set.Next
		if last == nil { // the newest previous key is before the current one
			last = &set.Keys[min(2, len(set.Keys)-1)]
		}
		ordered = append(ordered, *last)
		for len(ordered) < minLines {
			ordered = slices.Insert(ordered, 0, ordered[0])
		}
		return ordered
	}
	for _, k := range set.all() {
		ordered = append(ordered, k)
	}
	if l.order == currentLast {
		slices.Reverse(ordered)
	}
	return ordered
}

// AppendKey appends file i of a [Format.OneKey] format to dst, which the caller must
// wipe. File 0 encrypts, and the files are in the order of [Format.Append]. The error
// is [ErrNoSuchKey], also for all other formats; dst is then returned unchanged.
func (f Format) AppendKey(dst []byte, set Set, i int) ([]byte, error) {
	l := &layouts[f]
	if !l.oneKey {
		return dst, ErrNoSuchKey
	}
	for _, k := range set.all() {
		if i == 0 {
			return l.appendKey(slices.Grow(dst, l.size(k, k)), k, k, 0), nil
		}
		i--
	}
	return dst, ErrNoSuchKey
}

// MinKeys returns how many different keys a file of the format should have.
func (f Format) MinKeys() int {
	if layouts[f].order == nextLast {
		return minLines
	}
	return 1
}

// Derives reports whether keys of a size get derived secrets in a set whose current key
// has currentBits.
func (f Format) Derives(bits, currentBits int) bool {
	l := &layouts[f]
	return l.derivedSize > 0 || 8*l.recordFor(bits, currentBits).secretSize != bits
}

// writes reports whether data is the output of the format for set.
func (f Format) writes(data []byte, set Set) bool {
	written := f.Append(nil, set)
	defer clear(written)
	return subtle.ConstantTimeCompare(written, data) == 1
}

// writesKey reports whether the format can turn own into k. Both have the same name.
func (f Format) writesKey(k, own Key) bool {
	var bufs [2][maxRecordSize]byte
	defer clear(bufs[0][:])
	defer clear(bufs[1][:])
	l := &layouts[f]
	return subtle.ConstantTimeCompare(l.appendRecord(bufs[0][:0], k, k), l.appendRecord(bufs[1][:0], own, k)) == 1
}

// recordFor returns the record for a key of a size in a set whose current key has
// currentBits.
func (l *layout) recordFor(bits, currentBits int) record {
	if l.oneSize {
		bits = currentBits
	}
	for _, r := range l.records {
		if 8*r.secretSize == bits {
			return r
		}
	}
	return l.records[0]
}

// yamlSize is more than a mapping needs besides its key.
const yamlSize = 160

// size returns the maximum size of k in bytes in a set with this current key. In a raw
// container it is exact.
func (l *layout) size(k, current Key) int {
	n := l.derivedSize
	if n == 0 {
		n = l.recordFor(k.Bits(), current.Bits()).size()
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

// appendKey appends k of a set with this current key. rank is the number of keys after
// it.
func (l *layout) appendKey(dst []byte, k, current Key, rank int) []byte {
	var buf [size256 + sha256.BlockSize]byte // enough for every format
	defer clear(buf[:])
	switch l.container {
	case yaml:
		return appendMapping(dst, k, l.appendRecord(k.AppendAESKey(buf[:0]), k, current), rank)
	case lines:
		return append(base64.StdEncoding.AppendEncode(dst, l.appendRecord(buf[:0], k, current)), '\n')
	default:
		return l.appendRecord(dst, k, current)
	}
}

// appendRecord appends the record of k in a set with this current key or, without
// records, the derived secret.
func (l *layout) appendRecord(dst []byte, k, current Key) []byte {
	if l.derivedSize > 0 {
		return l.appendDerived(dst, k, l.derivedSize)
	}
	r := l.recordFor(k.Bits(), current.Bits())
	name := k.Name()
	dst = append(append(dst, r.prefix...), name[:]...)
	m := k.view()
	if 8*r.secretSize != k.Bits() {
		var buf [2 * size256]byte
		defer clear(buf[:])
		derived := l.appendDerived(buf[:0], k, 2*r.secretSize)
		m.hmacSecret, m.aesKey = derived[:r.secretSize], derived[r.secretSize:]
	}
	if r.aesFirst {
		return append(append(dst, m.aesKey...), m.hmacSecret...)
	}
	return append(append(dst, m.hmacSecret...), m.aesKey...)
}

// appendMapping appends a mapping of H2O's list. H2O encrypts with the key of the
// latest not_before that has passed, until its not_after has passed, and decrypts with
// all keys, whatever their times. So rank can stand for a time, and no clock is read:
// it is largest for the current key.
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
	derived, err := hkdf.Key(sha256.New, secret, m.name, "sessapi "+cmp.Or(l.label, l.name)+" v1", size)
	if err != nil {
		panic(err) // only for an output of more than 255 hashes
	}
	defer clear(derived)
	return append(dst, derived...)
}
