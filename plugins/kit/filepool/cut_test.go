package filepool

import (
	"path/filepath"
	"testing"

	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// What a process leaves that is killed while it writes the marker does not keep the directory from being a pool; other files do.
func TestMarkerIsWrittenAgain(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, ".new-0123456789abcdef"), []byte("{"))
	p := open(t, dir)
	if left := leftovers(t, p); len(left) > 0 {
		t.Error(left)
	}
	other := t.TempDir()
	writeFile(t, filepath.Join(other, ".new-x"), nil)
	_, err := Open(pool1, other, p.owner, Options{})
	want(t, err, metav1.Reason_REASON_INVALID_FIELD)
}
