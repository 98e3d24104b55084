package handlers

import "sync"

// bufferPool lends buffers for session and key bytes, each large enough for any request
// body. put wipes the used part.
type bufferPool struct{ pool sync.Pool }

func newBufferPool(size int) *bufferPool {
	p := &bufferPool{}
	p.pool.New = func() any {
		b := make([]byte, 0, size)
		return &b
	}
	return p
}

// get lends an empty buffer.
func (p *bufferPool) get() *[]byte { return p.pool.Get().(*[]byte) }

// put takes a buffer back. Its length is the part that was used.
func (p *bufferPool) put(b *[]byte) {
	clear(*b)
	*b = (*b)[:0]
	p.pool.Put(b)
}
