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
	// ErrUnknownFormat reports a name that is not that of a [Format].
	ErrUnknownFormat = errors.New("keys: unknown ticket key format")
	// ErrNotReadable reports a [Format] that keys are written in but not read
	// from.
	ErrNotReadable = errors.New("keys: the format holds only derived secrets and cannot be read")
	// ErrNoSuchKey reports the index of a file that the set has no key for.
	ErrNoSuchKey = errors.New("keys: no key with this number")
)

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
	// NGHTTPX is nghttpx's --tls-ticket-key-file with --tls-ticket-key-cipher
	// aes-256-cbc, one key a file: what OpenSSL is, under the server's name. The
	// file that is named first encrypts.
	NGHTTPX
	// Lighttpd is lighttpd's ssl.stek-file, one key (mod_openssl_session_ticket_key_file
	// in src/mod_openssl.c).
	Lighttpd
	// Go is base64 lines of what SetSessionTicketKeys of a crypto/tls.Config
	// takes, the first encrypts.
	Go
)

// layouts says all that there is to know of each format.
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
// active since 1970, and valid until 2038, the latest that lighttpd knows. The service
// ends a key by replacing the file, and no clock is read.
const lighttpdPrefix = lighttpdVersion + "\x00\x00\x00\x00" + "\xff\xff\xff\x7f"

// lighttpdVersion is the part of the prefix that a file must have. Its times are not
// read.
const lighttpdVersion = "\x00\x00\x00\x00"

type layout struct {
	name      string
	label     string // in place of the name where secrets are derived
	container container
	order     order
	oneKey    bool // a file holds one key
	oneSize   bool // all keys of a file have the size of the current one
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
	nextLast                  // the reverse, but with current before next; at least minLines
)

// minLines is how many lines HAProxy takes at least.
const minLines = 3

// record is a prefix, the name of a key and then its secrets.
type record struct {
	prefix     string
	secretSize int  // in bytes, of the HMAC secret and of the AES key each
	aesFirst   bool // else the HMAC secret is
}

func (r record) size() int { return len(r.prefix) + NameSize + 2*r.secretSize }

// key copies a record.
func (r record) key(data []byte) Key {
	data = data[len(r.prefix):]
	name, secrets := data[:NameSize], data[NameSize:]
	first, second := secrets[:r.secretSize], secrets[r.secretSize:]
	if r.aesFirst {
		return NewKey(name, second, first)
	}
	return NewKey(name, first, second)
}

// Sizes of the smallest and the largest record.
const (
	minRecordSize = NameSize + 2*size128
	maxRecordSize = len(lighttpdPrefix) + NameSize + 2*size256
)

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
// missing. The keys that [Format.Append] repeats for [HAProxy] are read once. Whether
// the keys are good is for [Set.Validate] to say.
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

// withoutRepeats removes the keys that a file for HAProxy repeats at its beginning and
// its end, and splits off the next key; nil without one.
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

// apart is how to send keys of both sizes of a format.
const apart = "push the files with sessapi keys push FILE..., or send JSON"

// misread returns the issue of data that is not just records, such as text or a newline
// at the end; nil when it finds none.
func (l *layout) misread(data []byte) *Issue {
	n := len(data)
	text, isNewline := bytes.TrimSuffix(data, []byte("\n")), "the last byte is a newline"
	if bytes.HasSuffix(text, []byte("\r")) {
		text, isNewline = text[:len(text)-1], "the last two bytes are a line end"
	}
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
	case !l.fits(n) && len(text) < n && l.fits(len(text)):
		return &Issue{KindLength, "keys", fmt.Sprintf("have %d bytes, want a multiple of %s; %s", n, l.sizes(), isNewline)}
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

// fits reports whether n bytes are a number of records of one size.
func (l *layout) fits(n int) bool {
	return n > 0 && slices.ContainsFunc(l.records, func(r record) bool { return n%r.size() == 0 })
}

// encodingOf names the encoding of text of hex or base64 digits, in lines of any length,
// and how many bytes it decodes to; "" for other data.
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

// isWrapped reports whether two lines are one key, and the second alone is not.
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
// [HAProxy] previous from the oldest on, current, next. Without a next, a previous key
// or the current one is repeated in its place, and the first line is repeated until
// there are three. The keys of a [Format.OneKey] format stand one after another in the
// order of their files.
//
// Keys of a size that the format does not have, or for [HAProxy] of another size than
// the current key, get secrets that are derived from theirs: HKDF-SHA256 (RFC 5869)
// with the HMAC secret and the AES key one after the other as input keying material,
// the name as salt and "sessapi FORMAT v1" as info ([NGHTTPX] has that of [OpenSSL]);
// the output is the HMAC secret and then the AES key. The name stays. [H2O] has the AES
// key as it is and derives 64 bytes for the HMAC, [Go] derives 32 bytes in all.
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

// ordered returns the keys as a file of them all has them.
func (l *layout) ordered(set Set) []Key {
	ordered := make([]Key, 0, max(set.len()+1, minLines))
	if l.order == nextLast {
		ordered = append(ordered, set.Keys...)
		slices.Reverse(ordered)
		last := set.Next
		if last == nil { // the newest previous key stands before the current one
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
			return l.appendKey(slices.Grow(dst, l.size(k, k)), k, k, 0), nil
		}
		i--
	}
	return dst, ErrNoSuchKey
}

// MinKeys is how many different keys a file of the format should have.
func (f Format) MinKeys() int {
	if layouts[f].order == nextLast {
		return minLines
	}
	return 1
}

// Derives reports whether keys of a size get derived secrets, in a set whose current key
// has currentBits.
func (f Format) Derives(bits, currentBits int) bool {
	l := &layouts[f]
	return l.derivedSize > 0 || 8*l.recordFor(bits, currentBits).secretSize != bits
}

// writes reports whether data is what the format makes of set.
func (f Format) writes(data []byte, set Set) bool {
	written := f.Append(nil, set)
	defer clear(written)
	return subtle.ConstantTimeCompare(written, data) == 1
}

// writesKey reports whether the format can make k of own, which has the same name.
func (f Format) writesKey(k, own Key) bool {
	var bufs [2][maxRecordSize]byte
	defer clear(bufs[0][:])
	defer clear(bufs[1][:])
	l := &layouts[f]
	return subtle.ConstantTimeCompare(l.appendRecord(bufs[0][:0], k, k), l.appendRecord(bufs[1][:0], own, k)) == 1
}

// recordFor returns the record for a key of a size, in a set whose current key has
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

// yamlSize is more than what a mapping takes besides its key.
const yamlSize = 160

// size returns how many bytes k takes at most in a set of that current key, and
// exactly if it is in a raw container.
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

// appendKey appends k of a set of that current key. rank keys follow it.
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

// appendRecord appends the record of k in a set of that current key or, without
// records, what is derived.
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
	derived, err := hkdf.Key(sha256.New, secret, m.name, "sessapi "+cmp.Or(l.label, l.name)+" v1", size)
	if err != nil {
		panic(err) // only for more than 255 hashes of output
	}
	defer clear(derived)
	return append(dst, derived...)
}
