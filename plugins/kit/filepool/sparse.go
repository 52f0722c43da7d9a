package filepool

import (
	"bytes"
	"io"
	"os"
)

// sparseBlock is the unit in which zeros become holes.
const sparseBlock = 64 << 10

var zeroBlock [sparseBlock]byte

// sparseWriter writes a file in order and leaves holes where whole blocks are zero.
type sparseWriter struct {
	file *os.File
	pos  int64
}

func (w *sparseWriter) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n := min(len(b)-done, sparseBlock)
		part := b[done : done+n]
		if !bytes.Equal(part, zeroBlock[:n]) {
			if _, err := w.file.WriteAt(part, w.pos); err != nil {
				return done, err
			}
		}
		w.pos += int64(n)
		done += n
	}
	return done, nil
}

// finish gives the file its length when it ends in a hole.
func (w *sparseWriter) finish() error {
	if err := w.file.Truncate(w.pos); err != nil {
		return err
	}
	_, err := w.file.Seek(0, io.SeekStart)
	return err
}
