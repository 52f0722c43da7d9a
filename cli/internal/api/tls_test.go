package api

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// Over https HTTP/2 is spoken, with the CA that was named and no other.
func TestTLS(t *testing.T) {
	t.Parallel()
	proto := make(chan int, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proto <- r.ProtoMajor
		_, _ = w.Write([]byte(`{"version":"9"}`))
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Target{Server: srv.URL, CAFile: ca, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if info, err := c.Info(t.Context()); err != nil || info.Version != "9" || <-proto != 2 {
		t.Errorf("%+v %v", info, err)
	}
	stranger, err := New(Target{Server: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Info(t.Context()); err == nil {
		t.Error("an unknown CA is trusted")
	}
	if _, err := New(Target{Server: "http://192.0.2.1", Token: "t"}); err == nil {
		t.Error("a token would go in the clear")
	}
}
