// Package digest sums up what is copied while it is copied.
package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"sync"
)

// pieceBytes is what is copied, and summed up, at once: what messages of a stream hold at most.
const pieceBytes = 1 << 20

var zeros [64 << 10]byte

// Skipper is a writer that takes zeros by their number.
type Skipper interface {
	// Skip is like writing n bytes of zeros.
	Skip(n int64) error
}

// Source hands out content in pieces, so that it need not be copied.
type Source interface {
	// Next is the next piece: data that holds until the next call, or a hole of so many bytes of zeros. At the end it returns io.EOF.
	Next() (data []byte, hole int64, err error)
}

// Writer passes on what is written and computes its SHA-256 beside that, on another CPU if there is one.
type Writer struct {
	to  io.Writer
	sum hash.Hash
}

// NewWriter passes on to w.
func NewWriter(w io.Writer) *Writer { return &Writer{to: w, sum: sha256.New()} }

// Write returns when b is both written and summed up.
func (w *Writer) Write(b []byte) (int, error) {
	var summing sync.WaitGroup
	summing.Go(func() { _, _ = w.sum.Write(b) })
	n, err := w.to.Write(b)
	summing.Wait()
	return n, err //nolint:wrapcheck // the writer's own
}

// Skip is like writing n bytes of zeros.
func (w *Writer) Skip(n int64) error {
	skip, can := w.to.(Skipper)
	if can {
		if err := skip.Skip(n); err != nil {
			return err //nolint:wrapcheck // the writer's own
		}
	}
	for n > 0 {
		part := zeros[:min(n, int64(len(zeros)))]
		n -= int64(len(part))
		_, _ = w.sum.Write(part)
		if !can {
			if _, err := w.to.Write(part); err != nil {
				return err //nolint:wrapcheck // the writer's own
			}
		}
	}
	return nil
}

// Hex is the sum of all that was written, as lower-case hex digits.
func (w *Writer) Hex() string { return hex.EncodeToString(w.sum.Sum(nil)) }

// Copy is [io.Copy] in pieces large enough for two CPUs to share.
func Copy(to io.Writer, from io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, pieceBytes)) //nolint:wrapcheck // both sides' own
}

// CopyMost copies what from holds, limit bytes at most. From a [Source] it takes pieces as they are and passes holes on as such.
func CopyMost(to *Writer, from io.Reader, limit int64) (taken int64, err error) {
	src, ok := from.(Source)
	if !ok {
		return Copy(to, io.LimitReader(from, limit))
	}
	for taken < limit {
		data, hole, err := src.Next()
		if err == io.EOF { //nolint:errorlint // nothing but it is the end
			return taken, nil
		}
		if err != nil {
			return taken, err //nolint:wrapcheck // the source's own
		}
		data, hole = data[:min(int64(len(data)), limit-taken)], min(hole, limit-taken)
		if hole > 0 {
			err = to.Skip(hole)
		} else {
			_, err = to.Write(data)
		}
		if err != nil {
			return taken, err
		}
		taken += int64(len(data)) + hole
	}
	return taken, nil
}
