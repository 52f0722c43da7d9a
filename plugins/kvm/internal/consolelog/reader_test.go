package consolelog

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// log is a console's log as virtlogd writes it.
type log struct {
	t    *testing.T
	path string
	keep int
}

func newLog(t *testing.T) *log {
	return &log{t: t, path: filepath.Join(t.TempDir(), "dom", "console.log"), keep: 3}
}

func (l *log) write(text string) {
	l.t.Helper()
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		l.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *log) rotate() {
	l.t.Helper()
	_ = os.Remove(fmt.Sprintf("%s.%d", l.path, l.keep-1))
	for i := l.keep - 2; i >= 0; i-- {
		_ = os.Rename(fmt.Sprintf("%s.%d", l.path, i), fmt.Sprintf("%s.%d", l.path, i+1))
	}
	if err := os.Rename(l.path, l.path+".0"); err != nil {
		l.t.Fatal(err)
	}
}

func (l *log) open(offset int64) *Reader {
	l.t.Helper()
	r, err := Open(l.path, offset)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(r.Close)
	return r
}

// rest reads all there is, in small pieces whose offsets must follow one another.
func rest(t *testing.T, r *Reader) (first int64, text string) {
	t.Helper()
	first, next := int64(-1), int64(0)
	for buf := make([]byte, 3); ; {
		n, at, err := r.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return first, text
		}
		if first < 0 {
			first = at
		} else if at != next {
			t.Errorf("offset %d after %d", at, next)
		}
		next, text = at+int64(n), text+string(buf[:n])
	}
}

// The parts are one text, from any place on.
func TestPartsAreOneText(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	if _, text := rest(t, l.open(0)); text != "" {
		t.Errorf("no log yet: %q", text)
	}
	for i, part := range []string{"alpha ", "beta ", "gamma ", "delta"} {
		if i > 0 {
			l.rotate()
		}
		l.write(part)
	}
	const all = "alpha beta gamma delta"
	for offset := int64(-30); offset <= 30; offset++ {
		from := offset
		if from < 0 {
			from += int64(len(all))
		}
		from = max(0, min(from, int64(len(all))))
		if at, text := rest(t, l.open(offset)); text != all[from:] || text != "" && at != from {
			t.Errorf("from %d: %q at %d", offset, text, at)
		}
	}
	l.rotate() // alpha goes
	l.write("epsilon")
	if _, text := rest(t, l.open(0)); text != "beta gamma deltaepsilon" {
		t.Errorf("oldest part lost: %q", text)
	}
}

// A reader that follows misses nothing when the file is renamed under it, once or several times, also with text that was written just before.
func TestFollowsAcrossRenames(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	r := l.open(0)
	var got, want strings.Builder
	for i, renames := range []int{0, 1, 0, 2, 1, 3, 0} {
		for range renames {
			text := fmt.Sprintf("<%d before rename>", i)
			l.write(text)
			want.WriteString(text)
			l.rotate()
		}
		text := fmt.Sprintf("<%d>", i)
		if i%2 == 0 {
			l.write(text)
			want.WriteString(text)
		}
		_, part := rest(t, r)
		got.WriteString(part)
	}
	if got.String() != want.String() {
		t.Errorf("got  %s\nwant %s", got.String(), want.String())
	}
}

// A log that somebody emptied goes on; one whose folder is gone has ended.
func TestEmptiedAndGone(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.write("first")
	r := l.open(0)
	rest(t, r)
	if err := os.Truncate(l.path, 0); err != nil {
		t.Fatal(err)
	}
	if _, text := rest(t, r); text != "" {
		t.Errorf("%q", text)
	}
	l.write("new")
	if at, text := rest(t, r); text != "new" || at != 5 {
		t.Errorf("%q at %d", text, at)
	}
	if r.Gone() {
		t.Error("gone while it is there")
	}
	if err := os.RemoveAll(filepath.Dir(l.path)); err != nil {
		t.Fatal(err)
	}
	if !r.Gone() {
		t.Error("not gone")
	}
}
