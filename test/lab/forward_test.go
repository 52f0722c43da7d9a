package lab

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"
	"time"
)

// Ports are reached from a node and in a node, and nothing of it outlives the node.
func TestForward(t *testing.T) {
	if err := EnsurePackages(t.Context(), NetworkPackages...); err != nil {
		t.Fatal(err)
	}
	n := testNode(t, "fwd")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("outside")) }))
	defer s.Close()
	u, _ := url.Parse(s.URL)
	port, _ := strconv.Atoi(u.Port())
	if err := n.ForwardIn(t.Context(), port); err != nil {
		t.Fatal(err)
	}
	if out, err := n.Exec(t.Context(), "curl", "-s", "-m", "20", s.URL); err != nil || out != "outside" {
		t.Errorf("from the node: %q, %v", out, err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	inner := free.Addr().(*net.TCPAddr).Port
	_ = free.Close()
	serve := n.Command(t.Context(), "busybox", "httpd", "-f", "-p", fmt.Sprintf("127.0.0.1:%d", inner), "-h", "/etc")
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	for ctx := bootContext(t); !n.listens(inner, true); {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.ForwardOut(t.Context(), inner); err != nil {
		t.Fatal(err)
	}
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/os-release", inner)) //nolint:noctx // ours
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if r.StatusCode != http.StatusOK || len(body) == 0 {
		t.Errorf("into the node: %d, %q", r.StatusCode, body)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	_ = serve.Wait()
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", inner)); err == nil { //nolint:noctx // ours
		_ = c.Close()
		t.Error("something still listens after the node's end")
	}
}
