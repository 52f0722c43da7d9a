package command

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
)

func TestImageImport(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(t.TempDir(), "disk")
	content := bytes.Repeat([]byte("limiquantix"), 200_000) // several messages
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	r := b.run("image", "import", "debian", "--file", path, "--format", "raw", "--node", "host1", "--label", "os=debian")
	if r.code != 0 || r.out != "debian imported (1 copy, 0s)\n" {
		t.Fatalf("%+v", r)
	}
	if !bytes.Equal(b.server.Content["debian"], content) || len(b.server.Images[0].GetSpec().GetSha256()) != 64 || b.server.Images[0].GetMeta().GetLabels()["os"] != "debian" {
		t.Errorf("%v", b.server.Images[0])
	}
	if lines := strings.Count(r.err, "debian: uploading: "); lines < 4 || lines > 11 || !strings.Contains(r.err, "100% of 2.1M\n") {
		t.Errorf("%q", r.err)
	}
	if r := b.run("image", "import", "quiet", "--file", path, "--format", "raw", "-q"); r.code != 0 || r.out+r.err != "" {
		t.Errorf("%+v", r)
	}
	b.in = bytes.NewReader(content)
	b.ok("image", "import", "piped", "--file", "-", "--format", "raw")
	if !bytes.Equal(b.server.Content["piped"], content) {
		t.Error("the pipe came in otherwise")
	}
	b.fails(failure.ExitConflict, []string{"image", "import", "debian", "--file", path, "--format", "raw"}, "NAME_TAKEN")
	b.fails(failure.ExitGeneral, []string{"image", "import", "x", "--file", path, "--format", "raw", "--sha256", strings.Repeat("0", 64)}, "CHECKSUM_MISMATCH")
	golden(t, "image-list.txt", b.ok("image", "list"))
	if got := b.ok("image", "delete", "debian", "quiet"); got != "debian deleted (0s)\nquiet deleted (0s)\n" {
		t.Errorf("%q", got)
	}
	b.fails(failure.ExitNotFound, []string{"image", "show", "debian"}, "IMAGE_NOT_FOUND")
}

func TestImageImportOnATerminal(t *testing.T) {
	b := newBench(t)
	b.change = func(a *App) { a.ErrTTY = true }
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r := b.run("image", "import", "debian", "--file", path, "--format", "raw")
	for _, want := range []string{"debian: checksum  [", "debian: uploading  [", "100%  3M of 3M"} {
		if !strings.Contains(r.err, want) {
			t.Errorf("no %q in %q", want, r.err)
		}
	}
	if !strings.HasSuffix(r.err, "\r\x1b[K") {
		t.Errorf("the line is not cleared: %q", r.err)
	}
}

func TestImageImportRefuses(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	qcow2 := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(qcow2, []byte("QFI\xfb\x00\x00\x00\x03"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"--file " + qcow2:               "the file looks like --format qcow2",
		"":                              "give either --file or --url",
		"--file a --url b":              "give either --file or --url",
		"--file a --format vmdk":        `unknown value "vmdk" for --format`,
		"--url http://x/y --format raw": "--url needs --sha256",
		"--file " + qcow2 + " --format raw --sha256 abcd": "is no SHA-256",
		"--file " + dir + " --format raw":                 "is not a regular file",
	} {
		b.fails(failure.ExitUsage, append([]string{"image", "import", "x"}, strings.Fields(args)...), want)
	}
	if b.server.Calls["UploadImage"] != 0 {
		t.Error("something was uploaded")
	}
}
