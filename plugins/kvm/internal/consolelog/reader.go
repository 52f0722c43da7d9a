// Package consolelog reads a console's log as virtlogd writes it: FILE grows, is renamed to FILE.0 when it is large, that to FILE.1, and the last one is removed.
// To readers it is one text, which has lost its oldest part.
package consolelog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// partsMost is how many renamed parts are looked for; virtlogd keeps 3 unless it is told otherwise.
const partsMost = 64

// Reader reads one log from a place on, across renames. Offsets count from the beginning of what was kept when the reader was opened.
// It is for one goroutine.
type Reader struct {
	path  string
	parts []*os.File // not yet read to their end, oldest first; the last one may be growing
	pos   int64      // in parts[0]
	base  int64      // offset of parts[0]
}

// Open begins at offset; a negative one counts from the end. A log that is not there yet is empty.
func Open(path string, offset int64) (*Reader, error) {
	r := &Reader{path: path}
	parts, err := r.newer(nil)
	if err != nil {
		return nil, err
	}
	r.parts = parts
	sizes, total := make([]int64, len(parts)), int64(0)
	for i, f := range parts {
		st, err := f.Stat()
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("open console log: %w", err)
		}
		sizes[i], total = st.Size(), total+st.Size()
	}
	if offset < 0 {
		offset += total
	}
	r.pos = max(0, min(offset, total))
	for i := 0; len(r.parts) > 1 && r.pos >= sizes[i]; i++ {
		r.pos -= sizes[i]
		r.base += sizes[i]
		r.drop()
	}
	return r, nil
}

// newer opens the parts that are newer than one, oldest first; nil = all.
func (r *Reader) newer(than *os.File) (parts []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(parts)
			parts = nil
		}
	}()
	for i := -1; i < partsMost; i++ {
		name := r.path
		if i >= 0 {
			name = fmt.Sprintf("%s.%d", r.path, i)
		}
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			if i < 0 {
				continue // between two renames
			}
			return parts, nil
		}
		if err != nil {
			return parts, fmt.Errorf("open console log: %w", err)
		}
		if same(f, than) {
			_ = f.Close()
			return parts, nil
		}
		if len(parts) > 0 && same(f, parts[0]) { // renamed meanwhile
			_ = f.Close()
			continue
		}
		parts = append([]*os.File{f}, parts...)
	}
	return parts, nil
}

func same(a, b *os.File) bool {
	if a == nil || b == nil {
		return false
	}
	sa, errA := a.Stat()
	sb, errB := b.Stat()
	return errA == nil && errB == nil && os.SameFile(sa, sb)
}

// Read reads what comes next; offset is that of its first byte. n = 0 and no error: there is nothing more now.
func (r *Reader) Read(buf []byte) (n int, offset int64, err error) {
	for {
		if len(r.parts) == 0 {
			if r.parts, err = r.newer(nil); err != nil || len(r.parts) == 0 {
				return 0, r.base, err
			}
		}
		f := r.parts[0]
		moved := len(r.parts) > 1 || r.renamed(f) // looked at before reading: nothing more is written to it then
		n, err := f.ReadAt(buf, r.pos)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, fmt.Errorf("read console log: %w", err)
		}
		if n > 0 {
			r.pos += int64(n)
			return n, r.base + r.pos - int64(n), nil
		}
		if st, err := f.Stat(); err == nil && st.Size() < r.pos { // emptied by somebody
			r.base, r.pos = r.base+r.pos, 0
			continue
		}
		if !moved {
			return 0, r.base + r.pos, nil
		}
		if len(r.parts) == 1 {
			newer, err := r.newer(f)
			if err != nil {
				return 0, 0, err
			}
			if len(newer) == 0 { // between two renames
				return 0, r.base + r.pos, nil
			}
			r.parts = append(r.parts, newer...)
		}
		r.base, r.pos = r.base+r.pos, 0
		r.drop()
	}
}

func (r *Reader) drop() {
	_ = r.parts[0].Close()
	r.parts = r.parts[1:]
}

// renamed reports whether a part is not the one that grows any more.
func (r *Reader) renamed(f *os.File) bool {
	now, err := os.Stat(r.path)
	if err != nil {
		return false
	}
	was, err := f.Stat()
	return err == nil && !os.SameFile(now, was)
}

// Gone reports whether the log's folder was removed: nothing more will come.
func (r *Reader) Gone() bool {
	_, err := os.Stat(filepath.Dir(r.path))
	return errors.Is(err, fs.ErrNotExist)
}

// Close closes the files.
func (r *Reader) Close() { closeAll(r.parts) }

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
