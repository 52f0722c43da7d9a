package fetch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// source is a server with what a source may do.
func source(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(bytes.Repeat([]byte("x"), 100_000))
	})
	mux.HandleFunc("/short", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = w.Write([]byte("x"))
	})
	mux.HandleFunc("/again/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.TrimSuffix(r.URL.Path, "/")+"/x/", http.StatusFound)
	})
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Query().Get("u"), http.StatusFound)
	})
	mux.HandleFunc("/gone", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) })
	mux.HandleFunc("/ill", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) })
	mux.HandleFunc("/zip", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write([]byte("x"))
	})
	mux.HandleFunc("/silent", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("x"))
		w.(http.Flusher).Flush() //nolint:forcetypeassert // it is
		<-r.Context().Done()
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func TestOpen(t *testing.T) {
	t.Parallel()
	s := source(t)
	f := New(loopback)
	r, size, err := f.Open(t.Context(), s.URL+"/ok")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || len(b) != 100_000 || size != 100_000 {
		t.Errorf("%d bytes of %d: %v", len(b), size, err)
	}
	if r, _, err = f.Open(t.Context(), s.URL+"/to?u=/ok"); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	for path, want := range map[string]metav1.Reason{
		"/gone": metav1.Reason_REASON_SOURCE_REFUSED, "/ill": metav1.Reason_REASON_SOURCE_UNAVAILABLE, "/zip": metav1.Reason_REASON_SOURCE_REFUSED,
		"/again/": metav1.Reason_REASON_SOURCE_REFUSED, "/to?u=ftp://127.0.0.1/x": metav1.Reason_REASON_SOURCE_REFUSED,
		"/to?u=file:///etc/passwd": metav1.Reason_REASON_SOURCE_REFUSED, "/to?u=http://10.0.0.1/x": metav1.Reason_REASON_SOURCE_REFUSED,
		"/to?u=http://169.254.169.254/latest": metav1.Reason_REASON_SOURCE_REFUSED,
	} {
		if r, _, err := f.Open(t.Context(), s.URL+path); !fault.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
			if err == nil {
				_ = r.Close()
			}
		}
	}
	if r, _, err = f.Open(t.Context(), s.URL+"/short"); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadAll(r); !fault.Is(err, metav1.Reason_REASON_SOURCE_UNAVAILABLE) {
		t.Errorf("truncated: %v", err)
	}
}

// A source that falls silent is given up, and a cancelled fetch ends at once.
func TestSilence(t *testing.T) {
	t.Parallel()
	s := source(t)
	f := New(loopback)
	f.silence = 50 * time.Millisecond
	r, _, err := f.Open(t.Context(), s.URL+"/silent")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadAll(r); !fault.Is(err, metav1.Reason_REASON_SOURCE_UNAVAILABLE) {
		t.Errorf("silent: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.silence = time.Hour
	if r, _, err = f.Open(ctx, s.URL+"/silent"); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel()
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a cancelled fetch goes on")
	}
}

func TestOnlyPublicAddresses(t *testing.T) {
	t.Parallel()
	s := source(t)
	for _, u := range []string{s.URL + "/ok", strings.Replace(s.URL, "127.0.0.1", "localhost", 1) + "/ok"} {
		if _, _, err := New(nil).Open(t.Context(), u); !fault.Is(err, metav1.Reason_REASON_SOURCE_REFUSED) {
			t.Errorf("%s: %v", u, err)
		}
	}
	for _, u := range []string{"", "ftp://h/x", "file:///etc/passwd", "http://", "http://u:p@h/x", "://", "gopher://h"} {
		if _, _, err := New(loopback).Open(t.Context(), u); !fault.Is(err, metav1.Reason_REASON_SOURCE_REFUSED) {
			t.Errorf("%q: %v", u, err)
		}
	}
	for a, want := range map[string]bool{
		"1.1.1.1": true, "2606:4700::1": true, "127.0.0.1": false, "10.1.2.3": false, "192.168.0.1": false, "172.16.0.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "255.255.255.255": false, "224.0.0.1": false, "::1": false, "::": false, "fe80::1": false, "fc00::1": false, "::ffff:127.0.0.1": false,
		"::ffff:10.0.0.1": false, "64:ff9b::a00:1": false, "2002:a00:1::": false, "198.18.0.1": false,
	} {
		addr := netip.AddrPortFrom(netip.MustParseAddr(a), 80)
		if err := check(addr.String(), nil); (err == nil) != want {
			t.Errorf("%s: %v", a, err)
		}
	}
	if _, err := Networks([]string{"10.0.0.0/8", "x"}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", "x")) {
		t.Errorf("%v", err)
	}
}
