package sslsession

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
)

var (
	// ErrPEM reports text without a session in PEM.
	ErrPEM = errors.New("not a PEM session")
	// ErrPEMType reports text that has only PEM blocks of other types, such as
	// certificates. It wraps [ErrPEM].
	ErrPEMType = fmt.Errorf("%w: it has no SSL SESSION PARAMETERS block", ErrPEM)
)

// The first and last line of a session (PEM_STRING_SSL_SESSION in OpenSSL's pem.h), and
// the number of bytes in a line of 64 characters.
const (
	pemBegin     = "-----BEGIN "
	pemEnd       = "-----END "
	pemDashes    = "-----"
	pemType      = "SSL SESSION PARAMETERS"
	pemLineBytes = 48
)

// IsPEM reports whether data is text for [DecodePEM]: it starts with a block, or has a
// line that starts a session.
func IsPEM(data []byte) bool {
	return bytes.HasPrefix(data, []byte(pemBegin)) || bytes.Contains(data, []byte("\n"+pemBegin+pemType+pemDashes))
}

// DecodePEM returns the DER of the first session in a PEM text, such as openssl
// s_client -sess_out and openssl sess_id write. The caller owns the result and must
// wipe it. The text is not changed.
//
// It accepts everything that OpenSSL accepts: other text and blocks around the session,
// lines of any length, and white space at line ends. It rejects a session with headers,
// which is encrypted. [Parse] checks that the DER is a session.
//
// The errors are [ErrPEM], in particular [ErrPEMType], and [ErrTooLarge].
func DecodePEM(text []byte) ([]byte, error) {
	err := fmt.Errorf("%w: it has no BEGIN line", ErrPEM)
	for len(text) > 0 {
		var line []byte
		line, text = cutLine(text)
		typ, begins := bytes.CutPrefix(line, []byte(pemBegin))
		typ, whole := bytes.CutSuffix(typ, []byte(pemDashes))
		if !begins || !whole {
			continue
		}
		var body []byte
		if body, text, err = cutBlock(text, typ); err != nil {
			return nil, err
		}
		if string(typ) == pemType {
			return decodeBody(body)
		}
		err = ErrPEMType
	}
	return nil, err
}

// cutLine returns the first line of the text, without trailing white space, and the
// text after it.
func cutLine(text []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(text, []byte("\n"))
	return bytes.TrimRightFunc(line, isSpace), rest
}

// isSpace reports whether OpenSSL strips the character from the end of a line.
func isSpace(r rune) bool { return r <= ' ' }

// cutBlock returns the body of a block whose first line is cut off already, and the
// text after the block.
func cutBlock(text, typ []byte) (body, rest []byte, err error) {
	for rest = text; len(rest) > 0; {
		body = text[:len(text)-len(rest)]
		var line []byte
		line, rest = cutLine(rest)
		if bytes.HasPrefix(line, []byte(pemEnd)) {
			if string(line) != pemEnd+string(typ)+pemDashes {
				return nil, nil, fmt.Errorf("%w: the BEGIN and END lines differ", ErrPEM)
			}
			return body, rest, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: an END line is missing", ErrPEM)
}

// decodeBody decodes the text between the first and the last line of a session.
func decodeBody(body []byte) ([]byte, error) {
	switch {
	case bytes.IndexByte(body, ':') >= 0:
		return nil, fmt.Errorf("%w: the block has headers", ErrPEM)
	case len(body) > 2*MaxSize: // base64 takes 4/3 of the size; the rest is for line ends
		return nil, ErrTooLarge
	}
	text := make([]byte, 0, len(body))
	defer func() { clear(text) }()
	for _, b := range body {
		if !isSpace(rune(b)) {
			text = append(text, b)
		}
	}
	der := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(der, text)
	switch {
	case err != nil:
		clear(der)
		return nil, fmt.Errorf("%w: the base64 is malformed", ErrPEM)
	case n == 0:
		return nil, fmt.Errorf("%w: the block is empty", ErrPEM)
	case n > MaxSize:
		clear(der)
		return nil, ErrTooLarge
	}
	return der[:n], nil
}

// AppendPEM appends a DER session to dst as PEM, byte for byte as OpenSSL writes it. If
// dst has room for [PEMSize] more bytes, AppendPEM allocates nothing, and makes no copy
// of the session outside dst.
func AppendPEM(dst, der []byte) []byte {
	dst = slices.Grow(dst, PEMSize(len(der)))
	dst = append(dst, pemBegin+pemType+pemDashes+"\n"...)
	for chunk := range slices.Chunk(der, pemLineBytes) {
		dst = base64.StdEncoding.AppendEncode(dst, chunk)
		dst = append(dst, '\n')
	}
	return append(dst, pemEnd+pemType+pemDashes+"\n"...)
}

// PEMSize returns how many bytes [AppendPEM] appends for a DER session of size bytes.
func PEMSize(size int) int {
	lines := (size + pemLineBytes - 1) / pemLineBytes
	const around = len(pemBegin) + len(pemEnd) + 2*len(pemType+pemDashes+"\n")
	return around + base64.StdEncoding.EncodedLen(size) + lines
}
