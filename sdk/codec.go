package sdk

import (
	"encoding/binary"
	"io"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// codec is gRPC's own for protobuf, but for the content of images: a message that is received into one which holds data already gets its bytes into the same memory. Else an
// import of a GiB would make a GiB of garbage, which costs more than its TLS.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// Unmarshal reads a message.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(*driverv1.ImportImageRequest); ok {
		if d, ok := m.GetMessage().(*driverv1.ImportImageRequest_Data); ok && takeData(data, d) {
			return nil
		}
	}
	return c.CodecV2.Unmarshal(data, v) //nolint:wrapcheck // gRPC's own
}

// dataTag is what an ImportImageRequest begins with that holds data: field 2, of bytes.
const dataTag = 2<<3 | 2

// takeData reads a message that is nothing but data. It reports false, and reads nothing, of any other.
func takeData(message mem.BufferSlice, into *driverv1.ImportImageRequest_Data) bool {
	r := message.Reader()
	defer func() { _ = r.Close() }()
	if tag, err := r.ReadByte(); err != nil || tag != dataTag {
		return false
	}
	n, err := binary.ReadUvarint(r)
	if err != nil || n != uint64(r.Remaining()) { //nolint:gosec // a length
		return false
	}
	if uint64(cap(into.Data)) < n {
		into.Data = make([]byte, n)
	}
	into.Data = into.Data[:n]
	_, err = io.ReadFull(r, into.Data)
	return err == nil
}
