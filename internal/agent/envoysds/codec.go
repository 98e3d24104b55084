package envoysds

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// wipingCodec is grpc's codec for Protocol Buffers, except that it wipes a response once
// that is written. grpc would return the buffer, with keys, to a pool.
type wipingCodec struct{ encoding.CodecV2 }

// minBuffer is more than the largest buffer that grpc drops without telling its pool.
const minBuffer = 4 << 10

// Marshal is part of [encoding.CodecV2].
func (wipingCodec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", v)
	}
	buffer := make([]byte, 0, max(proto.Size(message), minBuffer)) // growing it would leave copies of keys behind
	buffer, err := proto.MarshalOptions{}.MarshalAppend(buffer, message)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(&buffer, wiper{})}, nil
}

// wiper is a pool that wipes what is returned to it.
type wiper struct{ mem.NopBufferPool }

// Put is part of [mem.BufferPool].
func (wiper) Put(buffer *[]byte) { clear((*buffer)[:cap(*buffer)]) }
