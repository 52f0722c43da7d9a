package filepool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	raw   = driverv1.VolumeFormat_VOLUME_FORMAT_RAW
	qcow  = driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2
	volA  = "00000000-0000-4000-8000-00000000000a"
	imgA  = "00000000-0000-4000-8000-0000000000a1"
	pool1 = "00000000-0000-4000-8000-000000000001"
)

var owner = Owner{ClusterID: "c", NodeID: "n"}

func open(t *testing.T, path string) *Pool {
	t.Helper()
	p, err := Open(pool1, path, owner, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func markFor(id string) *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: "c", NodeId: "n", ObjectId: id}
}

func create(id string, size int64, f driverv1.VolumeFormat, image string) *driverv1.CreateVolumeRequest {
	r := &driverv1.CreateVolumeRequest{PoolId: pool1, VolumeId: id, Mark: markFor(id), SizeBytes: size, Format: f}
	if image != "" {
		r.Source = &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: image}}
	}
	return r
}

func header(id string, f driverv1.VolumeFormat, content []byte) *driverv1.ImportImageHeader {
	s := sha256.Sum256(content)
	return &driverv1.ImportImageHeader{PoolId: pool1, ImageId: id, Mark: markFor(id), Format: f, Sha256: hex.EncodeToString(s[:]), ContentBytes: int64(len(content))}
}

func want(t *testing.T, err error, reason metav1.Reason) {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Errorf("got %v, want %v", err, reason)
	}
}

