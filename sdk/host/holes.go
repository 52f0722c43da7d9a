package host

import (
	"bytes"
	"slices"

	"google.golang.org/grpc"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// holeBytes is the unit in which zeros are told from data.
const holeBytes = 64 << 10

var zeros [holeBytes]byte

// takesHoles reports whether the plugin takes zeros of an image by their number.
func (p *Process) takesHoles() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.caps.GetStorage().GetFeatures(), driverv1.StorageFeature_STORAGE_FEATURE_IMPORT_HOLES)
}

// holeStream is the stream of an import: whole units of zeros in its data are sent as holes. Raw images are full of them.
type holeStream struct{ grpc.ClientStream }

// SendMsg sends a message of data as one or more.
func (s *holeStream) SendMsg(m any) error {
	req, ok := m.(*driverv1.ImportImageRequest)
	if !ok || len(req.GetData()) == 0 {
		return s.ClientStream.SendMsg(m) //nolint:wrapcheck // it has its reason
	}
	for data := req.GetData(); len(data) > 0; {
		n, hole := run(data)
		part := &driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: data[:n]}}
		if hole {
			part.Message = &driverv1.ImportImageRequest_HoleBytes{HoleBytes: int64(n)}
		}
		if err := s.ClientStream.SendMsg(part); err != nil {
			return err //nolint:wrapcheck // it has its reason
		}
		data = data[n:]
	}
	return nil
}

// run is how many bytes at the beginning are of one kind, and of which: a hole, which is made of whole units of zeros, or data.
func run(data []byte) (n int, hole bool) {
	for n < len(data) {
		unit := data[n:min(n+holeBytes, len(data))]
		zero := len(unit) == holeBytes && bytes.Equal(unit, zeros[:])
		if n > 0 && zero != hole {
			break
		}
		hole = zero
		n += len(unit)
	}
	return n, hole
}
