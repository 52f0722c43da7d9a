package host

import (
	"bufio"
	"io"
	"strings"
	"sync"
)

const (
	maxLine  = 8 << 10 // longer lines of a plugin are cut
	tailLen  = 40      // lines kept for the next crash report
	tailLine = 512     // bytes kept of each of these
)

// readLines calls each with every line of r, cut to maxLine, until r ends. Memory is bounded whatever the plugin writes.
func readLines(r io.Reader, each func(line string)) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 {
			each(strings.ToValidUTF8(strings.TrimRight(string(line), "\r\n"), "?"))
		}
		for err == bufio.ErrBufferFull { // drop the rest of the line
			_, err = br.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

// tail keeps a plugin's last lines, and apart from them the first lines of a Go panic, which a long trace would push out.
type tail struct {
	mu       sync.Mutex
	lines    []string
	panicked []string
}

const panicLines = 12

func (t *tail) add(line string) {
	if len(line) > tailLine {
		line = line[:tailLine] + "..."
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if start := strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: "); start && t.panicked == nil || t.panicked != nil && len(t.panicked) < panicLines {
		t.panicked = append(t.panicked, line)
		return
	}
	t.lines = append(t.lines, line)
	if len(t.lines) > tailLen {
		t.lines = append(t.lines[:0], t.lines[len(t.lines)-tailLen:]...)
	}
}

// get returns the last lines, the panic's first ones before them.
func (t *tail) get() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append(append([]string(nil), t.panicked...), t.lines...)
}
