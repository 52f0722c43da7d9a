package lab

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
)

// ramdisk collects the files of an initial ram disk: path without leading
// slash to content. Parents are added when it is written.
type ramdisk struct {
	files map[string][]byte
	execs map[string]bool
	dirs  map[string]bool
}

func newRamdisk() *ramdisk {
	return &ramdisk{files: map[string][]byte{}, execs: map[string]bool{}, dirs: map[string]bool{}}
}

func (r *ramdisk) file(name string, content []byte) { r.files[name] = content; r.parents(name) }

func (r *ramdisk) program(name string, content []byte) { r.file(name, content); r.execs[name] = true }

func (r *ramdisk) dir(name string) { r.dirs[name] = true; r.parents(name) }

func (r *ramdisk) parents(name string) {
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		r.dirs[d] = true
	}
}

// writeFile writes a gzipped cpio archive. The same content gives the same bytes.
func (r *ramdisk) writeFile(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := bufio.NewWriter(f)
	zip, err := gzip.NewWriterLevel(buf, gzip.BestSpeed) // the guest unpacks it without KVM: size hardly matters
	if err != nil {
		return err
	}
	if err := r.write(zip); err != nil {
		return err
	}
	if err := zip.Close(); err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// write emits the "newc" format that the kernel unpacks.
func (r *ramdisk) write(w io.Writer) error {
	names := make([]string, 0, len(r.files)+len(r.dirs))
	for n := range r.dirs {
		names = append(names, n)
	}
	for n := range r.files {
		names = append(names, n)
	}
	sort.Strings(names) // a folder sorts before what is in it
	for i, n := range names {
		mode := 0o040755
		if body, ok := r.files[n]; ok {
			mode = 0o100644
			if r.execs[n] {
				mode = 0o100755
			}
			if err := cpioEntry(w, i+1, mode, n, body); err != nil {
				return err
			}
			continue
		}
		if err := cpioEntry(w, i+1, mode, n, nil); err != nil {
			return err
		}
	}
	return cpioEntry(w, 0, 0, "TRAILER!!!", nil)
}

func cpioEntry(w io.Writer, inode, mode int, name string, body []byte) error {
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		inode, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, 0, name)
	if _, err := io.WriteString(w, head+pad(len(head))); err != nil {
		return err
	}
	if _, err := w.Write(body); err != nil {
		return err
	}
	_, err := io.WriteString(w, pad(len(body)))
	return err
}

func pad(n int) string { return strings.Repeat("\x00", (4-n%4)%4) }
