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

// Hex is the sum of all that was written, as lower-case hex digits.
func (w *Writer) Hex() string { return hex.EncodeToString(w.sum.Sum(nil)) }

// Copy is [io.Copy] in pieces large enough for two CPUs to share.
func Copy(to io.Writer, from io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, pieceBytes)) //nolint:wrapcheck // both sides' own
}
