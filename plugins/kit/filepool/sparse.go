package filepool

import (
	"bytes"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// sparseBlock is the unit in which zeros become holes.
const sparseBlock = 64 << 10

var zeroBlock [sparseBlock]byte

// earlyBytes are written to the file before they are sent to the disk: the disk works while more comes, and the sync at the end is short.
const earlyBytes = 8 << 20

// sparseWriter writes a file in order and leaves holes where whole blocks are zero.
type sparseWriter struct {
	file  *os.File
	pos   int64
	early int64 // up to there all is on its way to the disk
}

// Write writes what lies between blocks of zeros at once.
func (w *sparseWriter) Write(b []byte) (int, error) {
	for from := 0; from < len(b); {
		end := from
		for end < len(b) && !allZero(b[end:min(end+sparseBlock, len(b))]) {
			end = min(end+sparseBlock, len(b))
		}
		if end > from {
			if n, err := w.file.WriteAt(b[from:end], w.pos+int64(from)); err != nil {
				w.pos += int64(from + n)
				return from + n, err //nolint:wrapcheck // its caller says what was written
			}
		}
		from = min(end+sparseBlock, len(b)) // the block of zeros that ended it
	}
	w.advance(int64(len(b)))
	return len(b), nil
}

// Skip leaves a hole.
func (w *sparseWriter) Skip(n int64) error {
	w.advance(n)
	return nil
}

func (w *sparseWriter) advance(by int64) {
	w.pos += by
	if n := w.pos - w.early; n >= earlyBytes {
		_ = unix.SyncFileRange(int(w.file.Fd()), w.early, n, unix.SYNC_FILE_RANGE_WRITE) //nolint:gosec // a descriptor; what it could not do, the sync does
		w.early = w.pos
	}
}

func allZero(b []byte) bool { return bytes.Equal(b, zeroBlock[:len(b)]) }

// finish gives the file its length when it ends in a hole.
func (w *sparseWriter) finish() error {
	if err := w.file.Truncate(w.pos); err != nil {
		return err
	}
	_, err := w.file.Seek(0, io.SeekStart)
	return err
}
