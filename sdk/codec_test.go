package sdk

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Data is received into the memory of the data before it, however its message is cut up; any other message is read as ever.
func TestCodecReusesMemoryOfData(t *testing.T) {
	t.Parallel()
	c := newCodec()
	m := &driverv1.ImportImageRequest{}
	take := func(want *driverv1.ImportImageRequest, cut int) {
		t.Helper()
		b, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var parts mem.BufferSlice
		for len(b) > 0 {
			n := min(cut, len(b))
			parts = append(parts, mem.SliceBuffer(b[:n]))
			b = b[n:]
		}
		if err := c.Unmarshal(parts, m); err != nil || !proto.Equal(m, want) {
			t.Errorf("%v, want %v: %v", m, want, err)
		}
	}
	data := func(b []byte) *driverv1.ImportImageRequest {
		return &driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: b}}
	}
	take(data(bytes.Repeat([]byte("a"), 1000)), 7)
	first := &m.GetData()[0]
	for _, n := range []int{1000, 10, 999} {
		take(data(bytes.Repeat([]byte("b"), n)), 3)
		if &m.GetData()[0] != first {
			t.Errorf("%d bytes are in other memory", n)
		}
	}
	take(data(bytes.Repeat([]byte("c"), 2000)), 1) // more than there is room for
	take(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_HoleBytes{HoleBytes: 5}}, 2)
	take(data([]byte("d")), 100)
	take(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Header{Header: &driverv1.ImportImageHeader{ImageId: "i"}}}, 2)
	take(data(nil), 100)
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer([]byte{dataTag, 5, 'x'})}, m); err == nil {
		t.Error("a message that is cut off is taken")
	}
}
