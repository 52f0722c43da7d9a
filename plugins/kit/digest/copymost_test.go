package digest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/limiquantix/limiquantix/plugins/kit/digest"
)

// pieces is a source of data and holes; a number is a hole.
type pieces struct {
	list []any
	io.Reader
}

func (p *pieces) Next() ([]byte, int64, error) {
	if len(p.list) == 0 {
		return nil, 0, io.EOF
	}
	x := p.list[0]
	p.list = p.list[1:]
	switch x := x.(type) {
	case string:
		return []byte(x), 0, nil
	case int:
		return nil, int64(x), nil
	case error:
		return nil, 0, x
	}
	panic(x)
}

// plain takes bytes only, skipper holes too.
type (
	plain   struct{ b bytes.Buffer }
	skipper struct {
		plain
		skipped int64
	}
)

func (p *plain) Write(b []byte) (int, error) { return p.b.Write(b) }

func (s *skipper) Skip(n int64) error {
	s.skipped += n
	s.b.Write(make([]byte, n))
	return nil
}

// The sum is that of the content with its zeros, whether the writer takes holes or not, and no more is taken than the limit.
func TestCopyMost(t *testing.T) {
	t.Parallel()
	content := append(append([]byte("abc"), make([]byte, 100_000)...), "def"...)
	for _, limit := range []int64{0, 2, 3, 4, 70_000, 100_003, 100_004, 100_006, 1 << 40} {
		want := content[:min(int64(len(content)), limit)]
		sum := sha256.Sum256(want)
		s, p := &skipper{}, &plain{}
		for name, to := range map[string]io.Writer{"skipper": s, "plain": p} {
			w := digest.NewWriter(to)
			n, err := digest.CopyMost(w, &pieces{list: []any{"abc", 100_000, "def"}}, limit)
			if err != nil || n != int64(len(want)) || w.Hex() != hex.EncodeToString(sum[:]) {
				t.Errorf("%s, limit %d: %d bytes, %v", name, limit, n, err)
			}
		}
		if !bytes.Equal(s.b.Bytes(), want) || !bytes.Equal(p.b.Bytes(), want) || limit > 3 && s.skipped == 0 {
			t.Errorf("limit %d: wrong bytes, %d skipped", limit, s.skipped)
		}
		w := digest.NewWriter(&plain{})
		if n, err := digest.CopyMost(w, bytes.NewReader(content), limit); err != nil || n != int64(len(want)) || w.Hex() != hex.EncodeToString(sum[:]) {
			t.Errorf("of a reader, limit %d: %d bytes, %v", limit, n, err)
		}
	}
	broken := errors.New("broken")
	if n, err := digest.CopyMost(digest.NewWriter(&plain{}), &pieces{list: []any{"abc", broken}}, 10); n != 3 || !errors.Is(err, broken) {
		t.Errorf("%d, %v", n, err)
	}
}
