package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/test/lab"
)

// An image that comes by URL boots a guest. What is not what it was said to be, or lies where users must not reach, is refused with its reason and leaves nothing.
func TestImagesByURL(t *testing.T) {
	s := common(t)
	disk, err := lab.BusyboxDisk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	backed := filepath.Join(t.TempDir(), "backed.qcow2")
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", disk, backed).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	withBacking, err := os.ReadFile(backed)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	serve := func(path string, b []byte) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			_, _ = w.Write(b)
		})
	}
	serve("/good", good)
	serve("/backed", withBacking)
	mux.HandleFunc("/inward", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.2:1/x", http.StatusFound)
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	src := httptest.NewServer(mux)
	defer src.Close()
	sum := func(b []byte) string { h := sha256.Sum256(b); return hex.EncodeToString(h[:]) }

	before := poolFiles(t, s.Dir)
	for name, c := range map[string]struct{ url, sum, format, reason string }{
		"wrong-sum": {src.URL + "/good", sum([]byte("x")), "qcow2", "CHECKSUM_MISMATCH"},
		"backed":    {src.URL + "/backed", sum(withBacking), "qcow2", "IMAGE_REFUSED"},
		"not-qcow2": {src.URL + "/absent", sum(good), "qcow2", "SOURCE_REFUSED"},
		"inward":    {src.URL + "/inward", sum(good), "qcow2", "SOURCE_REFUSED"},
		"file":      {src.URL + "/file", sum(good), "qcow2", "SOURCE_REFUSED"},
		"private":   {"http://10.255.255.1/x", sum(good), "qcow2", "SOURCE_REFUSED"},
	} {
		out, err := s.Command(t.Context(), "image", "import", "bad-"+name, "--url", c.url, "--sha256", c.sum, "--format", c.format).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.reason) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		if out, err := s.Command(t.Context(), "image", "delete", "bad-"+name).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	if after := poolFiles(t, s.Dir); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("left behind: %v, there were %v", after, before)
	}

	run := func(args ...string) {
		t.Helper()
		if out, err := s.Command(t.Context(), args...).CombinedOutput(); err != nil {
			t.Fatalf("lqctl %v: %v: %s", args, err, out)
		}
	}
	run("image", "import", "fetched", "--url", src.URL+"/good", "--sha256", sum(good), "--format", "qcow2")
	run("vm", "create", "from-url", "--memory", "128M", "--image", "fetched")
	awaitConsole(t, s, "from-url", "GUEST-READY")
	g := shellOf(s, "from-url")
	if out := g.run(t, "echo hello"); out != "hello" {
		t.Errorf("the guest says %q", out)
	}
	run("vm", "delete", "from-url")
	run("image", "delete", "fetched")
	if after := poolFiles(t, s.Dir); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("left behind: %v, there were %v", after, before)
	}
}

// poolFiles are the files of the node's pools, but for those that say whose a pool is.
func poolFiles(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "state"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(path, "/pools/") && d.Name() != ".limiquantix-pool" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
