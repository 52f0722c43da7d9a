package console

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// guest is the other side of a console: one client at a time.
type guest struct {
	listener net.Listener
	path     string
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	g := &guest{path: filepath.Join(t.TempDir(), "tty")}
	var err error
	if g.listener, err = net.Listen("unix", g.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.listener.Close() })
	return g
}

func (g *guest) accept(t *testing.T) net.Conn {
	t.Helper()
	c, err := g.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func open(t *testing.T, m *Mux, g *guest) *Session {
	t.Helper()
	s, err := m.Open(t.Context(), "d", g.path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func want(t *testing.T, s *Session, text string) {
	t.Helper()
	var got []byte
	for len(got) < len(text) {
		select {
		case b, ok := <-s.Output():
			if !ok {
				t.Fatalf("ended after %q: %v", got, s.Err())
			}
			got = append(got, b...)
		case <-time.After(10 * time.Second):
			t.Fatalf("only %q", got)
		}
	}
	if string(got) != text {
		t.Fatalf("%q, want %q", got, text)
	}
}

// All sessions see all output and all can type; the last one to leave ends the connection; the next one opens it anew.
func TestShared(t *testing.T) {
	defer goleak.VerifyNone(t)
	m, g := &Mux{}, newGuest(t)
	defer m.Close()
	a := open(t, m, g)
	far := g.accept(t)
	b := open(t, m, g)
	if _, err := far.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	want(t, a, "hello")
	want(t, b, "hello")
	a.Close()
	a.Close()
	if _, err := b.Write([]byte("typed")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(far, buf); err != nil || string(buf) != "typed" {
		t.Fatalf("%q %v", buf, err)
	}
	b.Close()
	if _, err := far.Read(buf); !errors.Is(err, io.EOF) {
		t.Errorf("connection goes on: %v", err)
	}
	c := open(t, m, g)
	far = g.accept(t)
	_ = far.Close() // the domain ends
	for range c.Output() {
	}
	if c.Err() != nil {
		t.Error(c.Err())
	}
	c.Close()
}

// One who does not take what is printed is told so; the guest and the others go on.
func TestSlowSessionEnds(t *testing.T) {
	defer goleak.VerifyNone(t)
	m, g := &Mux{}, newGuest(t)
	defer m.Close()
	slow := open(t, m, g)
	far := g.accept(t)
	quick := open(t, m, g)
	line := bytes.Repeat([]byte("x"), 1000)
	for range behindMost + 10 {
		if _, err := far.Write(line); err != nil {
			t.Fatal(err)
		}
		want(t, quick, string(line))
	}
	n := 0
	for b := range slow.Output() {
		n += len(b)
	}
	if !errors.Is(slow.Err(), ErrBehind) || n == 0 {
		t.Errorf("after %d bytes: %v", n, slow.Err())
	}
	slow.Close()
	quick.Close()
}

// Nobody listens, or Drop: an error, or the end of all sessions.
func TestAbsentAndDropped(t *testing.T) {
	defer goleak.VerifyNone(t)
	m, g := &Mux{}, newGuest(t)
	defer m.Close()
	if _, err := m.Open(t.Context(), "d", g.path+"x"); err == nil {
		t.Error("no socket: no error")
	}
	s := open(t, m, g)
	g.accept(t)
	m.Drop("d")
	for range s.Output() {
	}
	s.Close()
}
