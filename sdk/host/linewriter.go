package host

import (
	"bytes"
	"strings"
)

// lineWriter calls each with every whole line written to it; lines longer than maxLine are cut. For one writer at a time.
type lineWriter struct {
	each func(line string)
	buf  []byte
	skip bool // until the next newline: the line was too long
}

func (w *lineWriter) Write(b []byte) (int, error) {
	n := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		part := b
		if i >= 0 {
			part = b[:i]
		}
		if !w.skip {
			w.buf = append(w.buf, part...)
		}
		if i < 0 && len(w.buf) <= maxLine {
			return n, nil
		}
		if len(w.buf) > 0 {
			w.each(strings.ToValidUTF8(strings.TrimRight(string(w.buf[:min(len(w.buf), maxLine)]), "\r"), "?"))
		}
		w.buf, w.skip = w.buf[:0], i < 0
		if i < 0 {
			return n, nil
		}
		b = b[i+1:]
	}
}
