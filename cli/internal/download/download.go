// Package download writes what ExportVolume streams.
package download

import (
	"errors"
	"fmt"
	"io"
	"os"

	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// Stream is what is read.
type Stream interface {
	Receive() bool
	Msg() *storagev1.ExportVolumeResponse
	Err() error
}

// ErrShort says that the stream ended before the whole was there, or had a gap.
var ErrShort = errors.New("the export ended early")

// each passes the parts on, in order and without gaps, and returns how many bytes there are.
func each(s Stream, done func(n, total int64), data func([]byte) error, hole func(int64) error) (int64, error) {
	var at, size int64
	for s.Receive() {
		m := s.Msg()
		size = m.GetSizeBytes()
		if m.GetOffset() != at {
			return at, fmt.Errorf("%w: byte %d came where %d was to come", ErrShort, m.GetOffset(), at)
		}
		var err error
		if n := m.GetHoleBytes(); n > 0 {
			err = hole(n)
			at += n
		} else {
			err = data(m.GetData())
			at += int64(len(m.GetData()))
		}
		if err != nil {
			return at, err
		}
		done(at, size)
	}
	if err := s.Err(); err != nil {
		return at, err
	}
	if at < size || at == 0 {
		return at, fmt.Errorf("%w: %d of %d bytes", ErrShort, at, size)
	}
	return at, nil
}

// Write writes everything to w, zeros too. done hears how many of how many bytes there are.
func Write(s Stream, w io.Writer, done func(n, total int64)) (int64, error) {
	zeros := make([]byte, 64<<10)
	data := func(b []byte) error { _, err := w.Write(b); return err }
	return each(s, done, data, func(n int64) error {
		for n > 0 {
			part := min(n, int64(len(zeros)))
			if err := data(zeros[:part]); err != nil {
				return err
			}
			n -= part
		}
		return nil
	})
}

// WriteFile is Write into an empty file, in which holes stay holes.
func WriteFile(s Stream, f *os.File, done func(n, total int64)) (int64, error) {
	n, err := each(s, done, func(b []byte) error { _, err := f.Write(b); return err }, func(n int64) error { _, err := f.Seek(n, io.SeekCurrent); return err })
	if err != nil {
		return n, err
	}
	return n, f.Truncate(n)
}
