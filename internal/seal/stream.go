package seal

import (
	"bufio"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"

	"golang.org/x/crypto/chacha20poly1305"
)

// A stream is
//
//	version (1), key ID (8), salt (32), chunks
//
// sealed with a key that is derived from the seal key and the salt, and is thus
// the stream's own. The chunks are those of STREAM (Hoang, Reyhanitabar, Rogaway
// and Vizár, "Online Authenticated-Encryption and its Nonce-Reuse
// Misuse-Resistance", 2015) in the form that age gives it: 64 KiB each but for
// the last, sealed with ChaCha20-Poly1305, whose nonce is the number of the chunk
// in 11 bytes and 1 for the last chunk, else 0. The last chunk is empty only when
// it is the first.
const (
	saltSize       = 32
	chunkSize      = 64 << 10
	sealedChunk    = chunkSize + chacha20poly1305.Overhead
	streamHeader   = headerSize + saltSize
	lastChunkFlag  = 1
	lastChunkIndex = chacha20poly1305.NonceSize - 1
)

var errClosed = errors.New("seal: the stream is closed")

// chunks seals and opens the chunks of one stream in their order.
type chunks struct {
	aead   cipher.AEAD
	ad     []byte
	number uint64
}

func (k *key) chunks(header []byte, b Binding) (*chunks, error) {
	streamKey := derive(k.secret, header[headerSize:], labelStream, chacha20poly1305.KeySize)
	defer clear(streamKey)
	aead, err := chacha20poly1305.New(streamKey)
	if err != nil {
		return nil, err
	}
	return &chunks{aead: aead, ad: b.appendTo(nil, header[:headerSize])}, nil
}

// nonce is that of the next chunk.
func (c *chunks) nonce(last bool) []byte {
	nonce := make([]byte, chacha20poly1305.NonceSize)
	binary.BigEndian.PutUint64(nonce[lastChunkIndex-8:], c.number)
	if last {
		nonce[lastChunkIndex] = lastChunkFlag
	}
	c.number++
	return nonce
}

type writer struct {
	w      io.Writer
	chunks *chunks
	plain  []byte // of the chunk that is not written yet
	sealed []byte
	err    error // every later call returns it
}

// NewWriter returns a writer that seals its input and writes it to w. Close writes the
// rest, and must be called: an unfinished stream does not open. It does not close w.
// The writer is for one goroutine at a time. It holds one chunk of 64 KiB, and wipes
// it.
func (k *Keys) NewWriter(w io.Writer, b Binding) (io.WriteCloser, error) {
	key := &k.list()[0]
	header := append(key.appendHeader(make([]byte, 0, streamHeader)), make([]byte, saltSize)...)
	_, _ = rand.Read(header[headerSize:]) // never fails
	chunks, err := key.chunks(header, b)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(header); err != nil {
		return nil, err
	}
	return &writer{w: w, chunks: chunks, plain: make([]byte, 0, chunkSize), sealed: make([]byte, 0, sealedChunk)}, nil
}

func (w *writer) Write(p []byte) (n int, err error) {
	if w.err != nil {
		return 0, w.err
	}
	for len(p) > 0 {
		if len(w.plain) == chunkSize { // and is not the last
			if err := w.flush(false); err != nil {
				return n, err
			}
		}
		fits := min(len(p), chunkSize-len(w.plain))
		w.plain = append(w.plain, p[:fits]...)
		n, p = n+fits, p[fits:]
	}
	return n, nil
}

func (w *writer) Close() error {
	if w.err != nil {
		clear(w.plain[:cap(w.plain)])
		return w.err
	}
	if err := w.flush(true); err != nil {
		return err
	}
	w.err = errClosed
	return nil
}

// flush seals and writes the chunk.
func (w *writer) flush(last bool) error {
	w.sealed = w.chunks.aead.Seal(w.sealed[:0], w.chunks.nonce(last), w.plain, w.chunks.ad)
	clear(w.plain)
	w.plain = w.plain[:0]
	_, w.err = w.w.Write(w.sealed)
	return w.err
}

type reader struct {
	r      *bufio.Reader
	chunks *chunks
	plain  []byte // of the chunk that is being returned
	unread []byte // the part of it that was not yet
	last   bool
	err    error // what Read returns once all is read
}

// NewReader returns a reader of the data in the stream r. A read fails with
// [ErrCorrupt] at the first chunk that was changed, if the stream ends too early, and
// if anything follows its end. The errors of NewReader are [ErrUnknownKey],
// [ErrVersion], [ErrCorrupt] and those of r.
//
// The reader is for one goroutine at a time. It wipes its buffer at the end of the
// stream and after an error.
func (k *Keys) NewReader(r io.Reader, b Binding) (io.Reader, error) {
	header := make([]byte, streamHeader)
	if _, err := io.ReadFull(r, header); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, ErrCorrupt
	} else if err != nil {
		return nil, err
	}
	key, err := k.find(header)
	if err != nil {
		return nil, err
	}
	chunks, err := key.chunks(header, b)
	if err != nil {
		return nil, err
	}
	// One byte more than a chunk shows whether it is the last.
	return &reader{r: bufio.NewReaderSize(r, sealedChunk+1), chunks: chunks, plain: make([]byte, 0, chunkSize)}, nil
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.unread) == 0 && r.err == nil {
		r.err = r.next()
		if r.err != nil {
			clear(r.plain[:cap(r.plain)])
		}
	}
	if len(r.unread) == 0 {
		return 0, r.err
	}
	n := copy(p, r.unread)
	r.unread = r.unread[n:]
	return n, nil
}

// next opens the next chunk. It returns io.EOF behind the last.
func (r *reader) next() error {
	if r.last {
		return io.EOF
	}
	sealed, err := r.r.Peek(sealedChunk + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	r.last = len(sealed) <= sealedChunk
	sealed = sealed[:min(len(sealed), sealedChunk)]
	first := r.chunks.number == 0
	plain, err := r.chunks.aead.Open(r.plain[:0], r.chunks.nonce(r.last), sealed, r.chunks.ad)
	if err != nil || len(plain) == 0 && !first {
		return ErrCorrupt
	}
	_, _ = r.r.Discard(len(sealed)) // it is buffered
	r.plain, r.unread = plain, plain
	return nil
}
