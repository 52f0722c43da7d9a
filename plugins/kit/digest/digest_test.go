package digest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"
)

func TestCopySumsUp(t *testing.T) {
	in := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // more than one piece, and a part of one
	var out bytes.Buffer
	w := NewWriter(&out)
	n, err := Copy(w, iotest.HalfReader(bytes.NewReader(in)))
	if err != nil || n != int64(len(in)) || !bytes.Equal(out.Bytes(), in) {
		t.Fatalf("%d of %d bytes: %v", n, len(in), err)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(in)); w.Hex() != want {
		t.Errorf("sum %s, want %s", w.Hex(), want)
	}
}

func TestErrorsAreTheWriters(t *testing.T) {
	broken := errors.New("broken")
	if _, err := Copy(NewWriter(failing{broken}), strings.NewReader("x")); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
