// Package imagestream reads the content of an image from the stream of an import.
package imagestream

import (
	"errors"
	"io"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// mostHole keeps the work that one message asks for small.
const mostHole = 16 << 20

// Content is the content of an image that a stream brings after its header. Use either Read or Next.
type Content struct {
	stream driverv1.StorageDriverService_ImportImageServer
	m      driverv1.ImportImageRequest // received into again and again, see sdk's codec
	rest   []byte
	zeros  int64 // to be read before rest
}

// New reads what comes next in a stream.
func New(stream driverv1.StorageDriverService_ImportImageServer) *Content {
	return &Content{stream: stream}
}

// Next is the next piece: data that holds until the next call, or a hole of so many bytes of zeros. At the end it returns io.EOF.
func (c *Content) Next() (data []byte, hole int64, err error) {
	for len(data) == 0 && hole == 0 {
		err := c.stream.RecvMsg(&c.m)
		if errors.Is(err, io.EOF) {
			return nil, 0, io.EOF
		}
		if err != nil {
			return nil, 0, fault.New(metav1.Reason_REASON_CANCELLED, "the import's stream broke: %w", err)
		}
		switch m := c.m.GetMessage().(type) {
		case *driverv1.ImportImageRequest_Data:
			data = m.Data
		case *driverv1.ImportImageRequest_HoleBytes:
			if hole = m.HoleBytes; hole < 1 || hole > mostHole {
				return nil, 0, fault.Invalid(fault.Violation{Field: "hole_bytes", Description: "must be 1 to 16777216"})
			}
		case *driverv1.ImportImageRequest_Header:
			return nil, 0, fault.Invalid(fault.Violation{Field: "header", Description: "comes once only"})
		default:
			return nil, 0, fault.Invalid(fault.Violation{Field: "message", Description: "must be data or hole_bytes"})
		}
	}
	return data, hole, nil
}

// Read reads the content, holes as zeros.
func (c *Content) Read(b []byte) (n int, err error) {
	if len(c.rest) == 0 && c.zeros == 0 {
		if c.rest, c.zeros, err = c.Next(); err != nil {
			return 0, err
		}
	}
	if c.zeros > 0 {
		n = int(min(c.zeros, int64(len(b))))
		clear(b[:n])
		c.zeros -= int64(n)
		return n, nil
	}
	n = copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