// leftovers lists everything in the pool but directories and the marker.
func leftovers(t *testing.T, p *Pool) (files []string) {
	t.Helper()
	err := filepath.WalkDir(p.Path(), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != markerFile {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestVolumeLife(t *testing.T) {
	for _, f := range []driverv1.VolumeFormat{raw, qcow} {
		t.Run(f.String(), func(t *testing.T) {
			ctx, p := context.Background(), open(t, t.TempDir())
			v, err := p.CreateVolume(ctx, create(volA, 1000, f, ""))
			if err != nil || v.GetSizeBytes() != 1024 {
				t.Fatal(v, err)
			}
			if again, err := p.CreateVolume(ctx, create(volA, 1000, f, "")); err != nil || again.GetSizeBytes() != 1024 {
				t.Error("repetition:", again, err)
			}
			_, err = p.CreateVolume(ctx, create(volA, 2000, f, ""))
			want(t, err, metav1.Reason_REASON_SPEC_CONFLICT)
			src, err := p.AttachVolume(&driverv1.AttachVolumeRequest{VolumeId: volA})
			if err != nil || src.GetFile().GetFormat() != f {
				t.Fatal(src, err)
			}
			if _, err := os.Stat(src.GetFile().GetPath()); err != nil {
				t.Error(err)
			}
			want(t, p.DeleteVolume(volA), metav1.Reason_REASON_VOLUME_IN_USE)
			_, err = p.ResizeVolume(ctx, volA, 4096)
			want(t, err, metav1.Reason_REASON_VOLUME_IN_USE)
			for range 2 {
				if err := p.DetachVolume(volA); err != nil {
					t.Error(err)
				}
			}
			if v, err := p.ResizeVolume(ctx, volA, 4096); err != nil || v.GetSizeBytes() != 4096 {
				t.Error(v, err)
			}
			_, err = p.ResizeVolume(ctx, volA, 512)
			want(t, err, metav1.Reason_REASON_SIZE_OUT_OF_RANGE)
			for range 2 {
				if err := p.DeleteVolume(volA); err != nil {
					t.Error(err)
				}
			}
			if l := leftovers(t, p); len(l) > 0 {
				t.Error("left behind:", l)
			}
		})
	}
}

// A volume from an image has its content; the image stays while a volume is based on it.
func TestVolumeFromImage(t *testing.T) {
	ctx, p := context.Background(), open(t, t.TempDir())
	content := bytes.Repeat([]byte("limiquantix!"), 1<<16)
	img, err := p.ImportImage(ctx, header(imgA, raw, content), bytes.NewReader(content))
	if err != nil || img.GetVirtualSizeBytes() != int64(len(content)) {
		t.Fatal(img, err)
	}
	for _, f := range []driverv1.VolumeFormat{raw, qcow} {
		_, err := p.CreateVolume(ctx, create(volA, 1<<10, f, imgA))
		want(t, err, metav1.Reason_REASON_SIZE_OUT_OF_RANGE)
		if _, err := p.CreateVolume(ctx, create(volA, 2<<20, f, imgA)); err != nil {
			t.Fatal(err)
		}
		src, _ := p.AttachVolume(&driverv1.AttachVolumeRequest{VolumeId: volA})
		name := map[driverv1.VolumeFormat]string{raw: "raw", qcow: "qcow2"}[f]
		out := filepath.Join(t.TempDir(), "out")
		if b, err := exec.Command("qemu-img", "convert", "-f", name, "-O", "raw", src.GetFile().GetPath(), out).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		got, _ := os.ReadFile(out)
		if !bytes.Equal(got[:len(content)], content) || len(got) != 2<<20 {
			t.Errorf("%s: content differs (%d bytes)", name, len(got))
		}
		if f == qcow {
			want(t, p.DeleteImage(imgA), metav1.Reason_REASON_IMAGE_IN_USE)
		}
		if err := errors.Join(p.DetachVolume(volA), p.DeleteVolume(volA)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := p.DeleteImage(imgA); err != nil {
			t.Error(err)
		}
	}
	if l := leftovers(t, p); len(l) > 0 {
		t.Error("left behind:", l)
	}
}

// What could reach beyond itself, or is not what was declared, is refused with its reason and leaves nothing.
func TestImportRefuses(t *testing.T) {
	dir := t.TempDir()
	make := func(name string, args ...string) []byte {
		path := filepath.Join(dir, name)
		if b, err := exec.Command("qemu-img", append(append([]string{"create", "-q", "-f", "qcow2"}, args...), path, "1M")...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := make("good")
	backing := make("backing", "-b", "/etc/passwd", "-F", "raw", "-u")
	external := make("external", "-o", "data_file="+filepath.Join(dir, "data"))
	for _, tc := range []struct {
		name   string
		edit   func(h *driverv1.ImportImageHeader)
		format driverv1.VolumeFormat
		body   []byte
		stream func([]byte) io.Reader
		want   metav1.Reason
	}{
		{name: "backing file", format: qcow, body: backing, want: metav1.Reason_REASON_IMAGE_REFUSED},
		{name: "external data", format: qcow, body: external, want: metav1.Reason_REASON_IMAGE_REFUSED},
		{name: "raw called qcow2", format: qcow, body: []byte("hello"), want: metav1.Reason_REASON_IMAGE_REFUSED},
		{name: "cut off", format: qcow, body: good[:4096], want: metav1.Reason_REASON_IMAGE_REFUSED},
		{name: "empty", format: raw, body: nil, want: metav1.Reason_REASON_IMAGE_REFUSED},
		{name: "wrong checksum", format: raw, body: []byte("x"), edit: func(h *driverv1.ImportImageHeader) { h.Sha256 = strings.Repeat("0", 64) }, want: metav1.Reason_REASON_CHECKSUM_MISMATCH},
		{name: "no checksum form", format: raw, body: []byte("x"), edit: func(h *driverv1.ImportImageHeader) { h.Sha256 = "ABC" }, want: metav1.Reason_REASON_INVALID_FIELD},
		{name: "truncated", format: raw, body: good, edit: func(h *driverv1.ImportImageHeader) { h.ContentBytes++ }, want: metav1.Reason_REASON_IMAGE_REFUSED},
		{name: "growing", format: raw, body: good, edit: func(h *driverv1.ImportImageHeader) { h.ContentBytes-- }, want: metav1.Reason_REASON_IMAGE_REFUSED},
		{name: "no format", body: good, want: metav1.Reason_REASON_INVALID_FIELD},
		{name: "foreign mark", format: raw, body: good, edit: func(h *driverv1.ImportImageHeader) { h.Mark.NodeId = "other" }, want: metav1.Reason_REASON_INVALID_FIELD},
		{name: "id is a path", format: raw, body: good, edit: func(h *driverv1.ImportImageHeader) { h.ImageId = "../../../../../../../etc/cron.d/aaaaaaaaa" }, want: metav1.Reason_REASON_INVALID_FIELD},
		{
			name: "broken stream", format: raw, body: good, want: metav1.Reason_REASON_CANCELLED,
			stream: func(b []byte) io.Reader {
				return io.MultiReader(bytes.NewReader(b[:100]), iotest.ErrReader(fault.New(metav1.Reason_REASON_CANCELLED, "client went away")))
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := open(t, t.TempDir())
			h := header(imgA, tc.format, tc.body)
			if tc.edit != nil {
				tc.edit(h)
			}
			body := io.Reader(bytes.NewReader(tc.body))
			if tc.stream != nil {
				body = tc.stream(tc.body)
			}
			_, err := p.ImportImage(context.Background(), h, body)
			want(t, err, tc.want)
			if l := leftovers(t, p); len(l) > 0 {
				t.Error("left behind:", l)
			}
		})
	}
	p := open(t, t.TempDir())
	if img, err := p.ImportImage(context.Background(), header(imgA, qcow, good), bytes.NewReader(good)); err != nil || img.GetVirtualSizeBytes() != 1<<20 {
		t.Error("the good one:", img, err)
	}
	if _, err := p.ImportImage(context.Background(), header(imgA, qcow, good), iotest.ErrReader(errors.New("must not be read"))); err != nil {
		t.Error("repetition:", err)
	}
}

func TestPoolPathAndMarker(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/etc", link); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"/", "", "relative", dir + "/../x", dir + "/", "/etc/pool", link, link + "/pool", dir} {
		want(t, CheckPath(bad, []string{dir}), metav1.Reason_REASON_INVALID_FIELD)
	}
	good := filepath.Join(dir, "pool")
	if err := CheckPath(good, []string{dir}); err != nil {
		t.Error(err)
	}
	open(t, good)
	for _, inside := range []string{good + "/volumes", good + "/volumes/pool", good + "/new"} {
		want(t, CheckPath(inside, []string{dir}), metav1.Reason_REASON_INVALID_FIELD)
	}
	_, err := Open(pool1, dir, owner, Options{}) // a directory with a pool in it
	want(t, err, metav1.Reason_REASON_INVALID_FIELD)
	_, err = Open("00000000-0000-4000-8000-000000000002", good, owner, Options{})
	want(t, err, metav1.Reason_REASON_NOT_OURS)
	foreign := filepath.Join(dir, "foreign")
	if err := os.MkdirAll(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign, "thesis.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(pool1, foreign, owner, Options{})
	want(t, err, metav1.Reason_REASON_INVALID_FIELD)
	if b, err := os.ReadFile(filepath.Join(foreign, "thesis.txt")); err != nil || string(b) != "x" {
		t.Error("a foreign file was touched")
	}
}

// A crash leaves temporary files, or content without a record: opening clears them, and spares what has a record or is not ours.
func TestOpenClearsLeftovers(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	if _, err := p.CreateVolume(context.Background(), create(volA, 1<<20, raw, "")); err != nil {
		t.Fatal(err)
	}
	orphan := "00000000-0000-4000-8000-00000000000f"
	for _, f := range []string{"tmp/" + orphan + "-12.raw", "volumes/" + orphan + ".qcow2", "images/" + orphan + ".raw", "volumes/notes.txt"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p2 := open(t, dir)
	if got := leftovers(t, p2); len(got) != 3 { // volume, its record, notes.txt
		t.Error(got)
	}
	if vs, next, err := p2.ListVolumes("", 10); err != nil || len(vs) != 1 || next != "" {
		t.Error(vs, next, err)
	}
}

func TestListPages(t *testing.T) {
	p := open(t, t.TempDir())
	for _, c := range "0123456789" {
		id := volA[:35] + string(c)
		if _, err := p.CreateVolume(context.Background(), create(id, 1<<20, raw, "")); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	for token := ""; ; {
		vs, next, err := p.ListVolumes(token, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range vs {
			seen = append(seen, v.GetVolumeId())
		}
		if token = next; token == "" {
			break
		}
	}
	if len(seen) != 10 {
		t.Error(seen)
	}
	foreign, err := Open(pool1, p.Path(), Owner{ClusterID: "c", NodeID: "other"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = foreign.Close() }()
	if vs, _, err := foreign.ListVolumes("", 100); err != nil || len(vs) != 0 {
		t.Error("another node lists ours:", vs, err)
	}
	_, err = foreign.GetVolume(seen[0])
	want(t, err, metav1.Reason_REASON_NOT_OURS)
}

// What is wrong with a pool's directory is told apart.
func TestLook(t *testing.T) {
	dir := t.TempDir()
	p := open(t, filepath.Join(dir, "pool"))
	look := func(id, path, reason string) {
		t.Helper()
		if s := Look(id, path); s.GetReason() != reason || (reason == "") != (s.GetHealth() == driverv1.HealthState_HEALTH_STATE_HEALTHY) || reason == "" && s.GetCapacityBytes() == 0 {
			t.Errorf("%v, want %q", s, reason)
		}
	}
	look(pool1, p.Path(), "")
	look(volA, p.Path(), "NOT_OURS")
	look(pool1, dir, "WRONG_STATE")
	look(pool1, filepath.Join(dir, "absent"), "BACKEND_FAILED")
}
