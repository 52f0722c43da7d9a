package seed

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

var documents = &driverv1.CloudInitSeed{MetaData: []byte("instance-id: i\n"), UserData: bytes.Repeat([]byte("#secret\n"), 4000), NetworkConfig: []byte("version: 2\n")}

// Equal documents make equal images, whenever they are made; others do not. Only the owner can read them, and nothing stays beside them.
func TestReproducible(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var images [][]byte
	for i, s := range []*driverv1.CloudInitSeed{documents, documents, {MetaData: []byte("x")}} {
		path := filepath.Join(dir, "seed.iso")
		if i == 1 {
			<-time.After(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // times in the image have seconds
		}
		if err := os.WriteFile(path+".new", []byte("left by a crash"), 0o644); err != nil { //nolint:gosec // worse than ours on purpose
			t.Fatal(err)
		}
		if err := Write(path, s); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", st.Mode(), err)
		}
		images = append(images, b)
	}
	if !bytes.Equal(images[0], images[1]) || bytes.Equal(images[0], images[2]) {
		t.Error("images are not as equal as their documents")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v %v", left, err)
	}
}

// The kernel's own tools find label and documents.
func TestReadByOthers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seed.iso")
	if err := Write(path, documents); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("blkid", "-p", "-o", "export", path).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("LABEL=cidata")) || !bytes.Contains(out, []byte("TYPE=iso9660")) {
		t.Errorf("%v: %s", err, out)
	}
}
