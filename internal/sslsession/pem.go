package sslsession

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
)

var (
	// ErrPEM reports text that is not one session in PEM.
	ErrPEM = errors.New("not a session in PEM")
	// ErrPEMType reports a PEM block of another type, such as a certificate. It
	// is an [ErrPEM], too.
	ErrPEMType = fmt.Errorf("%w: the block is not of the type SSL SESSION PARAMETERS", ErrPEM)
)

// The lines of PEM_STRING_SSL_SESSION in OpenSSL's pem.h, and how many bytes
// make a line of 64 characters between them.
const (
	pemBegin     = "-----BEGIN SSL SESSION PARAMETERS-----\n"
	pemEnd       = "-----END SSL SESSION PARAMETERS-----\n"
	pemLineBytes = 48
)

// DecodePEM returns the DER in a PEM text, as openssl s_client -sess_out and
// openssl sess_id write it. It is the caller's own, to wipe when it is done
// with; the text is not changed.
//
// There must be one block, without headers. Text may stand before it, as
// sess_id -text writes it, but only white space after it. Lines may be of any
// length and end in CR LF. That the DER is a session is for [Parse] to say.
//
// The errors are [ErrPEM] and, in particular, [ErrPEMType]; and [ErrTooLarge].
func DecodePEM(text []byte) ([]byte, error) {
	line, rest, _ := bytes.Cut(text, []byte("\n"))
	for !bytes.HasPrefix(line, []byte("-----BEGIN ")) {
		if len(rest) == 0 {
			return nil, fmt.Errorf("%w: no block begins", ErrPEM)
		}
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
	}
	if string(bytes.TrimSpace(line)) != pemBegin[:len(pemBegin)-1] {
		return nil, ErrPEMType
	}
	body, after, ended := bytes.Cut(rest, []byte("\n"+pemEnd[:len(pemEnd)-1]))
	switch {
	case !ended:
		return nil, fmt.Errorf("%w: the block is empty or does not end", ErrPEM)
	case len(bytes.TrimSpace(after)) > 0:
		return nil, fmt.Errorf("%w: something follows the block", ErrPEM)
	case bytes.IndexByte(body, ':') >= 0:
		return nil, fmt.Errorf("%w: the block has headers", ErrPEM)
	case len(body) > 2*MaxSize: // base64 takes 4/3 of it; the rest is for line ends
		return nil, ErrTooLarge
	}
	der := make([]byte, base64.StdEncoding.DecodedLen(len(body)))
	n, err := base64.StdEncoding.Strict().Decode(der, body)
	switch {
	case err != nil:
		clear(der)
		return nil, fmt.Errorf("%w: the base64 is broken", ErrPEM)
	case n == 0:
		return nil, fmt.Errorf("%w: the block is empty or does not end", ErrPEM)
	case n > MaxSize:
		clear(der)
		return nil, ErrTooLarge
	}
	return der[:n], nil
}

// AppendPEM appends a session in DER to dst, in PEM, byte for byte as OpenSSL
// writes it. When dst has room for [PEMSize] more bytes nothing is allocated,
// and dst is the only place the session is copied to.
func AppendPEM(dst, der []byte) []byte {
	dst = slices.Grow(dst, PEMSize(len(der)))
	dst = append(dst, pemBegin...)
	for chunk := range slices.Chunk(der, pemLineBytes) {
		dst = base64.StdEncoding.AppendEncode(dst, chunk)
		dst = append(dst, '\n')
	}
	return append(dst, pemEnd...)
}

// PEMSize returns how many bytes [AppendPEM] appends for a session of size
// bytes in DER.
func PEMSize(size int) int {
	lines := (size + pemLineBytes - 1) / pemLineBytes
	return len(pemBegin) + base64.StdEncoding.EncodedLen(size) + lines + len(pemEnd)
}
