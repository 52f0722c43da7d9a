package download_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/limiquantix/limiquantix/cli/internal/download"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

type parts struct {
	all []*storagev1.ExportVolumeResponse
	at  int
	err error
}

func (p *parts) Receive() bool                        { p.at++; return p.at <= len(p.all) }
func (p *parts) Msg() *storagev1.ExportVolumeResponse { return p.all[p.at-1] }
func (p *parts) Err() error                           { return p.err }

func part(offset int64, data string, hole int64) *storagev1.ExportVolumeResponse {
	return &storagev1.ExportVolumeResponse{Offset: offset, Data: []byte(data), HoleBytes: hole, SizeBytes: 100_010}
}

// What is written is what was exported, holes included; what ends early or has a gap is refused.
func TestWrite(t *testing.T) {
	t.Parallel()
	whole := []*storagev1.ExportVolumeResponse{part(0, "abcde", 0), part(5, "", 100_000), part(100_005, "fghij", 0)}
	want := append(append([]byte("abcde"), make([]byte, 100_000)...), "fghij"...)
	var said int64
	done := func(n, total int64) {
		if said = n; total != 100_010 {
			t.Errorf("of %d", total)
		}
	}
	var b bytes.Buffer
	if n, err := download.Write(&parts{all: whole}, &b, done); err != nil || n != 100_010 || said != n || !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%d bytes, %v", n, err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := download.WriteFile(&parts{all: whole}, f, done); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	broken := errors.New("broken")
	for name, p := range map[string]*parts{"short": {all: whole[:2]}, "gap": {all: []*storagev1.ExportVolumeResponse{whole[0], whole[2]}}, "nothing": {}} {
		if _, err := download.Write(p, &b, done); !errors.Is(err, download.ErrShort) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := download.Write(&parts{all: whole[:1], err: broken}, &b, done); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}
