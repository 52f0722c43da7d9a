package imagestream_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/imagestream"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// sent is a stream of messages that ends as its host has it.
type sent struct {
	driverv1.StorageDriverService_ImportImageServer
	list []*driverv1.ImportImageRequest
	end  error
}

func (s *sent) RecvMsg(m any) error {
	if len(s.list) == 0 {
		return s.end
	}
	into := m.(*driverv1.ImportImageRequest) //nolint:forcetypeassert // nothing else comes
	proto.Reset(into)
	proto.Merge(into, s.list[0])
	s.list = s.list[1:]
	return nil
}

func data(s string) *driverv1.ImportImageRequest {
	return &driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: []byte(s)}}
}

func hole(n int64) *driverv1.ImportImageRequest {
	return &driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_HoleBytes{HoleBytes: n}}
}

// Read gives all bytes in order, holes as zeros; what is no content, and a stream that breaks, have their reasons.
func TestRead(t *testing.T) {
	t.Parallel()
	got, err := io.ReadAll(imagestream.New(&sent{list: []*driverv1.ImportImageRequest{data("abc"), data(""), hole(70_000), data("d")}, end: io.EOF}))
	if want := append(append([]byte("abc"), make([]byte, 70_000)...), 'd'); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for name, tc := range map[string]struct {
		stream sent
		want   metav1.Reason
	}{
		"no hole":     {sent{list: []*driverv1.ImportImageRequest{hole(0)}}, metav1.Reason_REASON_INVALID_FIELD},
		"a negative":  {sent{list: []*driverv1.ImportImageRequest{hole(-1)}}, metav1.Reason_REASON_INVALID_FIELD},
		"a vast hole": {sent{list: []*driverv1.ImportImageRequest{hole(16<<20 + 1)}}, metav1.Reason_REASON_INVALID_FIELD},
		"nothing":     {sent{list: []*driverv1.ImportImageRequest{{}}}, metav1.Reason_REASON_INVALID_FIELD},
		"header":      {sent{list: []*driverv1.ImportImageRequest{{Message: &driverv1.ImportImageRequest_Header{}}}}, metav1.Reason_REASON_INVALID_FIELD},
		"broken":      {sent{end: errors.New("gone")}, metav1.Reason_REASON_CANCELLED},
	} {
		if _, err := io.ReadAll(imagestream.New(&tc.stream)); !fault.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
