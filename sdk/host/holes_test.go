package host

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/grpc"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// kept keeps what is sent.
type kept struct {
	grpc.ClientStream
	content []byte
	kinds   []int64 // length of each message, negative = a hole
}

func (k *kept) SendMsg(m any) error {
	req := m.(*driverv1.ImportImageRequest) //nolint:forcetypeassert // nothing else comes
	if n := req.GetHoleBytes(); n > 0 {
		k.content, k.kinds = append(k.content, make([]byte, n)...), append(k.kinds, -n)
		return nil
	}
	k.content, k.kinds = append(k.content, req.GetData()...), append(k.kinds, int64(len(req.GetData())))
	return nil
}

// Whole units of zeros go as holes, all else as it is, and in order.
func TestZerosGoAsHoles(t *testing.T) {
	t.Parallel()
	zero := func(n int) []byte { return make([]byte, n) }
	full := func(n int) []byte { return bytes.Repeat([]byte{1}, n) }
	const u = holeBytes
	for name, tc := range map[string]struct {
		parts [][]byte
		want  []int64
	}{
		"data":          {[][]byte{full(3 * u)}, []int64{3 * u}},
		"zeros":         {[][]byte{zero(16 * u)}, []int64{-16 * u}},
		"both":          {[][]byte{full(u), zero(2 * u), full(5)}, []int64{u, -2 * u, 5}},
		"few zeros":     {[][]byte{zero(u - 1)}, []int64{u - 1}},
		"zeros at last": {[][]byte{full(u), zero(7)}, []int64{u + 7}},
		"out of step":   {[][]byte{full(1), zero(u), full(u)}, []int64{2*u + 1}},
	} {
		content := bytes.Join(tc.parts, nil)
		k := &kept{}
		if err := (&holeStream{k}).SendMsg(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: content}}); err != nil || !bytes.Equal(k.content, content) || !slices.Equal(k.kinds, tc.want) {
			t.Errorf("%s: %v, want %v: %v", name, k.kinds, tc.want, err)
		}
	}
	k := &kept{}
	if err := (&holeStream{k}).SendMsg(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{}}); err != nil || len(k.kinds) != 1 {
		t.Errorf("an empty message: %v, %v", k.kinds, err)
	}
}
